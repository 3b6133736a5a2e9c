"""A hold and what destroys, at the same moment, on connections of their own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from conversations.keyring import KeyDay, keyring
from conversations.models import Conversation, Message
from conversations.retention import holds
from conversations.retention.deletion import delete_conversations
from conversations.retention.holds import forget_held_keys, held, place
from conversations.retention.purge import _Work, purge

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime.now(UTC)
SOON = NOW.date() + timedelta(days=90)
WHY = {"matter": "Case 7", "reason": "A claim was announced.", "review_on": SOON}
PATIENCE_SECONDS = 20


@pytest.fixture(autouse=True)
def _keys_of_its_own(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keyring")
    forget_held_keys()


@pytest.fixture
def beside():
    """Run something in a thread with a connection of its own."""
    with ThreadPoolExecutor(1) as thread:

        def run(work, *args, **kwargs):
            def alone():
                try:
                    return work(*args, **kwargs)
                finally:
                    connection.close()

            return thread.submit(alone)

        yield run


@pytest.fixture
def talk(finished):
    """A conversation of four turns; in a month all of it is due."""
    first = finished("Question 0?").conversation
    for number in range(1, 4):
        finished(f"Question {number}?", conversation=Conversation.objects.get(pk=first.pk))
    return first


def in_a_month():
    return NOW + timedelta(days=32)


def wait_until_somebody_waits_for_a_lock():
    deadline = time.monotonic() + PATIENCE_SECONDS
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(waiting)
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("Nobody waits for a lock.")


@pytest.fixture
def placing_slowly(ravi, beside, monkeypatch):
    """Place a hold beside, up to where it has its locks; give what lets it go on."""

    def begin_to(on):
        locked, go_on = threading.Event(), threading.Event()
        keep = holds._keep

        def slowly(*args):
            locked.set()
            assert go_on.wait(PATIENCE_SECONDS)
            return keep(*args)

        monkeypatch.setattr(holds, "_keep", slowly)
        placing = beside(place, on, by=ravi, **WHY)
        assert locked.wait(PATIENCE_SECONDS)
        monkeypatch.setattr(holds, "_keep", keep)
        return placing, go_on

    return begin_to


@pytest.mark.parametrize("on_person", [True, False])
def test_a_hold_placed_during_a_purge_keeps_what_is_not_committed_yet(
    talk, olive, ravi, beside, monkeypatch, on_person
):
    """The purge is inside its first chunk when the hold is placed, which waits for it."""
    placing = []
    grow, following = _Work._grow, _Work._next

    def in_the_first_chunk(work, gone):
        grow(work, gone)
        if not placing:
            placing.append(beside(place, olive if on_person else talk, by=ravi, **WHY))
            wait_until_somebody_waits_for_a_lock()

    def between_chunks(work, cutoff):
        if placing:
            placing[0].result(PATIENCE_SECONDS)
        return following(work, cutoff)

    monkeypatch.setattr(_Work, "_grow", in_the_first_chunk)
    monkeypatch.setattr(_Work, "_next", between_chunks)
    run = purge(in_a_month(), chunk=2)
    assert run.counts["messages"] == 2
    assert KeyDay(1, NOW.date()) not in keyring().days()
    kept = Message.objects.select_related("conversation").order_by("created_at")
    assert [each.content for each in kept] == [
        *("Question 1?", "Hi.", "Question 2?", "Hi.", "Question 3?", "Hi.")
    ]
    assert purge(in_a_month()).counts["messages"] == 0


def test_a_purge_during_the_placing_of_a_hold_leaves_everything(talk, olive, placing_slowly):
    """The purge comes when the hold has its locks and is not committed yet."""
    placing, go_on = placing_slowly(olive)
    run = purge(in_a_month())
    assert (run.counts["messages"], run.key_days) == (0, [])
    go_on.set()
    placing.result(PATIENCE_SECONDS)
    assert held([talk.pk]) == {talk.pk}
    run = purge(in_a_month())
    assert run.counts["messages"] == 0
    assert run.key_days == [KeyDay(1, NOW.date()).name]
    assert {each.content for each in Message.objects.select_related("conversation")} == {
        *("Question 0?", "Question 1?", "Question 2?", "Question 3?", "Hi.")
    }


def test_a_conversation_that_is_deleted_first_is_not_held(talk, ravi, beside):
    with transaction.atomic():
        assert delete_conversations([talk.pk]).conversations == 1
        placing = beside(place, talk, by=ravi, **WHY)
        wait_until_somebody_waits_for_a_lock()
    with pytest.raises(holds.HoldRefused, match="gone"):
        placing.result(PATIENCE_SECONDS)


def test_a_conversation_that_begins_while_its_owner_is_being_held_is_held(
    olive, begin, placing_slowly
):
    placing, go_on = placing_slowly(olive)
    threading.Timer(0.2, go_on.set).start()
    begun = begin().conversation  # waits for the hold
    placing.result(PATIENCE_SECONDS)
    assert held([begun.pk]) == {begun.pk}


def test_the_end_of_one_hold_and_the_beginning_of_another_lose_no_key(
    talk, olive, ravi, placing_slowly
):
    """The second is placed while the first, which alone has the keys, is being ended."""
    first = place(talk, by=ravi, **WHY)
    holds.keep_keys(KeyDay(1, NOW.date()))
    keyring().destroy(KeyDay(1, NOW.date()))
    lifted = holds.lift(first, reason="Settled.", by=ravi)
    placing, go_on = placing_slowly(olive)
    threading.Timer(0.2, go_on.set).start()
    assert holds.end_due(lifted.ends_at) == 1  # waits for the other
    placing.result(PATIENCE_SECONDS)
    forget_held_keys()
    assert len(keyring().holds()) == 1
    assert all(each.content for each in Message.objects.select_related("conversation"))
