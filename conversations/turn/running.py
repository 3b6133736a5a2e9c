"""The middle of a turn: ask the provider and tell what arrives. Knows no socket and no HTML."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

from conversations.cancelling import cancelled
from conversations.models import Message
from conversations.turn.events import TextArrived, ThinkingArrived, TurnEnded, TurnEvent
from conversations.turn.guard import Found, Guard, Reading
from conversations.turn.policy import Blocked, Hit, Moderates, Rule
from prompts.catalogue import Offer
from prompts.provider import Finished, Piece, ProviderFault, TextPiece, Usage
from prompts.routing import Answering, Batch

# A provider that never ends must not fill our memory; about 100,000 tokens.
MAX_REPLY_CHARACTERS = 400_000


class Listener(Protocol):
    """Whom a turn tells what arrives (`conversations.reply.delivery.Delivery` is one)."""

    def publish(self, event: TurnEvent) -> None:
        """Take note, without waiting."""

    async def pause(self) -> None:
        """Return when more can be of use."""


class _Story:
    """What is known of a turn while it runs."""

    def __init__(self, publish: Callable[[TurnEvent], None], question: Found) -> None:
        self._publish, self._question = publish, question
        self._began = time.monotonic()
        self.first_token_ms: int | None = None
        self.finish_reason, self.model = "", ""
        self.usage: Usage | None = None
        self.offer: Offer | None = None
        self.hits: Sequence[Hit] = ()
        self.refused_by: Rule | None = None
        self.wrote = False
        self.characters = 0

    def tell(self, piece: Piece) -> None:
        if isinstance(piece, Finished):
            self.finish_reason, self.model = piece.reason, piece.model
            self.usage = piece.usage
            return
        if self.first_token_ms is None:
            self.first_token_ms = self._elapsed_ms()
        self.characters += len(piece.text)
        if isinstance(piece, TextPiece):
            self.wrote = True
            self._publish(TextArrived(piece.text))
        else:
            self._publish(ThinkingArrived(piece.text))

    def end(self, outcome: Message.State, fault: str = "") -> TurnEnded:
        return TurnEnded(
            outcome,
            fault=fault,
            finish_reason=self.finish_reason,
            model=self.model or (self.offer.remote_name if self.offer else ""),
            offer=self.offer,
            hits=self.hits,
            refused_by=self.refused_by,
            question=self._question,
            usage=self.usage,
            first_token_ms=self.first_token_ms,
            duration_ms=self._elapsed_ms(),
        )

    def natural_end(self) -> TurnEnded:
        if not self.wrote and self.finish_reason != "content_filter":
            return self.end(Message.State.FAILED, "empty")
        if self.finish_reason == "content_filter":
            return self.end(Message.State.REFUSED, "content_filter")
        return self.end(Message.State.COMPLETED)

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


EndedFromOutside = tuple[Message.State, str]
"""Outcome and fault code of an end that somebody else decided: stopped, or interrupted."""


async def run_turn(
    stream: AsyncGenerator[Batch, None],
    guard: Guard,
    *,
    moderator: Moderates,
    listener: Listener,
    until: "asyncio.Future[EndedFromOutside]",
) -> TurnEnded:
    """Tell what arrives in `stream`, as far as `guard` lets it, until it ends, fails, or `until` is
    decided.

    Whatever happens, the request upstream is closed when this returns. Never raises ProviderFault
    or Blocked: they are ends like others.
    """
    story = _Story(listener.publish, guard.found)
    reading = guard.reading(moderator)
    asking = asyncio.create_task(_ask(stream, reading, story, listener.pause))
    either: set[asyncio.Future[Any]] = {asking, until}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not asking.done():
        await cancelled({asking})
        story.hits = reading.hits
        if not reading.releases_sentences:  # judging what is left would keep the person waiting
            await _tell_rest(reading, story)
        return story.end(*until.result())
    story.hits = reading.hits
    try:
        asking.result()
    except Blocked as blocked:
        story.hits = _together(reading.hits, blocked.hits)
        story.refused_by = blocked.rule
        return story.end(Message.State.REFUSED, "policy")
    except ProviderFault as fault:
        await _tell_rest(reading, story)
        return story.end(Message.State.FAILED, fault.code)
    return story.natural_end()


async def _tell_rest(reading: Reading, story: _Story) -> None:
    """Tell what was held back when the reply ended early, if it may be shown."""
    with suppress(ProviderFault):  # what can't be judged stays hidden
        try:
            for piece in await reading.rest():
                story.tell(piece)
            story.hits = reading.hits
        except Blocked as blocked:
            story.hits = _together(reading.hits, blocked.hits)


def _together(found: Sequence[Hit], at_the_end: Sequence[Hit]) -> list[Hit]:
    """Return all hits, those of the last moment once: they may be counted among the others."""
    return [*(hit for hit in found if hit not in at_the_end), *at_the_end]


async def _ask(
    stream: AsyncGenerator[Batch, None],
    reading: Reading,
    story: _Story,
    pause: Callable[[], Awaitable[None]],
) -> None:
    async with aclosing(stream) as batches:
        await reading.judge_question()
        try:
            async for pieces in batches:
                await _tell(pieces, reading, story)
                if story.characters > MAX_REPLY_CHARACTERS:
                    story.finish_reason = "length"
                    await _tell_rest(reading, story)
                    return
                await pause()
        except Blocked as blocked:
            if blocked.before:
                story.tell(TextPiece(blocked.before))
            raise


async def _tell(batch: Batch, reading: Reading, story: _Story) -> None:
    pieces: list[Piece] = []
    for piece in batch:
        if isinstance(piece, Answering):
            story.offer = piece.offer
        else:
            pieces.append(piece)
    async with aclosing(reading.passed(pieces)) as passed:
        async for piece in passed:
            story.tell(piece)
