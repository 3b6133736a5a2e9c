"""What the provider is told: the prompt, then the branch of messages up to the reply."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conversations.models import Conversation, Message
from conversations.turn.guard import Guard
from conversations.turn.refusal import Refusal
from conversations.turn.tokens import estimated_tokens_told
from conversations.turn.working_context import COLUMNS, WorkingContext
from prompts.catalogue import Offer
from prompts.provider import ChatMessage

CONTINUE = "Continue exactly where you stopped. Repeat nothing and do not comment on the pause."


@dataclass(frozen=True, slots=True)
class Told:
    """The messages that ask for a reply, oldest first, and how many tokens they are, estimated.

    `turns_left_out` turns at the beginning of the conversation did not fit. `earlier` are the
    messages before the question, of which the rows hold what a turn needs.
    """

    messages: list[ChatMessage]
    tokens: int
    turns_left_out: int
    earlier: Sequence[Message]


def told_for(  # noqa: PLR0913, PLR0917 - all that a turn has by then
    prompt: str,
    reply: Message,
    question: Message,
    offer: Offer,
    guard: Guard,
    kept: WorkingContext | None = None,
) -> Told:
    """Return what asks `offer` for this reply to `question`, the row of neither need be stored.

    Everything but `prompt` goes through `guard`, oldest first.
    Whole turns are left out, oldest first, until the rest fits the model's window beside the reply.
    Raises Refusal when the question alone does not. One query; none in a new conversation, or where
    `kept` holds the branch.
    """
    system: list[ChatMessage] = [{"role": "system", "content": prompt}]
    earlier = _earlier(reply.conversation, question, kept)
    turns = _turns(earlier, guard)
    asked: list[ChatMessage] = [{"role": "user", "content": guard.hidden(question)}]
    if reply.content_sealed:
        asked += [
            {"role": "assistant", "content": guard.hidden(reply)},
            {"role": "user", "content": CONTINUE},
        ]
    # Whoever stands in must be able to take it too.
    whole = min(_room(each) for each in (offer, *offer.fallbacks))
    room = whole - estimated_tokens_told([*system, *asked])
    if room < 0:
        raise Refusal(
            "too_long",
            "The message is too long for the model.",
            f"{offer.label} takes about {whole:,} tokens at once. Nothing was sent."
            " Shorten it, or send it in parts.",
        )
    fitting = _newest_that_fit(turns, room)
    messages = [*system, *(message for turn in fitting for message in turn), *asked]
    left_out = len(turns) - len(fitting)
    return Told(messages, estimated_tokens_told(messages), left_out, earlier)


def _room(offer: Offer) -> int:
    """Tokens for what is told; at least half of the window, whatever a reply may have."""
    return offer.context_window - min(offer.max_output_tokens, offer.context_window // 2)


def _earlier(
    conversation: Conversation, question: Message, kept: WorkingContext | None
) -> Sequence[Message]:
    if question.parent_id is None:
        return []
    if kept:
        known = kept.leading_to(question.parent_id, conversation)
        if known is not None:
            return known
    said = conversation.shown_messages().only(*COLUMNS)
    return branch(said, question.parent_id)


def _turns(messages: Iterable[Message], guard: Guard) -> list[list[ChatMessage]]:
    """Return the messages with their replies; what stands before the first question is a turn."""
    turns: list[list[ChatMessage]] = []
    for message in messages:
        text = guard.hidden(message)
        if not text:
            continue
        if message.role == Message.Role.USER or not turns:
            turns.append([])
        turns[-1].append({"role": message.role, "content": text})
    return turns


def _newest_that_fit(turns: Sequence[list[ChatMessage]], room: int) -> Sequence[list[ChatMessage]]:
    for start in range(len(turns) - 1, -1, -1):
        room -= estimated_tokens_told(turns[start])
        if room < 0:
            return turns[start + 1 :]
    return turns


def branch(messages: Iterable[Message], leaf_id: uuid.UUID | None) -> list[Message]:
    """Return the messages from the first one to `leaf_id`, following the parents."""
    by_id = {message.pk: message for message in messages}
    path: list[Message] = []
    while leaf_id is not None and leaf_id in by_id:
        path.append(by_id[leaf_id])
        leaf_id = path[-1].parent_id
    return path[::-1]
