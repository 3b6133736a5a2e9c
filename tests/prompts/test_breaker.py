"""The breaker, by itself in Redis and against a model of it."""

import asyncio

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmarks.provider_simulator import forget_requests, recorded_requests
from prompts import breaker
from prompts.breaker import Breaker, Open
from prompts.provider import ProviderFault
from tests.prompts.test_routing import WELL, ask, fault_of

FAULTS = 3


@pytest.fixture(autouse=True)
def _small(settings, monkeypatch):
    settings.PROVIDER_BREAKER_FAULTS = FAULTS
    settings.PROVIDER_BREAKER_SECONDS = 60.0
    settings.PROVIDER_ATTEMPTS = 1


async def entered(offer) -> Breaker:
    gate = Breaker.of(offer)
    await gate.enter()
    return gate


async def opened(offer, pause_seconds: float, settings) -> None:
    settings.PROVIDER_BREAKER_SECONDS = pause_seconds
    for _ in range(FAULTS):
        await (await entered(offer)).failed()
    settings.PROVIDER_BREAKER_SECONDS = 60.0


async def is_open(offer) -> bool:
    try:
        await entered(offer)
    except Open:
        return True
    return False


async def test_so_many_faults_open_it_for_its_pause(offer):
    for _ in range(FAULTS):
        assert not await is_open(offer())
        await (await entered(offer())).failed()
    with pytest.raises(Open) as refused:
        await entered(offer())
    assert 50 < refused.value.retry_after <= 60


async def test_a_success_begins_the_count_anew(offer):
    for _ in range(5):
        for _ in range(FAULTS - 1):
            await (await entered(offer())).failed()
        await (await entered(offer())).succeeded()
    assert not await is_open(offer())


async def test_faults_of_another_window_do_not_count(offer, monkeypatch):
    monkeypatch.setattr(breaker, "WINDOW_SECONDS", 0.02)
    for _ in range(FAULTS * 2):
        await (await entered(offer())).failed()
        await asyncio.sleep(0.03)
    assert not await is_open(offer())


async def test_after_the_pause_one_probe_goes_out(offer, settings):
    await opened(offer(), 0.01, settings)
    await asyncio.sleep(0.02)
    attempts = await asyncio.gather(*(entered(offer()) for _ in range(20)), return_exceptions=True)
    (probe,) = [gate for gate in attempts if isinstance(gate, Breaker)]
    await probe.succeeded()
    assert not await is_open(offer())


async def test_a_failed_probe_opens_it_again(offer, settings):
    await opened(offer(), 0.01, settings)
    await asyncio.sleep(0.02)
    await (await entered(offer())).failed()
    with pytest.raises(Open) as refused:
        await entered(offer())
    assert refused.value.retry_after > 50


async def test_a_probe_that_never_tells_is_replaced(offer, settings, monkeypatch):
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.5)
    await opened(offer(), 0.01, settings)
    await asyncio.sleep(0.02)
    assert not await is_open(offer())
    assert await is_open(offer())
    await asyncio.sleep(0.6)
    assert not await is_open(offer())


async def test_what_was_asked_before_it_opened_decides_nothing(offer, settings):
    early = [await entered(offer()) for _ in range(2)]
    await opened(offer(), 0.01, settings)
    await early[0].succeeded()
    await asyncio.sleep(0.02)
    await early[1].failed()
    assert not await is_open(offer()), "the next one is the probe"
    assert await is_open(offer()), "and the only one"


async def test_a_model_that_was_moved_begins_with_a_closed_one(offer, settings):
    await opened(offer(), 60, settings)
    assert await is_open(offer())
    assert not await is_open(offer(base_url="http://elsewhere/v1"))
    assert not await is_open(offer("another"))


async def test_without_redis_it_is_closed_and_redis_is_left_alone(offer, settings, monkeypatch):
    await breaker.close()
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    for _ in range(FAULTS * 2):
        await (await entered(offer())).failed()
    assert not await is_open(offer())
    assert breaker._away.is_now()


async def test_an_open_breaker_saves_the_request_and_says_when(offer, simulator):
    for _ in range(FAULTS):
        await fault_of(offer(), status=500)
    forget_requests(simulator)
    fault = await fault_of(offer(), **WELL)
    assert (fault.code, fault.retry_after > 0) == ("resting", True)
    assert recorded_requests(simulator) == []


async def test_an_open_breaker_sends_on_to_the_fallback(offer):
    for _ in range(FAULTS):
        await fault_of(offer(), status=500)
    second = offer("second")
    answering, *_ = await ask(offer(fallbacks=(second,)), **WELL)
    assert (answering.offer, answering.attempts) == (second, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refusals_of_our_making_never_open_it(offer, status):
    for _ in range(FAULTS * 2):
        await fault_of(offer(), status=status)
    assert not await is_open(offer())


async def test_a_turn_without_trouble_asks_redis_once(offer, monkeypatch):
    scripts = []
    run = breaker._run

    async def counted(script, *arguments):
        scripts.append(script)
        return await run(script, *arguments)

    monkeypatch.setattr(breaker, "_run", counted)
    await ask(offer(), **WELL)
    assert len(scripts) == 1


steps = st.lists(st.sampled_from(["fault", "success", "refusal"]), max_size=40)


@given(steps)
@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_opens_exactly_after_so_many_faults_in_a_row(redis_of_a_loop, story):
    in_a_row = 0

    async def play(key: str) -> None:
        nonlocal in_a_row
        for step in story:
            gate = Breaker(key)
            try:
                await gate.enter()
            except Open:
                assert in_a_row >= FAULTS
                continue
            assert in_a_row < FAULTS
            if step == "fault":
                await gate.failed()
                in_a_row += 1
            else:
                await gate.succeeded()
                in_a_row = 0

    redis_of_a_loop(play)


@pytest.fixture
def redis_of_a_loop(settings):
    """Run a coroutine function on a loop of its own, with the key of a fresh breaker."""
    number = iter(range(10_000))

    def run(play) -> None:
        async def whole() -> None:
            try:
                await play(f"{settings.REDIS_PREFIX}story:{id(settings)}:{next(number)}")
            finally:
                await breaker.close()

        asyncio.run(whole())

    return run


def test_every_fault_has_a_sentence():
    from typing import get_args

    from conversations.turn.faults import FAULTS as SENTENCES
    from prompts.provider import FaultCode

    assert set(get_args(FaultCode)) <= set(SENTENCES)
    assert isinstance(ProviderFault("resting"), Exception)
