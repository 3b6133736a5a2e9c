"""Values that a process keeps for some seconds."""

import time

import pytest
from django.db import transaction

from chatbot.kept import KEPT_SECONDS, Kept


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_value_is_loaded_once_and_again_when_it_is_too_old(clock):
    given = []
    kept = Kept(lambda before: given.append(before) or len(given))
    assert [kept.get(), kept.get()] == [1, 1]
    clock.now += KEPT_SECONDS + 0.1
    assert kept.get() == 2
    assert given == [None, 1], "the loader sees what it is about to replace"


def test_what_was_forgotten_while_it_was_read_is_not_kept(clock):
    values = iter(["before the change", "after it"])

    def load(_before: object) -> str:
        value = next(values)
        if value == "before the change":
            kept.forget()
        return value

    kept = Kept(load)
    assert kept.get() == "before the change"
    assert kept.get() == "after it"


def test_an_error_is_told_and_nothing_is_kept(clock):
    answers = iter([ValueError("no such rule"), "fine"])

    def load(_before: object) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(load)
    with pytest.raises(ValueError, match="no such rule"):
        kept.get()
    assert kept.get() == "fine"


@pytest.mark.django_db(transaction=True)
def test_a_change_holds_in_its_transaction_and_is_read_anew_once_others_see_it():
    loads = []
    kept = Kept(lambda _before: loads.append(1) or len(loads))
    kept.get()
    with transaction.atomic():
        kept.forget_when_committed()
        assert kept.get() == 2
        assert kept.get() == 2
    assert kept.get() == 3
