"""The models on offer: which there are, for whom, at what price, and who stands in for whom.

    offer = offer_for(user)             the model by default
    offer = offer_for(user, "large")    raises NotOffered

A turn costs no query for the rows (`chatbot.kept`); what the environment says (settings) is looked
at every time.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from django.conf import settings
from django.utils import timezone

from accounts.access import Actor, System
from accounts.models import User
from chatbot.kept import Kept
from prompts.models import LanguageModel, ModelPrice
from prompts.offering import DEFAULT, price_as_listed
from prompts.price_list import name_to_price

_MILLION = Decimal(1_000_000)


class NotOffered(LookupError):
    """There is no such model for this person. The message is a sentence for them."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"There is no model {slug} on offer for you. Choose another one.")
        self.slug = slug


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal

    def cost(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> Decimal:
        """Return what so many tokens cost, in USD and exactly.

        `tokens_cached` are among `tokens_in`; whatever a provider says, the cost is not negative.
        """
        tokens_in, tokens_out = max(tokens_in, 0), max(tokens_out, 0)
        cached = min(max(tokens_cached, 0), tokens_in)
        parts = (
            self.input * (tokens_in - cached),
            self.cached_input * cached,
            self.output * tokens_out,
        )
        return sum(parts, Decimal(0)) / _MILLION


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as a turn needs it. `price` is None where it is unknown, which is not free.

    `context_window` and `max_output_tokens` are tokens. `fallbacks` are asked in this order when
    the model can't answer; they have none of their own.
    """

    slug: str
    label: str
    base_url: str
    secret_name: str
    remote_name: str
    context_window: int
    max_output_tokens: int
    price: Price | None
    fallbacks: tuple["Offer", ...] = ()


def offer_for(user: Actor, slug: str = "") -> Offer:
    """Return the model with this slug, or else the first of `offers_for`. Raises NotOffered.

    Three queries at most every KEPT_SECONDS, and one for the roles of an account that came without
    them, where a model is not for everybody.
    """
    shelf = kept_offers.get()
    for row in shelf.on_offer_to(user):
        if slug in {"", row.slug}:
            return shelf.offer(row, user)
    raise NotOffered(slug or DEFAULT)


def offers_for(user: Actor) -> list[Offer]:
    """Return every model that may answer this person, the one by default first."""
    shelf = kept_offers.get()
    return [shelf.offer(row, user) for row in shelf.on_offer_to(user)]


# --- the shelf -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of LanguageModel with the roles and the prices that count now, by name."""

    id: uuid.UUID
    slug: str
    label: str
    base_url: str
    secret_name: str
    remote_name: str
    context_window: int
    max_output_tokens: int
    fallback_id: uuid.UUID | None
    is_active: bool
    roles: frozenset[str]
    prices: dict[str, Price]

    @property
    def price(self) -> Price | None:
        return self.prices.get(name_to_price(self.base_url, self.remote_name))

    def is_for(self, user: Actor) -> bool:
        if not self.is_active:
            return False
        if not self.roles or isinstance(user, System):
            return True
        return isinstance(user, User) and not self.roles.isdisjoint(user.roles)


class _Shelf:
    """All rows as they were at one moment."""

    def __init__(self, rows: Iterable[_Row]) -> None:
        in_order = sorted(rows, key=lambda row: (row.slug != DEFAULT, row.label))
        self._rows = {row.id: row for row in in_order}

    def lacks_a_price(self) -> bool:
        """Whether a model that follows the environment has none under its present name."""
        followers = (row for row in self._rows.values() if row.is_active and not row.remote_name)
        return any(row.price is None for row in followers)

    def on_offer_to(self, user: Actor) -> list[_Row]:
        return [row for row in self._rows.values() if row.is_for(user)]

    def offer(self, row: _Row, user: Actor) -> Offer:
        behind = (_offer(each) for each in self._behind(row) if each.is_for(user))
        return _offer(row, tuple(behind))

    def _behind(self, row: _Row) -> Iterator[_Row]:
        """Yield the fallbacks, each once: two people can still close a circle at the same time."""
        seen, at = {row.id}, row.fallback_id
        while at is not None and at not in seen:
            seen.add(at)
            yield self._rows[at]
            at = self._rows[at].fallback_id


def _offer(row: _Row, fallbacks: tuple[Offer, ...] = ()) -> Offer:
    return Offer(
        slug=row.slug,
        label=row.label,
        base_url=row.base_url or settings.OPENAI_BASE_URL,
        secret_name=row.secret_name,
        remote_name=row.remote_name or settings.OPENAI_MODEL,
        context_window=row.context_window,
        max_output_tokens=row.max_output_tokens,
        price=row.price,
        fallbacks=fallbacks,
    )


def _read(_before: object) -> _Shelf:
    shelf = _Shelf(_rows())
    if shelf.lacks_a_price() and price_as_listed():
        shelf = _Shelf(_rows())
    return shelf


kept_offers = Kept(_read)


def _rows() -> list[_Row]:
    """Read everything in three queries: models, roles, prices."""
    models = LanguageModel.objects.prefetch_related("roles")
    prices = _prices_that_count()
    return [
        _Row(
            **{name: getattr(model, name) for name in _COPIED},
            roles=frozenset(role.slug for role in model.roles.all()),
            prices=prices.get(model.pk, {}),
        )
        for model in models
    ]


_COPIED = (
    *("id", "slug", "label", "base_url", "secret_name", "remote_name"),
    *("context_window", "max_output_tokens", "fallback_id", "is_active"),
)


def _prices_that_count() -> dict[uuid.UUID, dict[str, Price]]:
    """Return the newest price that holds by now, for each model and name."""
    newest = (
        ModelPrice.objects.filter(from_at__lte=timezone.now())
        .order_by("model_id", "priced_name", "-from_at")
        .distinct("model_id", "priced_name")
    )
    found: dict[uuid.UUID, dict[str, Price]] = {}
    for row in newest:
        price = Price(row.input, row.cached_input, row.output)
        found.setdefault(row.model_id, {})[row.priced_name] = price
    return found
