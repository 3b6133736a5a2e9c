"""Legal holds: what they keep, how they stack and end, and that nothing gets past them."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import ProtectedError

from accounts.access import Denied
from audit.models import Entry
from chatbot import telemetry
from conversations.encryption import SealKey, content_digest, derived
from conversations.keyring import KeyDay, KeyGone, keyring
from conversations.models import Conversation, HeldKey, Hold, Message
from conversations.retention import holds
from conversations.retention.holds import (
    HoldRefused,
    end_due,
    forget_held_keys,
    held,
    held_key,
    is_person_held,
    keep_keys,
    lift,
    place,
    without_held,
)

pytestmark = pytest.mark.django_db
NOW = datetime.now(UTC)
TODAY = KeyDay(1, NOW.date())
SOON = NOW.date() + timedelta(days=90)
WHY = {"matter": "Case 7", "reason": "A claim was announced.", "review_on": SOON}


@pytest.fixture(autouse=True)
def _keys_of_its_own(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keyring")
    forget_held_keys()


@pytest.fixture
def hold(ravi):
    """Place a hold as ravi does."""

    def put(on, **given):
        return place(on, by=ravi, **{**WHY, **given})

    return put


def destroyed(day=TODAY):
    """Do to a day what the purge does."""
    kept = keep_keys(day)
    keyring().destroy(day)
    return kept


def over(hold, by):
    """Lift a hold and let its delay pass."""
    lifted = lift(hold, reason="Settled.", by=by)
    end_due(lifted.ends_at)
    forget_held_keys()
    return Hold.objects.get(pk=hold.pk)


def content(message):
    forget_held_keys()
    return Message.objects.select_related("conversation").get(pk=message.pk).content


# --- what is held -----------------------------------------------------------------------------


def test_a_hold_on_a_conversation_holds_this_one_alone(finished, hold, olive):
    mine, other = finished().conversation, finished().conversation
    hold(mine)
    assert held([mine.pk, other.pk, uuid.uuid4()]) == {mine.pk}
    assert list(without_held(Conversation.objects.all())) == [other]
    assert set(without_held(Message.objects.all())) == set(other.messages.all())
    assert not is_person_held(olive)


def test_a_hold_on_a_person_holds_all_of_theirs_and_what_they_begin_later(
    finished, begin, hold, olive, sam
):
    before, of_sam = finished().conversation, begin(by=sam).conversation
    hold(olive)
    after = finished().conversation
    assert held([before.pk, of_sam.pk, after.pk]) == {before.pk, after.pk}
    assert list(without_held(Conversation.objects.all())) == [of_sam]
    assert is_person_held(olive)
    assert not is_person_held(sam)


def test_holds_stack_and_the_last_one_decides(finished, hold, olive, ravi):
    talk = finished().conversation
    first, second = hold(talk), hold(olive)
    over(first, ravi)
    assert held([talk.pk]) == {talk.pk}
    over(second, ravi)
    assert held([talk.pk]) == set()


def test_a_lifted_hold_goes_on_until_its_delay_is_over(finished, hold, ravi, settings):
    settings.HOLD_DELAY_DAYS = 30
    talk = finished().conversation
    lifted = lift(hold(talk), reason="Settled.", by=ravi)
    assert lifted.ends_at - lifted.lifted_at == timedelta(days=30)
    assert end_due(lifted.ends_at - timedelta(seconds=1)) == 0
    assert held([talk.pk]) == {talk.pk}
    assert end_due(lifted.ends_at) == 1
    assert end_due(lifted.ends_at) == 0
    assert held([talk.pk]) == set()


def test_asking_what_is_held_is_one_query(finished, hold, olive, django_assert_num_queries):
    ids = [finished().conversation.pk for _ in range(3)]
    hold(olive)
    with django_assert_num_queries(1):
        assert held(ids) == set(ids)


# --- placing and lifting ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"matter": " \n"}, "matter"),
        ({"matter": "x" * 201}, "matter"),
        ({"reason": ""}, "reason"),
        ({"review_on": NOW.date()}, "review_on"),
        ({"review_on": NOW.date() - timedelta(days=1)}, "review_on"),
    ],
)
def test_a_hold_wants_matter_reason_and_a_review_to_come(hold, olive, given, field):
    with pytest.raises(HoldRefused) as refused:
        hold(olive, **given)
    assert refused.value.field == field
    assert not Hold.objects.exists()
    assert keyring().holds() == []


def test_a_conversation_that_is_gone_is_not_held(hold, finished):
    talk = finished().conversation
    gone = Conversation(pk=uuid.uuid4(), owner=talk.owner)
    with pytest.raises(HoldRefused, match="gone"):
        hold(gone)


def test_only_those_who_place_holds_place_and_lift_them(olive, ada, hold):
    with pytest.raises(Denied):
        place(olive, by=ada, **WHY)
    with pytest.raises(Denied):
        lift(hold(olive), reason="Settled.", by=olive)


def test_a_hold_is_lifted_once_and_with_a_reason(hold, olive, ravi):
    standing = hold(olive)
    with pytest.raises(HoldRefused, match="reason"):
        lift(standing, reason=" ", by=ravi)
    lift(standing, reason="Settled.", by=ravi)
    with pytest.raises(HoldRefused, match="lifted already"):
        lift(standing, reason="Settled again.", by=ravi)


def test_the_log_tells_of_a_hold_without_matter_and_reason(hold, finished, olive, ravi):
    talk = finished().conversation
    on_person, on_talk = hold(olive, matter="Planted v. Parley"), hold(talk)
    over(on_talk, ravi)
    entries = Entry.objects.filter(event__startswith="hold.").order_by("id")
    assert [(e.event, e.target_id, e.actor_id, e.payload["hold"]) for e in entries] == [
        ("hold.placed", str(olive.pk), str(ravi.pk), str(on_person.pk)),
        ("hold.placed", str(talk.pk), str(ravi.pk), str(on_talk.pk)),
        ("hold.lifted", str(talk.pk), str(ravi.pk), str(on_talk.pk)),
        ("hold.ended", str(talk.pk), "holds", str(on_talk.pk)),
    ]
    assert entries[0].payload["conversations"] == 1
    assert not any("Planted" in str(e.payload) + e.reason for e in entries)


def test_overdue_reviews_are_counted(hold, olive, sam, ravi):
    hold(olive)
    Hold.objects.bulk_create([_overdue(sam, ravi), _overdue(olive, ravi)])
    lift(Hold.objects.filter(user=sam).get(), reason="Settled.", by=ravi)
    holds.refresh_figures()
    assert telemetry.holds_standing._value.get() == 3
    assert telemetry.holds_to_review._value.get() == 1


def _overdue(user, author):
    long_ago = NOW - timedelta(days=100)
    terms = {**WHY, "review_on": NOW.date() - timedelta(days=1)}
    return Hold(user=user, author=author, placed_at=long_ago, **terms)


# --- keys -------------------------------------------------------------------------------------


def test_what_is_held_is_read_when_its_day_has_no_key_any_more(finished, hold):
    kept, lost = finished("keep this"), finished("and not this")
    hold(kept.conversation)
    keyring().destroy(TODAY)
    assert content(kept.question) == "keep this"
    with pytest.raises(KeyGone):
        content(lost.question)


def test_what_is_said_after_the_hold_gets_its_key_before_the_day_goes(finished, hold, olive):
    hold(olive)
    later = finished("said under the hold")
    assert not HeldKey.objects.exists()
    assert destroyed() == 1
    assert content(later.question) == "said under the hold"


def test_keeping_keys_again_adds_none(finished, hold, olive):
    finished()
    hold(olive)
    assert keep_keys(TODAY) == keep_keys(TODAY) == 1
    assert HeldKey.objects.count() == 1


def test_a_title_is_kept_with_the_words(finished, hold):
    turn = finished()
    talk = turn.conversation
    talk.title = "A title"
    talk.save()
    Message.objects.filter(conversation=talk).update(created_at=NOW - timedelta(days=1))
    Conversation.objects.filter(pk=talk.pk).update(key_day=NOW.date() - timedelta(days=1))
    hold(talk)
    assert HeldKey.objects.filter(day=TODAY.day).count() == 1
    HeldKey.objects.all().delete()
    destroyed()
    forget_held_keys()
    assert Conversation.objects.get(pk=talk.pk).title == "A title"


def test_digests_and_placeholders_of_what_is_held_stay_the_same(finished, hold):
    turn = finished("what was said")
    key = turn.question.seal_key()
    before = content_digest("what was said", key), derived(b"pseudonyms", key)
    hold(turn.conversation)
    old = KeyDay(1, NOW.date() - timedelta(days=40))
    _move_to(old, turn, key)
    aged = SealKey(key.conversation_id, old)
    assert (content_digest("what was said", aged), derived(b"pseudonyms", aged)) == before


def _move_to(day, turn, key):
    """Make the held key one of a day that is over and has no key."""
    row = HeldKey.objects.get(conversation=turn.conversation)
    cipher, secret = (
        keyring().hold(row.hold_id),
        keyring().conversation_key(key.day, row.conversation_id).secret,
    )
    row.day = day.day
    aged = SealKey(key.conversation_id, day)
    row.wrapped = holds._wrapped(cipher, row.hold_id, aged, secret)
    row.save()


def test_another_hold_takes_over_what_only_the_first_keeps(finished, hold, olive, ravi):
    turn = finished("keep this")
    first = hold(turn.conversation)
    keyring().destroy(TODAY)
    hold(olive)
    over(first, ravi)
    assert content(turn.question) == "keep this"


def test_the_end_of_the_last_hold_ends_its_keys(finished, hold, ravi):
    turn = finished("keep this")
    only = hold(turn.conversation)
    destroyed()
    assert over(only, ravi).ended_at
    assert not HeldKey.objects.exists()
    assert keyring().holds() == []
    with pytest.raises(KeyGone):
        content(turn.question)


def test_people_can_go_on_between_the_end_of_a_hold_and_the_purge(finished, begin, hold, ravi):
    talk = finished("Write to olive@parley.example").conversation
    long_ago = NOW.date() - timedelta(days=40)
    Conversation.objects.filter(pk=talk.pk).update(key_day=long_ago)
    over(hold(talk), ravi)
    begin("And now to sam@parley.example?", conversation=talk)


def test_a_key_that_outlived_its_hold_goes_with_the_next_run(finished, hold, ravi, monkeypatch):
    standing, ended = hold(finished().conversation), hold(finished().conversation)
    with monkeypatch.context() as died:
        died.setattr(holds, "_destroy_keys_of_ended", lambda: None)
        over(ended, ravi)
    assert set(keyring().holds()) == {standing.pk, ended.pk}
    end_due(NOW)
    assert keyring().holds() == [standing.pk]


def test_a_key_that_was_moved_to_another_row_does_not_open(finished, hold):
    mine, other = finished("mine"), finished("other")
    hold(mine.conversation)
    hold(other.conversation)
    of_other = HeldKey.objects.get(conversation=other.conversation)
    HeldKey.objects.filter(conversation=mine.conversation).update(
        wrapped=of_other.wrapped, hold=of_other.hold
    )
    keyring().destroy(TODAY)
    with pytest.raises(KeyGone):
        content(mine.question)
    assert content(other.question) == "other"


def test_a_page_of_what_is_held_costs_one_query_more(finished, hold, django_assert_num_queries):
    talk = finished().conversation
    finished("more", conversation=Conversation.objects.get(pk=talk.pk))
    hold(talk)
    destroyed()
    messages = list(talk.messages.select_related("conversation"))
    with django_assert_num_queries(1):
        assert all(message.content for message in messages)


def test_on_an_event_loop_the_database_is_not_asked(finished, hold, django_assert_num_queries):
    turn = finished("keep this")
    hold(turn.conversation)
    key = turn.question.seal_key()
    keyring().destroy(TODAY)

    async def on_the_loop():
        return held_key(key)

    with django_assert_num_queries(0):
        assert asyncio.run(on_the_loop()) is None
    assert held_key(key)
    with django_assert_num_queries(0):
        assert asyncio.run(on_the_loop())


# --- the database -----------------------------------------------------------------------------


def execute(statement, *values):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM conversations_hold",
        "UPDATE conversations_hold SET matter = 'another'",
        "UPDATE conversations_hold SET review_on = review_on + 1",
        "UPDATE conversations_hold SET ended_at = now()",
        "UPDATE conversations_hold SET lifted_at = now()",
        "UPDATE conversations_hold SET lifted_at = now(), ends_at = now(), lift_reason = ' '",
        "UPDATE conversations_hold SET user_id = NULL",
    ],
)
def test_the_database_lets_a_standing_hold_only_be_lifted(hold, olive, statement):
    hold(olive)
    with pytest.raises(DatabaseError):
        execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM conversations_hold",
        "UPDATE conversations_hold SET ends_at = now()",
        "UPDATE conversations_hold SET lifted_at = NULL, ends_at = NULL",
        "UPDATE conversations_hold SET ended_at = lifted_at",
    ],
)
def test_the_database_keeps_a_lifted_hold_through_its_delay(hold, olive, ravi, statement):
    lift(hold(olive), reason="Settled.", by=ravi)
    with pytest.raises(DatabaseError):
        execute(statement)


def test_a_hold_that_has_ended_may_be_removed(hold, olive, ravi):
    over(hold(olive), ravi)
    with pytest.raises(DatabaseError):
        execute("UPDATE conversations_hold SET ended_at = NULL")
    Hold.objects.all().delete()


def test_a_hold_is_on_a_person_or_a_conversation(hold, olive, finished):
    talk = finished().conversation
    for both in ({"user": olive, "conversation": talk}, {}):
        with pytest.raises(DatabaseError), transaction.atomic():
            Hold.objects.create(placed_at=NOW, **both, **WHY)


def test_the_database_refuses_to_remove_what_is_held(hold, finished, olive, sam, begin, ravi):
    of_sam = begin(by=sam).conversation
    standing = hold(olive)
    later = finished().conversation
    with pytest.raises(DatabaseError, match="legal hold"):
        execute("DELETE FROM conversations_conversation WHERE id = %s", later.pk)
    with pytest.raises(DatabaseError), transaction.atomic():
        later.delete()
    assert later.messages.count() == 2
    of_sam.delete()
    over(standing, ravi)
    later.delete()


def test_a_conversation_with_kept_keys_is_protected(hold, finished):
    talk = finished().conversation
    hold(talk)
    with pytest.raises(ProtectedError):
        talk.delete()


# --- who is told ------------------------------------------------------------------------------


def test_people_are_told_only_where_the_setting_says_so(finished, hold, olive_client, settings):
    talk = finished().conversation
    page = talk.get_absolute_url()
    for are_told in (False, True):
        settings.HOLDS_ARE_TOLD = are_told
        assert "legal matter" not in olive_client.get(page).content.decode()
    hold(talk)
    assert "Kept for a legal matter." in olive_client.get(page).content.decode()
    settings.HOLDS_ARE_TOLD = False
    assert "legal matter" not in olive_client.get(page).content.decode()
    hold(talk.owner)
    settings.HOLDS_ARE_TOLD = True
    assert "Kept for a legal matter." in olive_client.get("/").content.decode()
