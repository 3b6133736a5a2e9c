"""The purge: exactly what is due goes, whatever happens meanwhile, and the evidence matches."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F

from accounts.access import Denied
from audit.models import Entry
from audit.sealing import seal
from audit.statements import signed_by
from audit.verify import CompactRange, leaf_hash
from conversations.keyring import KeyDay, KeyGone, keyring
from conversations.models import (
    BudgetWindow,
    Conversation,
    Feedback,
    Message,
    PurgeRun,
    RetentionPolicy,
)
from conversations.retention import purge as purging
from conversations.retention.holds import place
from conversations.retention.policies import set_period
from conversations.retention.purge import confirm, cutoffs, oldest_due, purge, standing
from tests.audit.conftest import SEED

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _keys_of_its_own(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keyring")


DAY = timedelta(days=1)


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def aged(conversation: Conversation, days: float) -> None:
    """Let a conversation and all in it be so much older than it is."""
    older = timedelta(days=days)
    conversation.messages.update(created_at=F("created_at") - older)
    Conversation.objects.filter(pk=conversation.pk).update(
        created_at=F("created_at") - older, key_day=(datetime.now(UTC) - older).date()
    )


def root_over(ids: list[uuid.UUID]) -> bytes:
    tree = CompactRange()
    for pk in ids:
        tree.append(leaf_hash(pk.bytes))
    return tree.root()


def test_what_is_due_goes_and_the_rest_stays(finished):
    old, young = finished(), finished("And you?")
    aged(old.conversation, 31)
    run = purge(in_days(0))
    assert run.state == "finished"
    assert run.counts["messages"] == 2
    assert run.counts["conversations"] == 1
    assert bytes(run.root) == root_over([old.question.pk, old.reply.pk])
    assert set(Message.objects.values_list("pk", flat=True)) == {young.question.pk, young.reply.pk}
    assert Entry.objects.get(event="retention.purged").payload["counts"]["messages"] == 2


def test_to_purge_again_deletes_nothing_more(finished):
    aged(finished().conversation, 31)
    finished("And you?")
    purge(in_days(0))
    run = purge(in_days(0))
    assert set(run.counts.values()) == {0}
    assert Message.objects.count() == 2


def test_a_temporary_chat_goes_after_a_day(finished):
    turn = finished()
    Conversation.objects.update(retention_class=2)
    aged(turn.conversation, 0.9)
    assert purge(in_days(0)).counts["messages"] == 0
    assert purge(in_days(0.2)).counts["messages"] == 2


def test_small_chunks_delete_the_same_in_the_same_order(finished):
    turns = [finished(f"Question {n}?") for n in range(3)]
    finished("More?", conversation=turns[0].conversation)
    for turn in turns:
        aged(turn.conversation, 31)
    ordered = list(
        Message.objects.order_by("conversation_id", "created_at", "pk").values_list("pk", flat=True)
    )
    run = purge(in_days(0), chunk=3)
    assert run.counts["messages"] == 8
    assert bytes(run.root) == root_over(ordered)
    assert not Conversation.objects.exists()


@pytest.fixture
def stubborn() -> Callable[[Message], None]:
    """Let the database refuse to delete one message."""

    def refuse(message: Message) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$"
                f" BEGIN IF OLD.id = '{message.pk}' THEN RAISE EXCEPTION 'not this one'; END IF;"
                " RETURN OLD; END $$;"
                "CREATE TRIGGER refuse_one BEFORE DELETE ON conversations_message"
                " FOR EACH ROW EXECUTE FUNCTION refuse_one()"
            )

    return refuse


def test_a_row_that_cannot_be_deleted_blocks_no_other(finished, stubborn):
    turns = [finished(f"Question {n}?") for n in range(3)]
    for turn in turns:
        aged(turn.conversation, 31)
    stubborn(turns[1].question)
    run = purge(in_days(0))
    assert run.skipped == 1
    assert run.counts["messages"] == 5
    left = Message.objects.get()
    assert left.pk == turns[1].question.pk
    assert Conversation.objects.get().leaf_id == left.pk
    entry = Entry.objects.get(event="retention.purged")
    assert (entry.outcome, entry.payload["skipped"]) == ("failed", 1)
    assert purge(in_days(0)).skipped == 1, "it is tried again"
    assert oldest_due(in_days(0)) > 0.9 * DAY.total_seconds()


def test_a_reply_that_is_written_stays_with_its_question(finished, begin):
    before = finished()
    turn = begin("And now?", before.conversation)
    aged(turn.conversation, 31)
    run = purge(in_days(0))
    assert run.counts["messages"] == 2
    assert set(Message.objects.values_list("pk", flat=True)) == {turn.question.pk, turn.reply.pk}


# --- keys and what is under them --------------------------------------------------------------


def test_the_key_of_a_day_goes_once_the_whole_day_is_due(finished):
    turn = finished()
    today = KeyDay(1, datetime.now(UTC).date())
    midnight = datetime.combine(today.day + DAY, datetime.min.time(), UTC)
    run = purge(midnight + 30 * DAY - timedelta(seconds=1))
    assert not Message.objects.exists()
    assert today in keyring().days()
    assert run.key_days == []
    run = purge(midnight + 30 * DAY)
    assert run.key_days == [today.name]
    with pytest.raises(KeyGone):
        keyring().cipher(today, turn.conversation.pk)


def test_a_key_stays_while_a_message_needs_it(finished, stubborn):
    turn = finished()
    stubborn(turn.reply)
    assert purge(in_days(32)).key_days == []
    assert KeyDay(1, datetime.now(UTC).date()) in keyring().days()


def test_a_living_conversation_needs_no_key_of_a_day_that_is_over(finished):
    turn = finished()
    stored = Conversation.objects.get()
    stored.title = "The plan"
    stored.save()
    turn.conversation.messages.update(created_at=in_days(20))
    run = purge(in_days(32))
    assert run.counts["messages"] == 0
    assert run.key_days == [KeyDay(1, datetime.now(UTC).date()).name]
    living = Conversation.objects.get()
    assert not living.title_sealed
    assert living.key_day == in_days(20).date()


def test_old_budgets_go_and_those_that_a_reply_names_stay(finished):
    turn = finished()
    BudgetWindow.objects.update(ends_at=in_days(-401))
    gone = BudgetWindow.objects.create(
        scope="day", subject=uuid.uuid4(), starts_at=in_days(-402), ends_at=in_days(-401)
    )
    assert purge(in_days(0)).counts["windows"] == 1
    assert not BudgetWindow.objects.filter(pk=gone.pk).exists()
    assert turn.reply.reservation.day.pk


# --- a clock that jumps -----------------------------------------------------------------------


@pytest.fixture
def few(settings) -> None:
    settings.RETENTION_MAX_MESSAGES_UNASKED = 3


def test_a_clock_a_year_ahead_stops_the_purge_which_asks(few, finished, ravi, olive):
    for n in range(2):
        finished(f"Question {n}?")
    run = purge(in_days(365))
    assert (run.state, run.due) == ("asking", 4)
    assert Message.objects.count() == 4
    assert Entry.objects.get(event="retention.stopped").payload == {"due": 4, "of": 4}
    assert purge(in_days(365)).pk == run.pk, "it asks once"
    with pytest.raises(Denied):
        confirm(run, by=olive, now=in_days(365))
    assert confirm(run, by=ravi, now=in_days(365))
    assert purge(in_days(365)).pk == run.pk
    assert not Message.objects.exists()
    assert Entry.objects.filter(event="retention.confirmed", actor_id=str(ravi.pk)).exists()


def test_a_purge_that_asked_by_a_wrong_clock_is_withdrawn_by_a_right_one(few, finished):
    for n in range(2):
        finished(f"Question {n}?")
    asked = purge(in_days(365))
    run = purge(in_days(0))
    asked.refresh_from_db()
    assert (asked.state, run.state) == ("withdrawn", "finished")
    assert Message.objects.count() == 4


def test_a_confirmed_purge_deletes_no_more_than_is_due_by_the_clock_of_now(few, finished, ravi):
    for n in range(2):
        finished(f"Question {n}?")
    asked = purge(in_days(365))
    confirm(asked, by=ravi, now=in_days(0))
    assert purge(in_days(0)).pk == asked.pk
    assert Message.objects.count() == 4


def test_few_messages_need_no_question(finished):
    finished()
    assert purge(in_days(365)).state == "finished"
    assert not Message.objects.exists()


# --- evidence ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_certificate_is_signed_by_the_key_of_the_log(finished, settings, tmp_path, monkeypatch):
    settings.AUDIT_FOLDER = tmp_path / "audit"
    turn = finished()
    aged(turn.conversation, 31)
    run = purge(in_days(0))
    assert not run.certificate, "the log has no key yet"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    seal()
    purge(in_days(0))
    run.refresh_from_db()
    assert signed_by(run.certificate)
    assert not signed_by(run.certificate.replace("deleted 2 messages", "deleted 1 messages"))
    lines = run.certificate.split("\n")
    assert lines[0] == "parley-retention-purge/v1"
    assert "deleted 2 messages" in lines
    assert f"root {root_over([turn.question.pk, turn.reply.pk]).hex()} over 2 ids" in lines
    with pytest.raises(Exception, match="never changed"), transaction.atomic():
        PurgeRun.objects.filter(pk=run.pk).update(held=3)
    with pytest.raises(Exception, match="never changed"), transaction.atomic():
        PurgeRun.objects.filter(pk=run.pk).delete()


def test_the_report_tells_what_is_due_and_what_went(finished):
    old, older = finished(), finished("And you?")
    for turn, days in ((old, 30.04), (older, 31)):
        Feedback.objects.create(reply=turn.reply, rating="up")
        aged(turn.conversation, days)
    now = in_days(0)
    found = {each.kind: each for each in standing(now)}
    assert (found["messages"].due, found["messages"].overdue) == (4, 2)
    assert (found["feedback"].due, found["feedback"].overdue) == (2, 1)
    assert oldest_due(now) == pytest.approx(DAY.total_seconds(), abs=60)
    purge(now)
    found = {each.kind: each for each in standing(in_days(0.01))}
    assert (found["messages"].due, found["messages"].purged) == (0, 4)
    assert found["feedback"].purged == 2
    assert oldest_due(in_days(0)) == 0


def test_a_period_that_grows_meanwhile_stops_a_purge_at_its_next_chunk(finished, ravi, monkeypatch):
    for turn in (finished("First?"), finished("Second?"), finished("Third?")):
        aged(turn.conversation, 31)
    now, delete = in_days(0), purging.delete_messages

    def and_then_the_period_grows(*given, **named):
        chunk = delete(*given, **named)
        if Message.objects.count() == 4:
            set_period(RetentionPolicy.objects.get(pk=1), 40 * 24, by=ravi, now=now)
        return chunk

    monkeypatch.setattr(purging, "delete_messages", and_then_the_period_grows)
    run = purge(now, chunk=2)
    assert (run.counts["messages"], Message.objects.count()) == (2, 4)
    # What the certificate says is what was gone by, both times.
    of_standard = [each for each in run.cutoffs if each["retention_class"] == 1]
    assert [(each["version"], each["hours"]) for each in of_standard] == [(1, 720), (2, 960)]


def test_what_is_due_follows_the_policy_in_force(ravi):

    now = in_days(0)
    set_period(RetentionPolicy.objects.get(pk=1), 7 * 24, by=ravi, now=now)
    assert cutoffs(now)[0].before == now - 30 * DAY
    assert cutoffs(now + DAY)[0].before == now + DAY - 7 * DAY


# --- holds ------------------------------------------------------------------------------------


def test_what_is_held_stays_readable_and_is_told(finished, ravi):
    held, free = finished("Hold this."), finished("And you?")
    place(
        held.conversation,
        matter="2026-118",
        reason="A claim.",
        review_on=in_days(90).date(),
        by=ravi,
    )
    run = purge(in_days(32))
    assert (run.counts["messages"], run.held) == (2, 2)
    assert not Conversation.objects.filter(pk=free.conversation.pk).exists()
    assert run.key_days == [KeyDay(1, datetime.now(UTC).date()).name]
    assert Message.objects.get(pk=held.question.pk).content == "Hold this."
    (messages, *_) = standing(in_days(32))
    assert (messages.due, messages.held, messages.overdue) == (0, 2, 0)


def test_a_lost_key_of_a_hold_keeps_the_day_and_stops_nothing_else(finished, ravi):
    held, free = finished("Hold this."), finished("And you?")
    review = in_days(90).date()
    hold = place(held.conversation, matter="1", reason="A claim.", review_on=review, by=ravi)
    keyring().destroy_hold(hold.pk)  # an old copy of the keyring was put back
    run = purge(in_days(32))
    assert (run.state, run.counts["messages"], run.key_days) == ("finished", 2, [])
    assert not Conversation.objects.filter(pk=free.conversation.pk).exists()
    assert Message.objects.get(pk=held.question.pk).content == "Hold this."


@pytest.mark.django_db(transaction=True)
def test_a_hold_that_comes_between_choosing_and_deleting_is_seen(finished, ravi, monkeypatch):
    turn, other = finished("Hold this."), finished("And you?")
    aged(turn.conversation, 31)
    aged(other.conversation, 31)
    choose = purging._Work._next

    def chosen_then_held(work, cutoff):
        rows = choose(work, cutoff)
        if rows:
            place(
                turn.conversation,
                matter="1",
                reason="A claim.",
                review_on=in_days(9).date(),
                by=ravi,
            )
        return rows

    monkeypatch.setattr(purging._Work, "_next", chosen_then_held)
    run = purge(in_days(0))
    assert (run.counts["messages"], run.held, run.skipped) == (2, 2, 0)
    assert set(Message.objects.values_list("pk", flat=True)) == {turn.question.pk, turn.reply.pk}
