"""A conversation's title, made by the model out of the first question and reply."""

import uuid
from contextlib import aclosing
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import QuerySet

from chatbot.database import db_patiently
from conversations.models import Conversation, Message
from conversations.turn.budget import UNBILLED_FAULTS, settle_title
from conversations.turn.opening import Call, Turn, reserved
from conversations.turn.policy import Blocked
from conversations.turn.refusal import Refusal
from conversations.turn.tokens import estimated_tokens_told
from prompts import routing
from prompts.provider import ChatMessage, Finished, ProviderFault, TextPiece, Usage

MAX_TITLE_CHARACTERS = 80
MAX_TITLE_TOKENS = 120
_EXCERPT_CHARACTERS = 600
_ASK = (
    "Give this conversation a title of two to six words, in its language."
    " Answer with the title alone: no quotation marks, no full stop."
)


async def title_if_first(
    turn: Turn, runner_id: uuid.UUID, *, by_model: bool
) -> Conversation | None:
    """Give the conversation a title if it has none; return it then, with its title.

    Without a model, with one that fails or where the budget does not reach, the first words of the
    question are the title, and so they are of a temporary conversation. What the title costs counts
    in the budget, not as the reply's. While the model is asked the reply belongs to `runner_id`, so
    that others see when it died.
    """
    if turn.conversation.title_sealed:
        return None
    plain = first_words(turn.question.shown_content or "")
    # Nobody looks for a temporary conversation in a list.
    by_model = by_model and not turn.conversation.is_temporary
    call = await db_patiently(_call_for_title)(turn, runner_id) if by_model else None
    if call is None:
        return await db_patiently(_store)(turn, plain)
    title, usage = await _ask_for_title(call)
    return await db_patiently(_store_and_settle)(turn, runner_id, title or plain, usage)


def _call_for_title(turn: Turn, runner_id: uuid.UUID) -> Call | None:
    assert turn.call is not None, "a title is given by who wrote the reply"
    offer = turn.call.offer
    guard = turn.call.guard
    messages: list[ChatMessage] = [
        {"role": "system", "content": _ASK},
        {"role": "user", "content": guard.hidden(turn.question)[:_EXCERPT_CHARACTERS]},
        {"role": "assistant", "content": guard.hidden(turn.reply)[:_EXCERPT_CHARACTERS]},
        {"role": "user", "content": "Now give the title."},
    ]
    try:
        with transaction.atomic():
            if not _run_of(turn).update(runner=runner_id):
                return None
            max_tokens = reserved(
                turn.conversation.owner,
                turn.reply,
                offer,
                estimated_tokens_told(messages),
                at_most=MAX_TITLE_TOKENS,
            )
    except Refusal:
        return None
    return Call(offer, messages, max_tokens, guard)


async def _ask_for_title(call: Call) -> tuple[str, Usage | None]:
    text, usage = "", None
    try:
        asked = routing.stream(call.offer, call.messages, max_tokens=call.max_tokens)
        async with aclosing(asked) as batches:
            async for pieces in batches:
                text += "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
                if isinstance(pieces[-1], Finished):
                    usage = pieces[-1].usage
                if len(text) > 4 * MAX_TITLE_CHARACTERS:
                    break
    except ProviderFault as fault:
        return "", Usage(0, 0, 0) if fault.code in UNBILLED_FAULTS else usage
    try:
        return _cleaned(call.guard.shown(text)), usage
    except Blocked:
        return "", usage


def _cleaned(text: str) -> str:
    first_line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _shortened(first_line.removeprefix("Title:").strip(" \"'“”‘’«»*#`."))


def first_words(question: str) -> str:
    """Return a title out of the question itself."""
    return _shortened(" ".join(question.split()))


def _shortened(text: str) -> str:
    if len(text) <= MAX_TITLE_CHARACTERS:
        return text
    return text[: MAX_TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


@transaction.atomic
def _store_and_settle(
    turn: Turn, runner_id: uuid.UUID, title: str, usage: Usage | None
) -> Conversation | None:
    stored = _store(turn, title)
    # Else the reply is being continued, or this process was taken for dead: settled by others.
    if _run_of(turn).filter(runner=runner_id).update(runner=None):
        settle_title(turn.reply, usage, now=datetime.now(UTC))
    return stored


def _run_of(turn: Turn) -> QuerySet[Message]:
    """The reply, unless it was continued since: then what is held is held for that."""
    closed = Message.objects.exclude(state=Message.State.STREAMING)
    return closed.filter(pk=turn.reply.pk, fence=turn.reply.fence)


def _store(turn: Turn, title: str) -> Conversation | None:
    conversation = turn.conversation
    conversation.title = title
    stored = Conversation.objects.filter(pk=conversation.pk, title_sealed=b"").update(
        title_sealed=conversation.title_sealed
    )
    return conversation if stored else None
