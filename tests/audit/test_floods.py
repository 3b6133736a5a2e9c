"""What is repeated is written once a minute, with a count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.access import System
from audit import floods
from audit.models import Entry
from audit.trail import ANONYMOUS, acting_as, record_sparingly


def test_first_time_is_told_at_once_and_then_once_a_minute():
    told = [floods.due("x", now=second) for second in (0, 1, 59, 60, 61, 119, 121)]
    assert told == [1, 0, 0, 3, 0, 0, 3]


def test_different_things_do_not_wait_for_each_other():
    assert [floods.due(what, now=0) for what in "abab"] == [1, 1, 0, 0]


@given(st.lists(st.floats(0, 50), max_size=60))
def test_none_is_counted_twice_and_none_is_missing_before_the_next_entry(pauses):
    floods.forget()
    now, told = 0.0, 0
    for pause in pauses:
        now += pause
        told += floods.due("x", now=now)
    assert told + floods.due("x", now=now + floods.WINDOW_SECONDS + 1) == len(pauses) + 1


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(floods, "MOST_KEPT", 3)
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
