"""Deleting one's own conversations: hidden at once, brought back for a while, then destroyed."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from audit.models import Entry
from conversations.models import Conversation, Message
from conversations.reply.log import key_of
from conversations.retention.holds import end_due, lift, place
from conversations.rights.deleting import (
    delete,
    delete_all,
    deletion_of,
    deletions,
    destroy_due,
    undo,
)
from conversations.turn import Progress, TurnEnded, close_reply, save_progress

pytestmark = pytest.mark.django_db
LATER = timedelta(minutes=11)


def later() -> datetime:
    return timezone.now() + LATER


def events(*names: str) -> list[str]:
    return list(
        Entry.objects.filter(event__in=names).order_by("pk").values_list("event", flat=True)
    )


@pytest.fixture
def hold(ravi):
    def put(on):
        soon = datetime.now(UTC).date() + timedelta(days=90)
        return place(on, matter="Case 7", reason="A claim came.", review_on=soon, by=ravi)

    return put


# --- one --------------------------------------------------------------------------------------


def test_a_deleted_conversation_is_hidden_at_once(finished, olive, olive_client):
    conversation = finished().conversation
    delete(conversation.pk, by=olive)
    assert not Conversation.objects.visible_to(olive).exists()
    assert Message.objects.count() == 2
    assert events("conversation.deleted") == ["conversation.deleted"]


def test_it_comes_back_as_it_was_while_it_can_be_undone(finished, olive):
    turn = finished("Where is it?", "Here.")
    delete(turn.conversation.pk, by=olive)
    destroy_due(timezone.now() + timedelta(minutes=9))
    assert undo(turn.conversation.pk, by=olive) == 1
    back = Conversation.objects.visible_to(olive).get()
    assert [m.content for m in back.messages.order_by("created_at")] == ["Where is it?", "Here."]
    assert back.deleted_at is None
    assert events("conversation.restored") == ["conversation.restored"]


def test_what_was_archived_is_archived_again(finished, olive):
    archived, active = finished().conversation, finished().conversation
    Conversation.objects.filter(pk=archived.pk).update(lifecycle="archived")
    delete_all(by=olive)
    assert undo(active.pk, by=olive) == 2
    states = Conversation.objects.values_list("pk", "lifecycle", "deleted_from")
    assert set(states) == {(archived.pk, "archived", ""), (active.pk, "active", "")}


def test_then_it_is_destroyed_and_nothing_brings_it_back(finished, olive):
    gone, kept = finished().conversation, finished("Stays").conversation
    delete(gone.pk, by=olive)
    assert destroy_due(later()) == 1
    assert [c.pk for c in Conversation.objects.all()] == [kept.pk]
    assert Message.objects.count() == 2
    assert undo(gone.pk, by=olive) == 0
    destroyed = Entry.objects.get(event="conversation.destroyed")
    assert (destroyed.target_id, destroyed.actor_id) == (str(gone.pk), "rights")
    assert destroy_due(later()) == 0


def test_it_is_too_late_for_an_undo_when_the_time_is_over_though_it_is_there(finished, olive):
    conversation = finished().conversation
    delete(conversation.pk, by=olive)
    Conversation.objects.update(deleted_at=timezone.now() - LATER)
    assert undo(conversation.pk, by=olive) == 0
    assert deletions(olive) == []
    assert deletion_of(olive, conversation.pk) is None


def test_what_redis_holds_goes_with_it(finished, olive, django_capture_on_commit_callbacks):
    conversation = finished().conversation
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.xadd(key_of(conversation.pk), {"f": b"sealed"}, id="1-0")
        delete(conversation.pk, by=olive)
        with django_capture_on_commit_callbacks(execute=True):
            destroy_due(later())
        assert not client.exists(key_of(conversation.pk))


def test_nobody_deletes_or_restores_what_is_somebody_elses(finished, olive, sam, ada):
    conversation = finished().conversation
    for other in (sam, ada):
        with pytest.raises(Conversation.DoesNotExist):
            delete(conversation.pk, by=other)
    delete(conversation.pk, by=olive)
    for other in (sam, ada):
        assert undo(conversation.pk, by=other) == 0
        assert deletion_of(other, conversation.pk) is None


def test_an_open_reply_is_asked_to_stop_and_destroyed_once_it_has(begin, olive):
    turn = begin()
    assert delete(turn.conversation.pk, by=olive) == [turn.reply]
    assert save_progress(turn.reply, Progress("So f", "", 1)).stop_requested
    assert destroy_due(later()) == 0
    assert close_reply(turn.reply, Progress("So far", "", 2), TurnEnded(Message.State.STOPPED))
    assert destroy_due(later()) == 1


def test_one_that_cant_be_destroyed_keeps_no_other(finished, olive):
    ids = [finished().conversation.pk for _ in range(3)]
    for pk in ids:
        delete(pk, by=olive)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF OLD.id = '{ids[1]}' THEN RAISE EXCEPTION 'no'; END IF; RETURN OLD; END $$;"
            " CREATE TRIGGER stuck BEFORE DELETE ON conversations_conversation"
            " FOR EACH ROW EXECUTE FUNCTION stuck()"
        )
    assert destroy_due(later()) == 2
    assert [c.pk for c in Conversation.objects.all()] == [ids[1]]


@pytest.mark.django_db(transaction=True)
def test_an_undo_that_comes_first_wins_over_the_destruction(finished, olive):
    """Two connections with real locks; the destroyer believes that the time is over."""
    conversation = finished().conversation
    delete(conversation.pk, by=olive)
    destroyer = threading.Thread(target=lambda: (destroy_due(later()), connection.close()))
    with transaction.atomic():
        assert undo(conversation.pk, by=olive) == 1
        destroyer.start()
        destroyer.join(10)
    assert not destroyer.is_alive()
    destroy_due(later())
    assert Conversation.objects.visible_to(olive).get() == conversation


# --- all --------------------------------------------------------------------------------------


def test_all_go_and_come_back_together(finished, olive, sam):
    for number in range(3):
        finished(f"Number {number}?")
    finished("Of sam's", by=sam)
    delete_all(by=olive)
    assert not Conversation.objects.visible_to(olive).exists()
    assert Conversation.objects.visible_to(sam).count() == 1
    (deletion,) = deletions(olive)
    assert (deletion.count, deletion.minutes_left) == (3, 10)
    assert undo(deletion.conversation_id, by=olive) == 3
    assert Conversation.objects.visible_to(olive).count() == 3
    assert events("rights.all_deleted", "rights.all_restored") == [
        "rights.all_deleted",
        "rights.all_restored",
    ]


def test_undo_of_one_brings_back_that_one_alone(finished, olive):
    first, second = finished().conversation, finished().conversation
    delete(first.pk, by=olive)
    delete(second.pk, by=olive)
    assert [d.count for d in deletions(olive)] == [1, 1]
    undo(first.pk, by=olive)
    assert [c.pk for c in Conversation.objects.visible_to(olive)] == [first.pk]


# --- under a hold -----------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["conversation", "person"])
def test_what_is_held_is_hidden_and_never_destroyed(finished, olive, olive_client, hold, on):
    held, free = finished("Held words").conversation, finished("Free words").conversation
    placed = hold(held if on == "conversation" else olive)
    for conversation in (held, free):
        delete(conversation.pk, by=olive)
    destroy_due(later())
    assert Conversation.objects.filter(pk=held.pk).exists()
    assert Conversation.objects.filter(pk=free.pk).exists() == (on == "person")
    # To its owner both look the same.
    Conversation.objects.update(deleted_at=timezone.now() - LATER)
    for conversation in (held, free):
        assert undo(conversation.pk, by=olive) == 0
        assert olive_client.get(conversation.get_absolute_url()).status_code == 404
    assert "Undo" not in olive_client.get("/account/data/").content.decode()
    end_due(lift(placed, reason="Settled.", by=placed.author).ends_at)
    destroy_due(later())
    assert not Conversation.objects.exists()


# --- pages ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_page_deletes_says_so_and_undoes(finished, olive_client):
    conversation = finished().conversation
    conversation.title = "Of tulips"
    conversation.save()
    page = olive_client.get(conversation.get_absolute_url()).content.decode()
    assert f'action="/c/{conversation.pk}/delete"' in page
    answer = olive_client.post(f"/c/{conversation.pk}/delete", follow=True)
    assert "Deleted: Of tulips." in answer.content.decode()
    # Whoever goes back to it meets the same.
    back = olive_client.get(conversation.get_absolute_url(), follow=True)
    assert "Deleted: Of tulips." in back.content.decode()
    undone = olive_client.post(f"/c/{conversation.pk}/undo")
    assert undone.url == conversation.get_absolute_url()
    assert olive_client.get(undone.url).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_deleting_twice_and_too_late_an_undo_lead_somewhere(finished, olive_client):
    conversation = finished().conversation
    olive_client.post(f"/c/{conversation.pk}/delete")
    assert olive_client.post(f"/c/{conversation.pk}/delete").status_code == 302
    destroy_due(later())
    answer = olive_client.post(f"/c/{conversation.pk}/undo", follow=True)
    assert "too late" in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_your_data_deletes_all_and_undoes(finished, olive_client):
    for _ in range(2):
        finished()
    page = olive_client.get("/account/data/").content.decode()
    assert "Delete all 2 conversations" in page
    deleted = olive_client.post("/account/data/delete", follow=True).content.decode()
    assert "Deleted: 2 conversations." in deleted
    pk = Conversation.objects.first().pk
    undone = olive_client.post(f"/c/{pk}/undo", follow=True).content.decode()
    assert "2 conversations are back." in undone


@pytest.mark.django_db(transaction=True)
def test_a_stranger_deletes_and_sees_nothing(finished, olive, sam_client, client):
    conversation = finished().conversation
    sam_client.post(f"/c/{conversation.pk}/delete")
    assert Conversation.objects.visible_to(olive).exists()
    for address in ("/account/data/", "/account/data/erase/"):
        assert client.get(address).url.startswith("/account/sign-in/")
    assert client.post("/account/data/delete").url.startswith("/account/sign-in/")


@pytest.mark.django_db(transaction=True)
def test_whoever_may_not_chat_any_more_has_these_rights_all_the_same(finished, olive, olive_client):
    finished()
    olive.grants.all().delete()
    assert "Delete your conversation" in olive_client.get("/account/data/").content.decode()
    olive_client.post("/account/data/delete")
    assert not Conversation.objects.visible_to(olive).exists()
