"""The guarded call: how this app asks a model. It imports nothing of conversations.

Whoever tries a wording (the playground) is held by the same limits, budgets, rules and treatment of
personal data as a turn of a conversation. An evaluation is nobody's turn, and held by rules and
treatment of personal data alone; its money is `prompts.evaluation`'s. These stand in
`conversations`, which registers what does the call when Django starts.
"""

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from accounts.models import User
from audit.trail import Target
from prompts.provider import ChatMessage
from prompts.serving import Wording


class NotTried(Exception):
    """The call was refused before anything was sent. Both sentences are for the person.

    `is_about_the_text`: another text might be let through.
    """

    def __init__(self, headline: str, sentence: str, *, is_about_the_text: bool = False) -> None:
        super().__init__(headline)
        self.headline, self.sentence = headline, sentence
        self.is_about_the_text = is_about_the_text


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


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a call that was not anybody's turn. Time is milliseconds, cost USD.

    `fault` is the provider's, a code of `prompts.provider`: then nothing can be made of the text.
    `refused` is a sentence where a rule, or the provider's filter, ended the reply. `trouble` is a
    sentence for people about either.
    """

    text: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_usd: Decimal
    is_estimated: bool
    duration_ms: int
    fault: str = ""
    refused: str = ""
    trouble: str = ""


class Prepared(Protocol):
    """A call that may be made once: all is decided but the money for it.

    `worst_usd` is the most that it can cost, as far as a provider counts its input as we estimate
    it. `prices` are those of its model in USD per million tokens: input, cached input, output.
    """

    @property
    def model(self) -> str:
        """The slug of the model that is asked."""
        ...

    @property
    def worst_usd(self) -> Decimal:
        """USD."""
        ...

    @property
    def prices(self) -> str:
        """As people read them."""
        ...

    async def ask(self) -> Answered:
        """Make the call. Faults of the provider are answers too."""
        ...


class Calls(Protocol):
    """What `conversations` registers. `begin`, `follow` and `ended` run on the event loop of a web
    process, `prepare` where there is any event loop."""

    async def prepare(
        self, wording: Wording, turns: Sequence[ChatMessage], *, most_tokens: int, about: Target
    ) -> Prepared:
        """Return the call that has `turns` answered under a wording, by its model alone: no other
        stands in, and no person's limits, budget or history have a part in it. Rules and treatment
        of personal data are those of a turn of somebody without a role; what rules find is recorded
        with `about`. Raises NotTried.
        """
        ...

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
