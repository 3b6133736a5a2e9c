"""Deleting what was said: what goes with it, what stays right, what is left alone."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings
from django.db import IntegrityError, connection, transaction

from conversations.models import BudgetWindow, Conversation, Feedback, Message, Reservation
from conversations.reply.log import key_of
from conversations.retention.deletion import Chunk, delete_conversations, delete_messages
from tests.faults.books import WRONG

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 22, 13, tzinfo=UTC)


def _aged(message: Message, days: float) -> Message:
    Message.objects.filter(pk=message.pk).update(created_at=NOW - timedelta(days=days))
    return message


def _delete(*messages: Message) -> Chunk:
    with transaction.atomic():
        given = [(message.conversation_id, message.pk) for message in messages]
        return delete_messages(given, purged_before=NOW)


def test_a_whole_conversation_goes_with_all_that_hangs_on_it(finished, ada):
    turn = finished()
    other = finished("Another one?")
    Feedback.objects.create(reply=turn.reply, rating="up")
    deleted = delete_conversations([turn.conversation.pk, uuid.uuid4()])
    assert deleted.counts() == {
        "messages": 2,
        "conversations": 1,
        "feedback": 1,
        "reservations": 1,
    }
    assert [c.pk for c in Conversation.objects.all()] == [other.conversation.pk]
    assert Message.objects.count() == 2
    assert not Feedback.objects.exists()
    assert Reservation.objects.get().reply_id == other.reply.pk
    sessions = BudgetWindow.objects.filter(scope="session")
    assert [window.subject for window in sessions] == [other.conversation.pk]


def test_a_conversation_in_which_a_reply_is_written_stays(begin):
    turn = begin()
    deleted = delete_conversations([turn.conversation.pk])
    assert deleted.busy == {turn.conversation.pk}
    assert deleted.counts() == dict.fromkeys(deleted.counts(), 0)
    assert Message.objects.count() == 2


def test_what_redis_holds_goes_once_it_is_committed(finished, django_capture_on_commit_callbacks):
    whole, part = finished(), finished("And you?")
    late = finished("More?", conversation=part.conversation)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for turn in (whole, part, late):
            key = key_of(turn.conversation.pk)
            client.xadd(key, {"f": b"sealed"}, id=f"{turn.reply.fence}-0")
        with django_capture_on_commit_callbacks(execute=True):
            delete_conversations([whole.conversation.pk])
            _delete(part.question, part.reply)
        assert not client.exists(key_of(whole.conversation.pk))
        ((entry, _),) = client.xrange(key_of(part.conversation.pk))
        assert entry == f"{late.reply.fence}-0".encode()


def test_what_follows_a_deleted_message_stays_and_loses_its_parent(finished):
    first = finished()
    second = finished("More?", conversation=first.conversation)
    for message in (first.question, first.reply):
        _aged(message, 31)
    chunk = _delete(first.question, first.reply)
    assert chunk.gone == [first.question.pk, first.reply.pk]
    assert chunk.deleted.counts()["messages"] == 2
    second.question.refresh_from_db()
    assert second.question.parent_id is None
    conversation = Conversation.objects.get(pk=first.conversation.pk)
    assert conversation.leaf_id == second.reply.pk
    assert conversation.fence == second.reply.fence
    assert conversation.purged_before == NOW
    assert conversation.key_day == datetime.now(UTC).date()


def test_a_deleted_end_gives_way_to_the_newest_living_message(finished):
    first = finished()
    second = finished("More?", conversation=first.conversation)
    _delete(second.question, second.reply)
    assert Conversation.objects.get().leaf_id == first.reply.pk


def _dangling() -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(WRONG["pointers to what is gone"])
        return list(cursor.fetchall())


def test_whatever_of_a_conversation_goes_nothing_points_to_it(finished):
    turns = [finished()]
    for question in ("Two?", "Three?", "Four?"):
        turns.append(finished(question, conversation=turns[0].conversation))
    for turn in turns:
        Feedback.objects.create(reply=turn.reply, rating="up")
    said = [each for turn in turns for each in (turn.question, turn.reply)]
    for some in (said[2:4], said[7:], said[:1], said[4:6]):
        _delete(*some)
        assert not _dangling()
    assert list(Message.objects.values_list("pk", "parent").order_by("created_at")) == [
        (said[1].pk, None),
        (said[6].pk, None),
    ]


@pytest.mark.parametrize("left", [Feedback, Reservation])
def test_a_message_is_refused_to_go_without_what_hangs_on_it(finished, left):
    reply = finished().reply
    Feedback.objects.create(reply=reply, rating="up")
    (Reservation if left is Feedback else Feedback).objects.filter(reply=reply).delete()
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM conversations_message WHERE id = %s", [reply.pk])
    assert left.objects.get().reply_id == reply.pk


def test_a_session_that_goes_is_not_looked_for_in_all_reservations():
    """A foreign key would do so, since reservations have no index of their windows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
            " AND confrelid = 'conversations_budgetwindow'::regclass"
        )
        assert cursor.fetchone() == (0,)


def test_an_emptied_conversation_goes_whole(finished):
    turn = finished()
    chunk = _delete(turn.question, turn.reply)
    assert chunk.deleted.conversations == 1
    assert not Conversation.objects.exists()


def test_a_reply_that_is_written_and_its_question_stay(finished, begin):
    before = finished()
    turn = begin("And now?", before.conversation)
    chunk = _delete(before.question, before.reply, turn.question, turn.reply)
    assert chunk.gone == [before.question.pk, before.reply.pk]
    turn.reply.refresh_from_db()
    assert turn.reply.parent_id == turn.question.pk
    assert Conversation.objects.get().leaf_id == turn.reply.pk


def test_a_title_goes_when_it_is_no_younger_than_what_goes(finished):
    turn = finished()
    later = finished("More?", conversation=turn.conversation)
    stored = Conversation.objects.get()
    stored.title = "The plan"
    stored.save()
    with transaction.atomic():
        delete_messages(
            [(stored.pk, turn.question.pk)], purged_before=datetime.now(UTC) - timedelta(days=1)
        )
    assert Conversation.objects.get().title == "The plan"
    with transaction.atomic():
        delete_messages([(stored.pk, turn.reply.pk)], purged_before=datetime.now(UTC))
    assert not Conversation.objects.get().title
    assert later.reply.pk == Conversation.objects.get().leaf_id


@pytest.mark.django_db(transaction=True)
def test_a_conversation_that_somebody_works_on_is_not_waited_for(finished):
    turn, free = finished(), finished("Another?")
    beside = connection.copy()
    try:
        with beside.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "SELECT FROM conversations_conversation WHERE id = %s FOR UPDATE",
                [turn.conversation.pk],
            )
            with transaction.atomic():
                deleted = delete_conversations([turn.conversation.pk, free.conversation.pk])
    finally:
        beside.close()
    assert deleted.busy == {turn.conversation.pk}
    assert Conversation.objects.get().pk == turn.conversation.pk
