"""What administrators do to the models on offer: define, withdraw, price. And the first model.

Each verb asks for permission, changes, records and lets the catalogue read anew, together.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.access import Actor, System, require
from accounts.models import Role
from accounts.roles import Permission
from audit.trail import record
from prompts.models import LanguageModel, ModelPrice
from prompts.price_list import Listed, listed, name_to_price

DEFAULT = "default"
# For a model that no list knows: small enough for most servers, until somebody says more.
UNKNOWN_WINDOW = 32_768
USUAL_OUTPUT_TOKENS = 8_192

_SEEDER = System("catalogue")
_DEFINED = (
    *("slug", "label", "base_url", "secret_name", "remote_name"),
    *("context_window", "max_output_tokens", "fallback_id", "is_active"),
)


@transaction.atomic
def define_model(model: LanguageModel, *, roles: Iterable[Role], by: Actor) -> None:
    """Save a new or changed model with the roles that it is for.

    Raises Denied, and ValidationError for what can't be.
    """
    require(by, Permission.MANAGE_MODELS, model)
    # Two people who close a circle of fallbacks at the same time queue up here.
    locked = {row.pk: row for row in LanguageModel.objects.select_for_update().order_by("pk")}
    model.full_clean()
    before = _definition(locked[model.pk], _roles_of(model)) if model.pk in locked else {}
    model.save()
    model.roles.set(roles)
    now = _definition(model, _roles_of(model))
    changed = {name: now[name] for name in now if before.get(name) != now[name]}
    if changed:
        was = {name: before[name] for name in changed if name in before}
        record(by, _event(before, now), model, now=changed, before=was)


def _event(before: dict[str, Any], now: dict[str, Any]) -> str:
    if now["is_active"] and not before.get("is_active"):
        return "model.offered"
    if before.get("is_active") and not now["is_active"]:
        return "model.withdrawn"
    return "model.redefined"


def _definition(model: LanguageModel, roles: list[str]) -> dict[str, Any]:
    values = {name: getattr(model, name) for name in _DEFINED}
    fallback = values.pop("fallback_id")
    return {**values, "fallback": str(fallback or ""), "roles": roles}


def _roles_of(model: LanguageModel) -> list[str]:
    return sorted(model.roles.values_list("slug", flat=True))


@transaction.atomic
def set_price(price: ModelPrice, *, by: Actor) -> None:
    """Add a price to a model's history, for the name that it has at the provider now.

    Raises Denied, and ValidationError for a price that is negative or not the only one of its time.
    """
    require(by, Permission.MANAGE_MODELS, price)
    price.priced_name = name_to_price(price.model.base_url, price.model.remote_name)
    price.full_clean()
    price.save(force_insert=True)
    record(
        by,
        "price.set",
        price.model,
        name=price.priced_name,
        from_at=price.from_at.isoformat(),
        **{name: f"{getattr(price, name):f}" for name in ("input", "cached_input", "output")},
        source=price.source,
    )


# --- what is there from the beginning --------------------------------------------------------


@transaction.atomic
def seed_default_model(**_signal: Any) -> None:
    """Make sure that there is a model to begin with, which is what the environment says.

    Runs after each migration, also one that has just taken the table away.
    """
    if LanguageModel._meta.db_table not in connection.introspection.table_names():
        return
    LanguageModel.objects.get_or_create(
        slug=DEFAULT,
        defaults={
            "label": "Standard",
            "context_window": UNKNOWN_WINDOW,
            "max_output_tokens": USUAL_OUTPUT_TOKENS,
        },
    )
    price_as_listed()


def price_as_listed() -> bool:
    """Give each model that follows the environment its listed price, if it has none under the name
    that the environment says; return whether any got one. Prices that are there stay."""
    return sum(_price_one(model) for model in _following().filter(is_active=True)) > 0


def _following() -> "QuerySet[LanguageModel]":
    return LanguageModel.objects.filter(remote_name="")


def _price_one(model: LanguageModel) -> bool:
    name = name_to_price(model.base_url, model.remote_name)
    found = listed(name, model.base_url)
    return found is not None and _add_listed(model, name, found)


@transaction.atomic
def _add_listed(model: LanguageModel, name: str, found: Listed) -> bool:
    # Processes that start together would each add the row.
    model = _following().select_for_update().get(pk=model.pk)
    if model.prices.filter(priced_name=name).exists():
        return False
    set_price(_as_price(model, found), by=_SEEDER)
    if model.context_window == UNKNOWN_WINDOW and found.context_window:
        model.context_window = max(found.context_window, model.max_output_tokens + 1)
        define_model(model, roles=model.roles.all(), by=_SEEDER)
    return True


def _as_price(model: LanguageModel, found: Listed) -> ModelPrice:
    return ModelPrice(
        model=model,
        from_at=timezone.now(),
        input=_rounded(found.input),
        cached_input=_rounded(found.cached_input),
        output=_rounded(found.output),
        source=found.source,
    )


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.000001"))
