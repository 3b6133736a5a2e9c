"""What happens in a turn, as a closed set of facts. Every door tells the same story from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from conversations.models import Message
from conversations.turn.guard import NOTHING, Found
from conversations.turn.policy import Hit, Rule
from prompts.catalogue import Offer
from prompts.provider import Usage


@dataclass(frozen=True, slots=True)
class ThinkingArrived:
    text: str


@dataclass(frozen=True, slots=True)
class TextArrived:
    text: str


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The end. `fault` is a code from `faults.py` or empty; times are milliseconds.

    `offer` is the model that answered, which may not be the one that was asked first; `model` is
    what the provider called it. `hits` is what the organisation's rules found, `refused_by` the one
    that ended the reply. `question` is how much was found in what was asked.
    """

    outcome: Message.State
    fault: str = ""
    finish_reason: str = ""
    model: str = ""
    offer: Offer | None = None
    hits: Sequence[Hit] = ()
    refused_by: Rule | None = None
    question: Found = NOTHING
    usage: Usage | None = None
    first_token_ms: int | None = None
    duration_ms: int = 0


TurnEvent = ThinkingArrived | TextArrived | TurnEnded
