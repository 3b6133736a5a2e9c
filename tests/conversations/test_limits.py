"""How often one may ask."""

import asyncio
import logging
import uuid

import pytest
import redis.asyncio as aioredis
from django.conf import settings as site_settings
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from conversations.turn import Refusal, limits
from conversations.turn.limits import (
    Quota,
    TooMany,
    check,
    close_limiters,
    parsed_rules,
    rate_limit_fields,
)

REFUSED_PORT = "redis://127.0.0.1:9"


def person(*roles: str) -> User:
    """Somebody who came with their roles; these tests need no database."""
    user = User(email="olive@parley.example")
    user.__dict__["loaded_roles"] = list(roles)
    return user


@pytest.fixture
async def allow(settings, monkeypatch):
    """Set the limits, on counters of this test alone."""
    # A busy machine is no outage, in which people would be let through uncounted.
    monkeypatch.setattr(limits, "CONNECT_SECONDS", 60.0)
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 60.0)
    settings.REDIS_PREFIX = f"{settings.REDIS_PREFIX}{uuid.uuid4().hex}:"
    await close_limiters()  # the prefix belongs to the storage

    def set_limits(rules: str) -> None:
        settings.RATE_LIMITS = rules

    yield set_limits
    await close_limiters()


async def count(user: User, times: int, **given: object) -> int:
    """Ask so often at once; return how many were let through."""
    answers = await asyncio.gather(
        *(check(user, **given) for _ in range(times)), return_exceptions=True
    )
    unexpected = [a for a in answers if isinstance(a, Exception) and not isinstance(a, TooMany)]
    assert unexpected == []
    return sum(not isinstance(answer, Exception) for answer in answers)


# --- counting ----------------------------------------------------------------------------------


async def test_each_limit_tells_how_it_stands(allow):
    allow("user=3/minute; site=10/hour")
    olive = person("member")
    assert [(q.policy, q.remaining) for q in await check(olive)] == [
        ("user-minute", 2),
        ("site-hour", 9),
    ]
    (of_user, of_site) = await check(olive)
    assert (of_user.limit, of_user.window_seconds, of_user.remaining) == (3, 60, 1)
    assert 0 < of_user.reset_seconds <= 60
    assert of_site.window_seconds == 3600


async def test_beyond_the_limit_it_is_refused_with_the_time_to_wait(allow):
    allow("user=2/minute")
    olive = person()
    assert await count(olive, 2) == 2
    with pytest.raises(TooMany) as refusal:
        await check(olive)
    assert isinstance(refusal.value, Refusal)
    assert refusal.value.code == "too_many"
    assert 1 <= refusal.value.retry_after <= 60
    assert "2 messages in a minute" in refusal.value.sentence
    assert refusal.value.quotas[0].remaining == 0


async def test_a_crowd_gets_exactly_as_many_as_there_is_room_for(allow):
    allow("user=20/minute; site=600/minute")
    assert await count(person(), 100) == 20


async def test_event_loops_with_connections_of_their_own_share_the_counts(allow):
    allow("site=20/minute")

    def another() -> int:
        return asyncio.run(_counted_and_closed())

    passed = await asyncio.gather(*(asyncio.to_thread(another) for _ in range(4)))
    assert sum(passed) == 20


async def _counted_and_closed() -> int:
    try:
        return await count(person(), 15)
    finally:
        await close_limiters()


async def test_people_and_tokens_have_counts_of_their_own(allow):
    allow("user=3/minute; token=2/minute")
    olive, sam = person(), person()
    assert await count(olive, 3, token_id="one") == 2
    assert await count(olive, 3, token_id="two") == 1
    assert await count(sam, 3) == 3


async def test_who_is_refused_spends_nothing_of_the_other_limits(allow):
    allow("user=1/minute; site=3/minute")
    olive = person()
    await check(olive)
    for _ in range(5):
        with pytest.raises(TooMany):
            await check(olive)
    (_, of_site) = await check(person())
    assert of_site.remaining == 1


async def test_the_longest_wait_of_all_that_are_reached_is_told(allow):
    allow("user=1/minute; user=1/hour")
    olive = person()
    await check(olive)
    with pytest.raises(TooMany) as refusal:
        await check(olive)
    assert refusal.value.retry_after > 60
    assert "1 messages in an hour" not in refusal.value.sentence
    assert "1 message in an hour" in refusal.value.sentence


async def test_a_full_site_says_that_it_is_the_site(allow):
    allow("site=1/minute")
    await check(person())
    with pytest.raises(TooMany) as refusal:
        await check(person())
    assert "This site takes 1 message" in refusal.value.sentence


