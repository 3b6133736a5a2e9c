"""The one loop that asks again: attempts, pauses, breaker, fallbacks. Nothing else retries.

    async with aclosing(stream(offer, messages, max_tokens=500)) as batches:
        async for pieces in batches: …          # the first list begins with `Answering`

A reply is asked for again only before its first piece: what a reader has seen is never unsaid.

    fault                                       the same model again    the next model
    unreachable, busy, failing, cut, empty      yes                     then
    timeout, stalled                            no, it had its time     at once
    garbled, untrusted, resting, 404            no, it will be the same at once
    401, 402: our key                           no                      at once, with another key
    403                                         no                      at once
    rejected: any other 4xx, of our making      no                      no, it would refuse too

Pauses double from BACKOFF_SECONDS up to BACKOFF_CAP_SECONDS, each drawn between nothing and that
(full jitter), so that many turns do not come back at once. A provider's Retry-After is honoured up
to PROVIDER_RETRY_AFTER_SECONDS; a longer one sends us on to the next model. Everything before the
first piece has PROVIDER_PATIENCE_SECONDS together, a reply PROVIDER_REPLY_SECONDS.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings

from chatbot import telemetry
from prompts import breaker
from prompts.breaker import Breaker
from prompts.catalogue import Offer
from prompts.keys import forget_key, key_of
from prompts.provider import ChatMessage, Piece, ProviderFault, close_providers, provider_at

logger = structlog.get_logger(__name__)

BACKOFF_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 8.0

_TRANSIENT = {"unreachable", "busy", "failing", "cut", "empty"}
# What says something about the model and not about our request or our key.
_COUNTED = _TRANSIENT | {"timeout", "stalled", "garbled", "untrusted"}


@dataclass(frozen=True, slots=True)
class Answering:
    """Which model answers, and how many requests that took over all models."""

    offer: Offer
    attempts: int


Batch = list[Piece | Answering]


async def stream(
    offer: Offer, messages: Sequence[ChatMessage], *, max_tokens: int, **parameters: Any
) -> AsyncGenerator[Batch, None]:
    """Ask until somebody answers, and yield the reply as it arrives, at most `max_tokens` long and
    never longer than the model that answers may write.

    The first list begins with `Answering`. Raises the ProviderFault of the last attempt. Leaving
    the generator closes the request upstream: hold it in `aclosing`.
    """
    course = Course(offer)
    while True:
        answered = False
        try:
            request = _attempt(course, messages, max_tokens, parameters)
            async with aclosing(request) as batches:
                async for pieces in batches:
                    head = [] if answered else [_began(course, offer)]
                    answered = True
                    yield [*head, *pieces]
                return
        except ProviderFault as fault:
            _note(course, fault)
            wait_seconds = None if answered else course.after(fault)
            if wait_seconds is None:
                raise
        await asyncio.sleep(wait_seconds)


async def close() -> None:
    """Close all connections of this event loop, to providers and to Redis."""
    await close_providers()
    await breaker.close()


def _began(course: "Course", chosen: Offer) -> Answering:
    """Say who answers, and count it when that is somebody else."""
    if course.offer.slug != chosen.slug:
        telemetry.fallbacks.labels(chosen.slug).inc()
    return Answering(course.offer, course.attempts)


def _note(course: "Course", fault: ProviderFault) -> None:
    """Log and count a fault, each once."""
    telemetry.provider_faults.labels(course.offer.slug, fault.code).inc()
    logger.warning(
        "provider_fault",
        model=course.offer.slug,
        code=fault.code,
        status=fault.status,
        attempts=course.attempts,
    )


# --- one attempt -----------------------------------------------------------------------------


async def _attempt(
    course: "Course", messages: Sequence[ChatMessage], max_tokens: int, parameters: dict[str, Any]
) -> AsyncGenerator[list[Piece], None]:
    """Ask one model once; its breaker decides whether, and learns how it went."""
    offer, gate = course.offer, Breaker.of(course.offer)
    try:
        await gate.enter()
    except breaker.Open as is_open:
        raise ProviderFault("resting", retry_after=is_open.retry_after) from is_open
    course.attempts += 1
    try:
        provider = provider_at(offer.base_url, await key_of(offer.secret_name))
        most = min(max_tokens, offer.max_output_tokens)
        told = {**parameters, _limit_name(offer): most}
        batches = provider.stream(messages, model=offer.remote_name, **told)
        async with aclosing(batches):
            pieces = await _first(batches, course.patience_left())
            await gate.succeeded()
            yield pieces
            async for pieces in batches:
                course.check_length()
                yield pieces
    except ProviderFault as fault:
        if fault.status == 401:
            forget_key(offer.secret_name)
        # A refusal of our request or our key shows that the model is there.
        await (gate.failed() if fault.code in _COUNTED else gate.succeeded())
        raise


async def _first(batches: AsyncGenerator[list[Piece], None], seconds: float) -> list[Piece]:
    try:
        async with asyncio.timeout(seconds):
            return await anext(batches)
    except TimeoutError as error:
        raise ProviderFault("timeout") from error


def _limit_name(offer: Offer) -> str:
    """Return what the server calls the limit of a reply's tokens.

    OpenAI and Azure have replaced `max_tokens`, and newer models there refuse it; all other
    servers know it.
    """
    host = urlsplit(offer.base_url).hostname or ""
    renamed = host == "api.openai.com" or host.endswith((".openai.azure.com", ".azure.com"))
    return "max_completion_tokens" if renamed else "max_tokens"


# --- whom to ask next ------------------------------------------------------------------------


@dataclass(slots=True)
class Course:
    """Who is asked, and after each fault who next and when. Decides without waiting for anything.

    `clock` and `draw` are the time in seconds and a number between 0 and its argument.
    """

    offer: Offer
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float], float] = lambda most: random.uniform(0, most)  # noqa: S311
    attempts: int = 0
    _began: float = field(init=False)
    _tries: int = field(init=False, default=1)
    _rest: list[Offer] = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._rest = list(self.offer.fallbacks)

    def patience_left(self) -> float:
        """Return the seconds that are left until the first piece must be there, at least 0."""
        spent = self.clock() - self._began
        return max(float(settings.PROVIDER_PATIENCE_SECONDS) - spent, 0.0)

    def check_length(self) -> None:
        """Raise ProviderFault when the reply as a whole has taken too long."""
        if self.clock() - self._began > settings.PROVIDER_REPLY_SECONDS:
            raise ProviderFault("timeout")

    def after(self, fault: ProviderFault) -> float | None:
        """Turn to whom to ask next and return after how many seconds; None when nobody is left."""
        wait = self._pause(fault)
        if wait is not None and wait < self.patience_left():
            self._tries += 1
            return wait
        self._rest = _without_the_hopeless(self._rest, self.offer, fault)
        if not self._rest or self.patience_left() <= 0:
            return None
        self.offer, self._tries = self._rest.pop(0), 1
        return 0.0

    def _pause(self, fault: ProviderFault) -> float | None:
        """Return after how many seconds to ask the same model again, or None: not again."""
        if fault.code not in _TRANSIENT or self._tries >= settings.PROVIDER_ATTEMPTS:
            return None
        own = self.draw(min(BACKOFF_SECONDS * 2 ** (self._tries - 1), BACKOFF_CAP_SECONDS))
        if fault.retry_after is None:
            return own
        if fault.retry_after > settings.PROVIDER_RETRY_AFTER_SECONDS:
            return None
        # Everybody was told the same moment: come a little apart from one another.
        return fault.retry_after + own


def _without_the_hopeless(rest: list[Offer], asked: Offer, fault: ProviderFault) -> list[Offer]:
    """Leave out the models that would fail in the same way."""
    if fault.code == "rejected" and fault.status != 404:
        return []
    if fault.status in {401, 402}:
        return [offer for offer in rest if offer.secret_name != asked.secret_name]
    return rest
