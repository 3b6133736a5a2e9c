from datetime import timedelta

import pytest
from django.db import OperationalError
from django.db.models.functions import Now

from accounts.models import User
from audit.models import Entry
from conversations.models import Conversation, Message, Reservation, Runner
from conversations.turn import (
    Progress,
    TurnEnded,
    close_abandoned,
    close_reply,
    closing,
    save_progress,
)
from conversations.turn.closing import beat, forget_dead_runners
from prompts.provider import Usage

State = Message.State
ENDED = TurnEnded(
    State.COMPLETED, finish_reason="stop", model="m-1", usage=Usage(10, 4, 5), duration_ms=900
)


def test_the_outcome_is_written_with_its_figures(begin):
    turn = begin()
    assert close_reply(turn.reply, Progress("Hello.", "Hm", 12), ENDED)
    reply = Message.objects.get(pk=turn.reply.pk)
    assert (reply.state, reply.content, reply.thinking) == (State.COMPLETED, "Hello.", "Hm")
    assert (reply.tokens_in, reply.tokens_cached, reply.tokens_out) == (10, 4, 5)
    assert (reply.model, reply.cursor, reply.duration_ms) == ("m-1", 12, 900)
    assert reply.runner_id is None
    entry = Entry.objects.latest("id")
    assert (entry.event, entry.outcome) == ("turn.ended", "succeeded")


def test_an_end_costs_four_statements(begin, olive, django_assert_num_queries):
    turn = begin(by=User.objects.with_roles().get(pk=olive.pk))
    savepoint = 2  # of the test alone, in whose transaction everything happens
    with django_assert_num_queries(4 + savepoint):
        assert close_reply(turn.reply, Progress("Hello.", "", 12), ENDED)


def test_an_end_that_fails_may_be_tried_again(begin, monkeypatch):
    turn = begin()
    with monkeypatch.context() as patched:
        patched.setattr(closing, "exchange", _database_away)
        with pytest.raises(OperationalError):
            close_reply(turn.reply, Progress("Hello.", "", 12), ENDED)
    assert Message.objects.get(pk=turn.reply.pk).state == State.STREAMING
    assert close_reply(turn.reply, Progress("Hello.", "", 12), ENDED)
    reply = Message.objects.get(pk=turn.reply.pk)
    assert (reply.duration_ms, reply.tokens_in, reply.state) == (900, 10, State.COMPLETED)
    assert Reservation.objects.get(reply=reply).settled_at


def _database_away(_charged):
    raise OperationalError


def test_an_end_learns_the_title_that_somebody_gave_meanwhile(begin):
    turn = begin()
    conversation = Conversation.objects.get(pk=turn.conversation.pk)
    conversation.title = "Ledgers"
    conversation.save()
    assert close_reply(turn.reply, Progress("Hello.", "", 12), ENDED)
    assert turn.reply.conversation.title == "Ledgers"


def test_whoever_ends_it_first_wins(begin):
    turn = begin()
    assert close_reply(turn.reply, Progress("First", "", 1), ENDED)
    assert not close_reply(turn.reply, Progress("Second", "", 2), ENDED)
    assert Message.objects.get(pk=turn.reply.pk).content == "First"


def test_a_run_that_lost_its_fence_changes_nothing(begin):
    turn = begin()
    Message.objects.filter(pk=turn.reply.pk).update(fence=turn.reply.fence + 1)
    assert not save_progress(turn.reply, Progress("Late", "", 5)).owned
    assert not close_reply(turn.reply, Progress("Late", "", 5), ENDED)
    assert Message.objects.get(pk=turn.reply.pk).state == State.STREAMING
    assert Reservation.objects.get(reply=turn.reply).settled_at is None


def test_a_snapshot_tells_that_a_stop_was_asked_for(begin):
    turn = begin()
    assert not save_progress(turn.reply, Progress("a", "", 1)).stop_requested
    Message.objects.filter(pk=turn.reply.pk).update(stop_requested_at=Now())
    saved = save_progress(turn.reply, Progress("ab", "", 2))
    assert (saved.owned, saved.stop_requested) == (True, True)
    assert Message.objects.get(pk=turn.reply.pk).content == "ab"


def test_the_reply_of_a_silent_process_is_interrupted_and_keeps_its_text(begin, runner_row):
    turn = begin()
    save_progress(turn.reply, Progress("So far", "", 3))
    Runner.objects.update(beat_at=Now() - timedelta(seconds=7))
    (abandoned,) = close_abandoned()
    reply = Message.objects.get(pk=turn.reply.pk)
    assert (reply.state, reply.fault, reply.content) == (
        State.INTERRUPTED,
        "process_died",
        "So far",
    )
    assert reply.fence == abandoned.fence == turn.reply.fence + 1
    assert not close_reply(turn.reply, Progress("Zombie", "", 9), ENDED)


def test_the_reply_of_a_living_process_is_left_alone(begin, runner_row):
    begin()
    Runner.objects.update(beat_at=Now() - timedelta(seconds=5))
    beat(runner_row)
    assert close_abandoned() == []


def test_dead_processes_are_forgotten_when_they_own_nothing(begin, runner_row):
    turn = begin()
    Runner.objects.update(beat_at=Now() - timedelta(hours=2))
    forget_dead_runners()
    assert Runner.objects.exists()
    close_reply(turn.reply, Progress("", "", 0), ENDED)
    forget_dead_runners()
    assert not Runner.objects.exists()


def test_figures_add_up_over_the_runs_of_a_reply(begin):
    turn = begin()
    turn.reply.tokens_in, turn.reply.tokens_cached, turn.reply.tokens_out = 1, 1, 1
    turn.reply.duration_ms = 100
    assert close_reply(turn.reply, Progress("x", "", 1), ENDED)
    reply = Message.objects.get(pk=turn.reply.pk)
    assert (reply.tokens_in, reply.tokens_cached, reply.tokens_out) == (11, 5, 6)
    assert reply.duration_ms == 1000