async def test_without_limits_nothing_is_asked(settings):
    settings.RATE_LIMITS, settings.REDIS_URL = "", REFUSED_PORT
    assert await check(person()) == []


async def test_counts_end_by_themselves(allow):
    allow("user=5/minute; site=5/hour")
    await check(person())
    client = aioredis.Redis.from_url(site_settings.REDIS_URL)
    keys = [key async for key in client.scan_iter(f"{site_settings.REDIS_PREFIX}rate*")]
    lives = [await client.ttl(key) for key in keys]
    await client.aclose()
    assert len(keys) == 2
    assert all(0 < life <= 3600 for life in lives)


# --- roles -------------------------------------------------------------------------------------


def amounts(rules: str, *roles: str) -> dict[int, int]:
    items = parsed_rules(rules).of_user(person(*roles))
    return {item.get_expiry(): item.amount for item in items}


def test_a_role_has_limits_of_its_own_in_place_of_the_general_ones():
    rules = "user=20/minute; user=300/hour; user:operator=60/minute"
    assert amounts(rules, "member") == {60: 20, 3600: 300}
    assert amounts(rules, "operator") == {60: 60}
    assert amounts(rules) == {60: 20, 3600: 300}


def test_of_several_roles_the_most_generous_limit_holds():
    rules = "user=20/minute; user:operator=60/minute; user:prompt_editor=5/minute"
    assert amounts(rules, "operator", "prompt_editor") == {60: 60}
    assert amounts(rules, "member", "prompt_editor") == {60: 20}
    assert amounts(rules, "prompt_editor") == {60: 5}


@pytest.mark.parametrize(
    "rules",
    ["user", "user=", "user=often", "user=0/minute", "people=3/minute", "user:emperor=3/minute",
     "site:operator=3/minute", "user=3/fortnight"],
)  # fmt: skip
def test_a_mistake_is_told_in_a_sentence(rules):
    with pytest.raises(ImproperlyConfigured, match="is no limit"):
        parsed_rules(rules)


def test_the_default_limits_are_well_formed():
    rules = parsed_rules("user=20/minute; user=300/hour; token=60/minute; site=600/minute")
    assert set(rules.by_scope) == {"user", "token", "site"}


# --- Redis away --------------------------------------------------------------------------------


@pytest.fixture
def redis_away(settings, monkeypatch):
    monkeypatch.setattr(limits, "_outage", limits._Outage())
    there = settings.REDIS_URL
    settings.RATE_LIMITS, settings.REDIS_URL = "user=1/minute", REFUSED_PORT

    def back() -> None:
        settings.REDIS_URL = there

    return back


async def test_people_go_on_without_redis_and_it_is_logged_once(allow, redis_away, caplog):
    olive = person()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await check(olive) == []
        redis_away()
        await check(olive)
        await check(person())
    said = [record.getMessage() for record in caplog.records]
    assert sum("rate_limits_away" in message for message in said) == 1
    assert sum("rate_limits_back" in message for message in said) == 1


async def test_closed_refuses_until_redis_is_back(allow, redis_away, settings):
    settings.RATE_LIMITS_WITHOUT_REDIS = "closed"
    with pytest.raises(Refusal, match="limits_away") as refusal:
        await check(person())
    assert refusal.value.retry_after == 5
    redis_away()
    assert len(await check(person())) == 1


async def test_a_silent_redis_is_given_up(allow, redis_away, settings, monkeypatch):
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.05)
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    settings.REDIS_URL = f"redis://127.0.0.1:{port}"
    assert await check(person()) == []
    silent.close()


# --- fields ------------------------------------------------------------------------------------


def test_the_fields_of_an_answer():
    quotas = [Quota("user-minute", 20, 60, 0, 12.2), Quota("site-minute", 600, 60, 41, 60.0)]
    assert rate_limit_fields(quotas, retry_after=12.2) == {
        "RateLimit-Policy": '"user-minute";q=20;w=60, "site-minute";q=600;w=60',
        "RateLimit": '"user-minute";r=0;t=13, "site-minute";r=41;t=60',
        "Retry-After": "13",
    }
    assert rate_limit_fields([]) == {}


@given(st.floats(min_value=0, max_value=10**7))
def test_who_waits_as_long_as_told_has_waited_long_enough(seconds):
    told = int(rate_limit_fields([], retry_after=seconds)["Retry-After"])
    assert max(1.0, seconds) <= told < max(1.0, seconds) + 1
