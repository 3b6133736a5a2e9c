"""The beginning of a turn: one transaction that holds the question and its reply, or nothing.

Whoever asks (page, API, test) calls these verbs; each carries permission, change and trail.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from accounts.access import require
from accounts.models import User
from audit.trail import record
from conversations.encryption import content_digest
from conversations.models import Conversation, Message
from conversations.retention.policies import class_for
from conversations.turn.budget import reserve, settle_title
from conversations.turn.context import Told, told_for
from conversations.turn.counting import ended_turn, goes_on
from conversations.turn.guard import Guard
from conversations.turn.refusal import Refusal
from conversations.turn.screening import Sanitised, sanitised
from conversations.turn.working_context import WorkingContext, recalled
from prompts.catalogue import NotOffered, Offer, offer_for
from prompts.provider import ChatMessage
from prompts.release.arms import Pin, pinned_first
from prompts.serving import (
    Chosen,
    NoLiveVersion,
    NotOnOffer,
    Wording,
    choose,
    chosen_before,
    wording_again,
    wording_for,
)

MAX_KEY_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Program:
    """What a program brings with its question.

    `history` is what was said before in the program's own memory: it is stored as the beginning of
    a conversation that does not exist yet. `parameters` go to the provider as they are, but for
    `max_tokens`, which can only lower what is reserved. `model` is a slug; empty: the prompt's.
    """

    token_id: uuid.UUID
    history: Sequence[ChatMessage] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a provider, and of which; at most `max_tokens` were reserved.

    `earlier` are the rows of what was said before the question, for the next turn.
    """

    offer: Offer
    messages: list[ChatMessage]
    max_tokens: int
    guard: Guard
    parameters: Mapping[str, Any] = field(default_factory=dict)
    earlier: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its reply, in their conversation. Without `call` it was there already.

    `remark` tells the person what was taken out of the question; mostly empty.
    """

    conversation: Conversation
    question: Message
    reply: Message
    call: Call | None
    remark: str = ""

    @property
    def is_new(self) -> bool:
        """Whether this began it, so that its reply is to be written now."""
        return self.call is not None


def checked_question(text: str) -> Sanitised:
    """Return the question as it will be stored. Raises Refusal when it is empty or too long."""
    said = sanitised(text.strip())
    if not said.text.strip():
        raise Refusal("empty", "There is nothing to send yet.", "Write a message first.")
    if said.excess:
        raise Refusal("too_long", "The message is too long.", said.excess)
    return said


class _Collision(Exception):
    """The key has made a turn before, or another reply is open."""


def start_turn(  # noqa: PLR0913 - each named where it is called
    conversation_id: uuid.UUID,
    *,
    by: User,
    text: str,
    key: str,
    runner_id: uuid.UUID,
    program: Program | None = None,
    template: str = "",
    temporary: bool = False,
) -> Turn:
    """Store the question and an empty reply that `runner_id` is to write.

    A conversation that does not exist yet begins here, with the `template` of this slug, and as a
    `temporary` one if that is wanted. The same `key` again returns the turn that it made. Raises
    Refusal, `Denied`, and
    Conversation.DoesNotExist for somebody else's.
    """
    require(by, "conversations.chat")
    key = key[:MAX_KEY_CHARACTERS]
    kept = recalled(conversation_id)
    try:
        # A collision undoes all of it: a savepoint would cost every turn two statements.
        with transaction.atomic():
            beginning = _Beginning(template, temporary)
            return _started(conversation_id, by, text, key, runner_id, program, kept, beginning)
    except _Collision:
        return _standing_turn(Conversation.objects.visible_to(by).get(pk=conversation_id), key)


def _started(  # noqa: PLR0913, PLR0917 - those of start_turn
    conversation_id: uuid.UUID,
    by: User,
    text: str,
    key: str,
    runner_id: uuid.UUID,
    program: Program | None,
    kept: WorkingContext | None,
    beginning: "_Beginning",
) -> Turn:
    said = checked_question(text)
    conversation, chosen = _locked(conversation_id, by, beginning)
    conversation.owner = by  # the same, and come with their roles
    if program and conversation.leaf_id is None:
        _store_history(conversation, program.history)
    wording = _wording(conversation, chosen)
    question = Message(
        conversation=conversation,
        parent_id=conversation.leaf_id,
        role=Message.Role.USER,
        state=Message.State.SAID,
        key=key,
    )
    question.content = said.text
    reply = Message(
        conversation=conversation,
        parent=question,
        role=Message.Role.ASSISTANT,
        state=Message.State.STREAMING,
    )
    _told_by(reply, wording)
    asked_for = program.parameters if program else {}
    reply.asked_parameters = _numbers(asked_for)
    guard = Guard.of(conversation, by)
    guard.admit(said.text, conversation, by=by, turn=reply.pk)
    if program and program.model:
        wording = replace(wording, model=program.model)
    offer, told = asked_of(by, question, reply, guard, wording, kept)
    claim_run(conversation, reply, runner_id)
    try:
        Message.objects.bulk_create([question, reply])
    except IntegrityError as error:
        raise _Collision from error
    save_leaf(conversation, reply)
    record(
        by,
        "turn.started",
        conversation,
        turn=reply.pk,
        reply=str(reply.pk),
        prompt=str(wording.version.pk) if wording.version else "",
        question_digest=content_digest(said.text, question.seal_key()),
    )
    call = call_for(by, reply, offer, told, guard, wording, asked_for)
    return Turn(conversation, question, reply, call, said.sentence)


def continue_turn(
    conversation_id: uuid.UUID, reply_id: uuid.UUID, *, by: User, runner_id: uuid.UUID
) -> Turn:
    """Let a reply that ended early go on behind its text, or begin anew when it has none.

    Raises Refusal, `Denied`, and DoesNotExist for what is not there or somebody else's.
    """
    require(by, "conversations.chat")
    kept = recalled(conversation_id)
    with transaction.atomic():
        return _continued(conversation_id, reply_id, by, runner_id, kept)


def _continued(
    conversation_id: uuid.UUID,
    reply_id: uuid.UUID,
    by: User,
    runner_id: uuid.UUID,
    kept: WorkingContext | None,
) -> Turn:
    conversation = Conversation.objects.visible_to(by).select_for_update().get(pk=conversation_id)
    said = conversation.shown_messages().linked()
    reply = said.select_related("parent", "prompt_version__template", "feedback").get(
        pk=reply_id, role=Message.Role.ASSISTANT
    )
    if not reply.takes_text:
        raise Message.DoesNotExist
    if reply.is_open:  # a double click, or another tab was quicker
        return Turn(conversation, _question_of(reply), reply, None)
    if reply.pk != conversation.leaf_id or not can_continue(reply):
        raise Refusal(
            "not_continuable",
            "This reply can't be continued.",
            "Only the last reply of a conversation can, and only when it ended early.",
        )
    reply.conversation = conversation
    before = ended_turn(reply)
    reply.state = Message.State.STREAMING
    reply.fault = reply.finish_reason = ""
    reply.refused_by = None
    reply.stop_requested_at = reply.ended_at = None
    reply.cursor = 0
    conversation.owner = by  # the same, and come with their roles
    guard = Guard.of(conversation, by)
    wording = _wording_again(reply, conversation)
    if wording.version != reply.prompt_version:
        _told_by(reply, wording)
    offer, told = asked_of(by, _question_of(reply), reply, guard, wording, kept)
    title_is_made = reply.runner_id is not None
    claim_run(conversation, reply, runner_id)
    reply.save()
    goes_on(before)
    save_leaf(conversation, reply)
    record(by, "turn.continued", conversation, turn=reply.pk, reply=str(reply.pk))
    if title_is_made:  # what is held for it gives way
        settle_title(reply, None, now=datetime.now(UTC))
    call = call_for(by, reply, offer, told, guard, wording, reply.asked_parameters)
    return Turn(conversation, _question_of(reply), reply, call)


@transaction.atomic
def request_stop(conversation_id: uuid.UUID, *, by: User) -> Message | None:
    """Note that the open reply is to stop and return it; None when no reply is open.

    Raises Conversation.DoesNotExist for somebody else's.
    """
    conversation = Conversation.objects.visible_to(by).get(pk=conversation_id)
    reply = conversation.messages.select_for_update().filter(state=Message.State.STREAMING).first()
    if reply and reply.stop_requested_at is None:
        reply.stop_requested_at = datetime.now(UTC)
        reply.save(update_fields=["stop_requested_at"])
        record(by, "turn.stop_requested", conversation, turn=reply.pk, reply=str(reply.pk))
    return reply


def can_continue(reply: Message) -> bool:
    """Whether the reply ended before its natural end, so that more could come.

    What can't be read can't be continued: its text would be overwritten. Nor can what has outlived
    its question, or the key of its day.
    """
    if reply.follows is None:
        return False
    ended_early = {Message.State.STOPPED, Message.State.FAILED, Message.State.INTERRUPTED}
    if reply.state not in ended_early and reply.finish_reason != "length":
        return False
    return reply.takes_text and reply.shown_content is not None


class _Beginning(NamedTuple):
    """What was chosen for a conversation, should it begin with this question."""

    template: str
    temporary: bool


def _locked(
    conversation_id: uuid.UUID, by: User, beginning: _Beginning
) -> tuple[Conversation, Chosen | None]:
    """Return the conversation with its row locked; it begins here if nobody has it, and then with
    the template that was chosen."""
    mine = Conversation.objects.visible_to(by).select_for_update()
    for conversation in mine.filter(pk=conversation_id):
        _refuse_archived(conversation)
        return conversation, None
    chosen = _chosen(by, beginning.template)
    pin = pinned_first(chosen.release, by)
    made = Conversation(
        pk=conversation_id,
        owner=by,
        template_id=chosen.id,
        retention_class=class_for(by, temporary=beginning.temporary),
        release_id=pin.release_id,
        arm=pin.arm if pin.release_id else "",
    )
    # Two first messages at once: the second waits here for the first, and then finds its row.
    Conversation.objects.bulk_create([made], ignore_conflicts=True)
    conversation = mine.get(pk=conversation_id)
    if conversation.fence == 0:
        record(by, "conversation.created", conversation)
    return conversation, chosen if chosen.id == conversation.template_id else None


def _chosen(by: User, template: str) -> Chosen:
    try:
        return choose(by, template)
    except NotOnOffer as error:
        raise Refusal(
            "no_template",
            "This template is not on offer for you.",
            "Nothing was sent. Choose another one beside your message.",
        ) from error


def _wording(conversation: Conversation, chosen: Chosen | None) -> Wording:
    try:
        pin = Pin(conversation.release_id, conversation.arm)
        return wording_for(chosen or chosen_before(conversation.template_id), pin)
    except NoLiveVersion as error:
        raise _no_prompt() from error


def _wording_again(reply: Message, conversation: Conversation) -> Wording:
    try:
        pin = Pin(conversation.release_id, conversation.arm)
        return wording_again(reply.prompt_version, conversation.template_id, pin)
    except NoLiveVersion as error:
        raise _no_prompt() from error


def _told_by(reply: Message, wording: Wording) -> None:
    """Note in the reply which version it is told, and why that one."""
    reply.prompt_version = wording.version
    reply.release_id, reply.arm = wording.pin
    reply.is_fallback = wording.is_fallback


def _numbers(parameters: Mapping[str, Any]) -> dict[str, int | float]:
    """Leave texts out, such as those at which a reply is to stop: they are what somebody says."""
    return {
        name: value
        for name, value in parameters.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _no_prompt() -> Refusal:
    return Refusal(
        "no_prompt",
        "There is no published prompt to answer with.",
        "Nothing was sent. A prompt publisher has to publish one.",
    )


def _refuse_archived(conversation: Conversation) -> None:
    if conversation.lifecycle == Conversation.Lifecycle.ARCHIVED:
        raise Refusal(
            "archived",
            "This conversation is archived.",
            "Nothing was sent. Take it out of the archive first, or begin a new one.",
        )


def _store_history(conversation: Conversation, history: Sequence[ChatMessage]) -> None:
    """Store what a program says was said before, as a branch that the question continues."""
    parent_id, said = None, []
    for told in history:
        is_reply = told["role"] == Message.Role.ASSISTANT
        message = Message(
            conversation=conversation,
            parent_id=parent_id,
            role=told["role"],
            state=Message.State.COMPLETED if is_reply else Message.State.SAID,
        )
        message.content = told["content"]
        said.append(message)
        parent_id = message.pk
    Message.objects.bulk_create(said)
    conversation.leaf_id = parent_id


def _standing_turn(conversation: Conversation, key: str) -> Turn:
    """Return the turn that this key made. Raises Refusal: another reply is open."""
    question = conversation.shown_messages().filter(key=key).first()
    if question:
        replies = question.children.select_related("prompt_version__template")
        return Turn(conversation, question, replies.latest("created_at"), None)
    raise Refusal(
        "reply_open",
        "A reply is still being written.",
        "Your message is kept here. Send it when the reply has ended, or stop the reply first.",
    )


def asked_of(  # noqa: PLR0913, PLR0917 - all that a turn has by then
    by: User,
    question: Message,
    reply: Message,
    guard: Guard,
    wording: Wording,
    kept: WorkingContext | None = None,
) -> tuple[Offer, Told]:
    """Choose who is to answer and what they are told. Raises Refusal."""
    try:
        offer = offer_for(by, wording.model)
    except NotOffered as error:
        raise Refusal(
            "no_model",
            "No model answers you at the moment.",
            f"{error} Nothing was sent; an administrator decides which models are on offer.",
        ) from error
    # Nobody could say what a reply of a model without a price costs.
    priced = tuple(each for each in offer.fallbacks if each.price)
    offer = replace(offer, fallbacks=priced)
    told = told_for(wording.text, reply, question, offer, guard, kept)
    reply.model, reply.asked_model = offer.remote_name, ""
    reply.turns_left_out = told.turns_left_out
    return offer, told


def call_for(  # noqa: PLR0913, PLR0917 - what a call is made of
    by: User,
    reply: Message,
    offer: Offer,
    told: Told,
    guard: Guard,
    wording: Wording,
    asked_for: Mapping[str, Any] = MappingProxyType({}),
) -> Call:
    """Reserve what the reply may cost, and return the call. What a program asks for comes first;
    of two limits of the reply the lower holds. Raises Refusal."""
    parameters = {**wording.parameters, **asked_for}
    limits = [each.get("max_tokens") for each in (wording.parameters, asked_for)]
    parameters.pop("max_tokens", None)
    at_most = min((limit for limit in limits if limit), default=None)
    max_tokens = reserved(by, reply, offer, told.tokens, at_most=at_most)
    return Call(offer, told.messages, max_tokens, guard, parameters, told.earlier)


def reserved(
    by: User, reply: Message, offer: Offer, tokens_told: int, *, at_most: int | None = None
) -> int:
    """Reserve what a call for `reply` may cost and return the most tokens that it may answer with.

    The last of the transaction, for the order of locks. Raises Refusal.
    """
    granted = reserve(
        reply,
        user=by,
        offer_price=offer.price,
        tokens_in_estimate=tokens_told,
        max_output_tokens=min(offer.max_output_tokens, at_most or offer.max_output_tokens),
        now=datetime.now(UTC),
        fallback_prices=[each.price for each in offer.fallbacks if each.price],
    )
    return granted.max_tokens


def claim_run(conversation: Conversation, reply: Message, runner_id: uuid.UUID) -> None:
    """Give the reply a new run: a higher fence than any before, and its runner."""
    conversation.fence += 1
    reply.fence = conversation.fence
    reply.runner_id = runner_id


def save_leaf(conversation: Conversation, reply: Message) -> None:
    conversation.leaf = reply
    conversation.last_message_at = conversation.last_seen = datetime.now(UTC)
    names = ("leaf", "fence", "last_message_at", "last_seen")
    Conversation.objects.filter(pk=conversation.pk).update(
        **{name: getattr(conversation, name) for name in names}
    )


def _question_of(reply: Message) -> Message:
    assert reply.parent is not None, "a reply has a question"
    return reply.parent
