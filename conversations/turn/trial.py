"""A wording that is tried in the playground: one question and one reply, guarded like any turn.

It is a conversation of its own, which no list shows and nobody goes on with: so limits, rules,
personal data, budgets, the reaper and retention need to know nothing about playgrounds.
"""

import uuid

from django.db import transaction

from accounts.access import require
from accounts.models import User
from audit.trail import record
from conversations.encryption import content_digest
from conversations.models import Conversation, Message, RetentionClass
from conversations.turn.guard import Guard
from conversations.turn.opening import (
    Turn,
    asked_of,
    call_for,
    checked_question,
    claim_run,
    save_leaf,
)
from prompts.serving import Wording

_TITLE = "Playground"  # one that is there, so that no model is paid for another


@transaction.atomic
def start_trial(wording: Wording, text: str, *, by: User, runner_id: uuid.UUID) -> Turn:
    """Store the question and an empty reply to it under `wording`. Raises Refusal and `Denied`."""
    require(by, "conversations.chat")
    said = checked_question(text)
    conversation = Conversation(owner=by, is_trial=True, retention_class=RetentionClass.TEMPORARY)
    conversation.title = _TITLE
    question = Message(conversation=conversation, role=Message.Role.USER, state=Message.State.SAID)
    question.content = said.text
    reply = Message(
        conversation=conversation,
        parent=question,
        role=Message.Role.ASSISTANT,
        state=Message.State.STREAMING,
        prompt_version=None if not wording.version or wording.version.is_draft else wording.version,
    )
    guard = Guard.of(conversation, by)
    guard.admit(said.text, conversation, by=by, turn=reply.pk)
    offer, told = asked_of(by, question, reply, guard, wording)
    claim_run(conversation, reply, runner_id)
    conversation.save(force_insert=True)
    Message.objects.bulk_create([question, reply])
    save_leaf(conversation, reply)
    record(
        by,
        "turn.started",
        conversation,
        turn=reply.pk,
        reply=str(reply.pk),
        prompt=str(reply.prompt_version_id or ""),
        question_digest=content_digest(said.text, question.seal_key()),
    )
    call = call_for(by, reply, offer, told, guard, wording)
    return Turn(conversation, question, reply, call, said.sentence)
