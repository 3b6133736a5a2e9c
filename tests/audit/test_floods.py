"""What is repeated is written once a minute, with a count."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from accounts.access import System
from audit import floods
from audit.models import Entry
from audit.trail import ANONYMOUS, acting_as, record_sparingly


@contextmanager
def alone() -> Iterator[None]:
    """Let the process decide by itself, by the clock that the test gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floods, "_told_by_all", lambda what, count: None)
        yield


def end_the_minute() -> None:
    """Let the minute of all processes be over."""
    client = floods._client(settings.REDIS_URL)
    for key in client.scan_iter(f"{settings.REDIS_PREFIX}{floods.PREFIX}*"):
        client.hset(key, "until", 0)


@pytest.fixture
def happens(monkeypatch):
    """Let something happen in a process, given by its number."""
    known = [OrderedDict() for _ in range(3)]

    def in_process(number: int, now: float = 0) -> int:
        monkeypatch.setattr(floods, "_seen", known[number])
        return floods.due("x", now=now)

    return in_process


def test_first_time_is_told_at_once_and_then_once_a_minute():
    with alone():
        told = [floods.due("x", now=second) for second in (0, 1, 59, 60, 61, 119, 121)]
    assert told == [1, 0, 0, 3, 0, 0, 3]


def test_different_things_do_not_wait_for_each_other():
    assert [floods.due(what, now=0) for what in "abab"] == [1, 1, 0, 0]


def test_processes_share_a_minute_and_tell_what_others_have_counted(happens):
    assert [happens(n) for n in (0, 0, 1, 2, 1)] == [1, 0, 0, 0, 0]
    end_the_minute()
    # Its own two, and what the others handed over; the first still keeps one to itself.
    assert happens(1, now=61) == 4
    assert happens(0, now=61) == 0
    end_the_minute()
    assert happens(2, now=122) == 3


def test_a_process_asks_redis_once_a_minute(happens, monkeypatch):
    asked = []
    ask = floods._told_by_all
    monkeypatch.setattr(floods, "_told_by_all", lambda *what: asked.append(what) or ask(*what))
    for _ in range(5):
        happens(0)
        happens(1)
    assert len(asked) == 2


def test_without_redis_each_process_tells_and_asks_no_more_for_a_while(happens, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert [happens(n) for n in (0, 1, 0, 1)] == [1, 1, 0, 0]
    assert floods._away.is_now()
    floods.forget()


def test_networks_do_not_stand_in_redis():
    floods.due(("token.refused", "anonymous 203.0.113.0/24", "unknown", ""))
    client = floods._client(settings.REDIS_URL)
    (key,) = client.scan_iter(f"{settings.REDIS_PREFIX}{floods.PREFIX}*")
    assert b"203.0.113" not in key
    assert client.pttl(key) > 0


@given(st.lists(st.floats(0, 50), max_size=60))
def test_none_is_counted_twice_and_none_is_missing_before_the_next_entry(pauses):
    floods.forget()
    now, told = 0.0, 0
    with alone():
        for pause in pauses:
            now += pause
            told += floods.due("x", now=now)
        told += floods.due("x", now=now + floods.WINDOW_SECONDS + 1)
    assert told == len(pauses) + 1


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(floods, "MOST_KEPT", 3)
    with alone():
        for what in range(10):
            floods.due(what, now=0)
        assert floods.due(9, now=0) == 0
        assert floods.due(0, now=0) == 1


@pytest.mark.django_db
def test_entry_tells_how_often():
    def refuse(network: str) -> int | None:
        with acting_as(ANONYMOUS, address=network):
            return record_sparingly(None, "token.refused", outcome="denied", reason="unknown")

    written = [refuse("203.0.113.7"), refuse("203.0.113.99"), refuse("198.51.100.1")]
    assert [bool(pk) for pk in written] == [True, False, True]
    entries = Entry.objects.filter(event="token.refused")
    assert list(entries.values_list("payload", flat=True)) == [{"count": 1}, {"count": 1}]


@pytest.mark.django_db
def test_parts_of_the_system_are_counted_apart():
    for name in ("one", "other", "one"):
        record_sparingly(System(name), "access.denied", outcome="denied", reason="why")
    entries = Entry.objects.filter(event="access.denied").order_by("pk")
    assert list(entries.values_list("actor_id", flat=True)) == ["one", "other"]
