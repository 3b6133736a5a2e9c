"""Offers of the simulator, and a breaker that no other test has opened."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from prompts import breaker, routing
from prompts.catalogue import Offer


@pytest.fixture
async def _own_breakers(settings) -> AsyncIterator[None]:
    settings.REDIS_PREFIX = f"{settings.REDIS_PREFIX}{uuid4().hex}:"
    breaker._away.forget()
    yield
    await routing.close()


@pytest.fixture
def offer(simulator: str, _own_breakers: None) -> Callable[..., Offer]:
    """Make an offer of a model that the simulator plays."""
    plain = Offer(
        slug="plain",
        label="Plain",
        base_url=simulator,
        secret_name="OPENAI_API_KEY",
        remote_name="simulated",
        context_window=32_768,
        max_output_tokens=8_192,
        price=None,
    )
    return lambda slug="plain", **given: replace(plain, slug=slug, **given)
