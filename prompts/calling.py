"""The guarded call: how this app asks a model. It imports nothing of conversations.

Whoever tries a wording (the playground) is held by the same limits, budgets, rules and treatment of
personal data as a turn of a conversation. These stand in `conversations`, which registers what
does the call when Django starts.
"""

import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from accounts.models import User
from prompts.serving import Wording


class NotTried(Exception):
    """The call was refused before anything was sent. Both sentences are for the person."""

    def __init__(self, headline: str, sentence: str) -> None:
        super().__init__(headline)
        self.headline, self.sentence = headline, sentence


class UnknownTrial(LookupError):
    """There is no such trial of this person."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A reply to a wording that was tried, as far as it is. Times are milliseconds.

    `trouble` is a sentence where it ended early, else empty.
    """

    id: uuid.UUID
    text: str
    is_open: bool
    model: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    is_estimated: bool = False
    cost_usd: Decimal | None = None
    first_token_ms: int | None = None
    duration_ms: int | None = None
    trouble: str = ""


class Calls(Protocol):
    """What `conversations` registers. All of it runs on the event loop of a web process."""

    async def begin(self, wording: Wording, question: str, *, by: User) -> uuid.UUID:
        """Start a reply and return its id; it goes on whoever listens. Raises NotTried."""
        ...

    def follow(self, trial_id: uuid.UUID, *, by: User) -> AsyncGenerator[str | Tried, None]:
        """Yield the text as it arrives, last what became of it. Raises UnknownTrial."""
        ...

    async def ended(self, trial_id: uuid.UUID, *, by: User, within_seconds: float) -> Tried:
        """Return what became of it, or how far it is by then. Raises UnknownTrial."""
        ...


_registered: list[Callable[[], Any]] = []


def register(load: Callable[[], Any]) -> None:
    """Let what `load` returns, which has the functions of `Calls`, be this process' calls."""
    _registered[:] = [load]


def guarded() -> Calls:
    """Return the guarded calls, loaded at first use."""
    calls: Calls = _registered[0]()
    return calls
