"""A call that is nobody's turn, for evaluations: guarded like a turn, and stored nowhere.

    call = await prepare(wording, turns, most_tokens=…, about=run)     raises NotTried
    answered = await call.ask()

It has a conversation that is never saved, so that rules and the treatment of personal data need to
know nothing about evaluations. The keys of that day make its placeholders.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from accounts.access import System
from audit.trail import Target
from chatbot.database import db
from conversations.models import Conversation, Message, RetentionClass
from conversations.turn.budget import Held, charge_for
from conversations.turn.events import TextArrived, TurnEnded, TurnEvent
from conversations.turn.faults import FAULTS
from conversations.turn.guard import Guard
from conversations.turn.opening import checked_question
from conversations.turn.policy import record_hits
from conversations.turn.refusal import Refusal
from conversations.turn.running import EndedFromOutside, run_turn
from conversations.turn.tokens import estimated_tokens, estimated_tokens_told
from prompts import routing
from prompts.calling import Answered, NotTried
from prompts.catalogue import NotOffered, Offer, Price, offer_for
from prompts.provider import ChatMessage, configured_provider
from prompts.serving import Wording

EVALUATION = System("evaluation")
_ABOUT_THE_TEXT = frozenset({"policy", "personal_data", "too_long", "empty"})
_MILLION = 1_000_000


async def prepare(
    wording: Wording, turns: Sequence[ChatMessage], *, most_tokens: int, about: Target
) -> "GuardedCall":
    """Do as `prompts.calling.Calls.prepare` says. A few queries at most. Raises NotTried."""
    try:
        return await db(_prepared)(wording, turns, most_tokens, about)
    except Refusal as refusal:
        about_the_text = refusal.code in _ABOUT_THE_TEXT
        raise NotTried(
            refusal.headline, refusal.sentence, is_about_the_text=about_the_text
        ) from refusal


def _prepared(
    wording: Wording, turns: Sequence[ChatMessage], most_tokens: int, about: Target
) -> "GuardedCall":
    offer = _offer(wording.model)
    conversation = Conversation(is_trial=True, retention_class=RetentionClass.TEMPORARY)
    guard = Guard.of(conversation, EVALUATION)
    question = checked_question(turns[-1]["content"]).text
    guard.admit(question, about, by=EVALUATION)
    said = [*turns[:-1], {**turns[-1], "content": question}]
    messages: list[ChatMessage] = [{"role": "system", "content": wording.text}]
    for turn in said:
        message = Message(conversation=conversation, role=turn["role"], state=Message.State.SAID)
        message.content = turn["content"]
        messages.append({"role": turn["role"], "content": guard.hidden(message)})
    parameters = dict(wording.parameters)
    wanted = parameters.pop("max_tokens", None)
    most = min(limit for limit in (most_tokens, offer.max_output_tokens, wanted) if limit)
    tokens_in = estimated_tokens_told(messages)
    if tokens_in + most > offer.context_window:
        raise Refusal(
            "too_long",
            "It is too long for the model.",
            f"{offer.label} takes {offer.context_window:,} tokens at once, the reply among them.",
        )
    return GuardedCall(offer, guard, messages, parameters, tokens_in, most, about)


def _offer(slug: str) -> Offer:
    """Return the model alone: with another in its place the result would say nothing about it."""
    try:
        offer = replace(offer_for(EVALUATION, slug), fallbacks=())
    except NotOffered as error:
        raise Refusal("no_model", "The model is not on offer.", str(error)) from error
    if offer.price is None:
        raise Refusal(
            "price_unknown",
            f"{offer.label} has no price yet.",
            "Without one nobody can say what the evaluation costs. An administrator has to set it.",
        )
    return offer


@dataclass(frozen=True, slots=True)
class GuardedCall:
    """A `prompts.calling.Prepared`."""

    offer: Offer
    guard: Guard
    messages: list[ChatMessage]
    parameters: Mapping[str, Any]
    tokens_in: int
    most_tokens: int
    about: Target

    @property
    def model(self) -> str:
        """The slug of the model that is asked."""
        return self.offer.slug

    @property
    def worst_usd(self) -> Decimal:
        """The most that it can cost, if the provider counts its input as it was estimated."""
        dearest = max(self._price.input, self._price.cached_input)
        return (self.tokens_in * dearest + self.most_tokens * self._price.output) / _MILLION

    @property
    def prices(self) -> str:
        """USD per million tokens of input, of cached input and of output."""
        price = self._price
        return " / ".join(
            f"{each.normalize():f}" for each in (price.input, price.cached_input, price.output)
        )

    @property
    def _price(self) -> Price:
        assert self.offer.price is not None, "a model without a price was refused"
        return self.offer.price

    async def ask(self) -> Answered:
        """Make the call."""
        heard = _Heard()
        stream = routing.stream(
            self.offer, self.messages, max_tokens=self.most_tokens, **self.parameters
        )
        nobody: asyncio.Future[EndedFromOutside] = asyncio.get_running_loop().create_future()
        ended = await run_turn(
            stream, self.guard, moderator=configured_provider(), listener=heard, until=nobody
        )
        if ended.hits:
            await db(record_hits)(ended.hits, self.about, by=EVALUATION)
        return self._answered("".join(heard.texts), ended)

    def _answered(self, text: str, ended: TurnEnded) -> Answered:
        held = Held(
            *(Message().pk, 0, 0, 0, self.worst_usd),
            *(self._price.input, self._price.cached_input, self._price.output),
            *(self.tokens_in, 0),
        )
        charge = charge_for(held, ended.usage, written=estimated_tokens(text), fault=ended.fault)
        is_refused = ended.outcome == Message.State.REFUSED
        told = FAULTS.get(ended.fault)
        trouble = told.headline if told else ""
        return Answered(
            text,
            ended.model or self.offer.remote_name,
            charge.usage.tokens_in if charge.usage else 0,
            charge.usage.tokens_out if charge.usage else 0,
            charge.usd,
            charge.is_estimated,
            ended.duration_ms,
            fault="" if is_refused else ended.fault,
            refused=trouble if is_refused else "",
            trouble=trouble,
        )


class _Heard:
    """Keeps what a call says (a `running.Listener`)."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def publish(self, event: TurnEvent) -> None:
        if isinstance(event, TextArrived):
            self.texts.append(event.text)

    async def pause(self) -> None:
        """Whoever waits for the whole has no use for pauses."""
