"""What models cost by public price lists: the data that the package `genai-prices` carries.

Nothing is asked for over the network: a list is as old as the package, and says so in its source.
Loading it takes most of a second and some memory, so only processes that miss a price do.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

from django.conf import settings

# Stands for the model's name in the price of the demo, so that no real model inherits it.
DEMO_NAME = "(demo)"


@dataclass(frozen=True, slots=True)
class Listed:
    """USD per million tokens, where that stands, and the model's window in tokens if known."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    source: str
    context_window: int | None = None


_FREE = Listed(Decimal(0), Decimal(0), Decimal(0), "no AI is connected")


def name_to_price(base_url: str, remote_name: str) -> str:
    """Return under which name a model has its price; empty arguments mean the environment's."""
    if settings.PROVIDER_IS_DEMO and not base_url:
        return DEMO_NAME
    return remote_name or str(settings.OPENAI_MODEL)


def listed(name: str, base_url: str) -> Listed | None:
    """Return what the list says of a model with this name, or None: unknown, which is not free.

    A provider known by its address is asked first, then any that has a model of this name.
    """
    return _FREE if name == DEMO_NAME else _looked_up(name, base_url)


@lru_cache(maxsize=256)
def _looked_up(name: str, base_url: str) -> Listed | None:
    snapshot = import_module("genai_prices.data_snapshot").get_snapshot()
    for address in (base_url, None):
        try:
            provider, model = snapshot.find_provider_model(name, None, None, address)
        except LookupError:
            continue
        return _of_model(provider, model)
    return None


def _of_model(provider: Any, model: Any) -> Listed | None:
    prices = model.get_prices(datetime.now(UTC))
    tokens_in, tokens_out = _base(prices.input_mtok), _base(prices.output_mtok)
    cached = _base(prices.cache_read_mtok)
    if tokens_in is None or tokens_out is None:
        return None
    source = f"genai-prices {version('genai-prices')}: {provider.id}/{model.id}"
    return Listed(
        input=tokens_in,
        cached_input=tokens_in if cached is None else cached,
        output=tokens_out,
        source=source,
        context_window=_window(model, prices),
    )


def _base(price: Any) -> Decimal | None:
    """Return the price up to the first tier, of a list's price that may have tiers."""
    base = getattr(price, "base", price)
    return None if base is None else Decimal(base)


def _window(model: Any, prices: Any) -> int | None:
    """Return the tokens up to which the base price holds; beyond them a model may cost double."""
    priced = (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok)
    starts = [tier.start for price in priced for tier in getattr(price, "tiers", ())]
    return min((*starts, *([model.context_window] if model.context_window else [])), default=None)
