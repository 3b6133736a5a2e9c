"""What is due and held: its owner finds it nowhere any more, counsel finds all of it."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings as configured
from django.db.models import F

from audit.models import Entry
from conversations.break_glass import grants as break_glass
from conversations.break_glass.grants import Asked
from conversations.consumers import _deleted, _known_cursors, _may_read
from conversations.doors import reading
from conversations.feedback import Opinion, rate, unrate
from conversations.keyring import keyring
from conversations.models import Conversation, Feedback, Message, PurgeRun, Rating
from conversations.reply.log import Cursor, key_of
from conversations.retention import holds
from conversations.retention.deletion import hide_held
from conversations.retention.purge import purge
from conversations.rights.deleting import delete, deletion_of, hide_all, undo
from conversations.rights.portable import stem_of
from conversations.thread import page_of, thread_of
from conversations.turn import can_continue, continue_turn, start_turn
from conversations.turn.refusal import Refusal
from tests.conversations.taking_along import exported, json_of, opened, texts

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
OLD, NEW = "The tulips bloom behind the third gate.", "And the roses?"


@pytest.fixture(autouse=True)
def _places_of_its_own(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keyring")
    settings.EXPORT_FOLDER = tmp_path / "exports"
    holds.forget_held_keys()


@pytest.fixture
def hold(ravi):
    def put(on):
        review = datetime.now(UTC).date() + 90 * DAY
        return holds.place(on, matter="Case 7", reason="A claim.", review_on=review, by=ravi)

    return put


def in_a_month() -> datetime:
    return datetime.now(UTC) + 31 * DAY


def aged(*messages: Message, days: float = 31) -> None:
    """Let messages be so much older, and their conversations."""
    older = timedelta(days=days)
    for each in messages:
        Message.objects.filter(pk=each.pk).update(created_at=F("created_at") - older)
        Conversation.objects.filter(pk=each.conversation_id).update(
            key_day=(datetime.now(UTC) - older).date()
        )


@pytest.fixture
def partly(finished, hold, olive):
    """A held conversation in a month: one turn is due, with a title of its day; one is not."""
    first = finished(OLD, "**Old** roses.")
    talk = first.conversation
    talk.title = "Of tulips"
    talk.save()
    second = finished(NEW, "Young roses.", conversation=talk)
    aged(second.question, second.reply, days=-10)
    Conversation.objects.update(key_day=datetime.now(UTC).date())
    hold(olive)
    # Not by a purge, which would destroy the key of this day: it is needed to say more.
    assert hide_held([talk.pk], purged_before=in_a_month() - 30 * DAY) == {talk.pk}
    return first, second


@pytest.fixture
def wholly(finished, hold, olive):
    """A held conversation in which everything is due."""
    turn = finished(OLD)
    turn.conversation.title = "Of tulips"
    turn.conversation.save()
    aged(turn.question, turn.reply)
    hold(olive)
    purge(datetime.now(UTC))
    return turn


def stored(turn) -> Conversation:
    return Conversation.objects.get(pk=turn.conversation.pk)


def whole_page(conversation, ravi, owner):
    grant = break_glass.ask(by=ravi, asked=Asked("2026-114", "Counsel asked for it.", person=owner))
    return break_glass.read(grant, conversation.pk, by=ravi)


# --- what goes on -----------------------------------------------------------------------------


def test_the_page_shows_what_the_purge_would_have_left(partly, olive_client):
    first, second = partly
    page = olive_client.get(first.conversation.get_absolute_url()).content.decode()
    assert "Young roses." in page
    assert OLD not in page
    assert "Of tulips" not in page
    assert 'id="purged"' in page
    earlier = olive_client.get(f"{first.conversation.get_absolute_url()}?before={second.reply.pk}")
    assert OLD not in earlier.content.decode()
    assert "Of tulips" not in olive_client.get("/").content.decode()


def test_a_page_costs_no_more_statements(partly, django_assert_num_queries):
    conversation = Conversation.objects.select_related("owner").get()
    with django_assert_num_queries(2):
        assert len(thread_of(conversation).messages) == 2


def test_programs_read_nothing_of_it(partly, olive):
    first, second = partly
    talk = first.conversation.pk
    assert reading.session(olive, talk)["title"] == ""
    items = reading.messages(olive, talk, None, 50)["items"]
    assert [item["content"] for item in items] == [NEW, "Young roses."]
    assert [item["parent_id"] for item in items] == [None, second.question.pk]
    assert reading.message(olive, talk, second.question.pk)["parent_id"] is None
    for act in (
        lambda: reading.message(olive, talk, first.reply.pk),
        lambda: rate(olive, talk, first.reply.pk, Opinion(Rating.UP, [], "Fine")),
        lambda: unrate(olive, talk, first.reply.pk),
    ):
        with pytest.raises(Message.DoesNotExist):
            act()
    assert [day["replies"] for day in reading.usage(olive, 90)["days"]] == [1]


def test_no_model_is_sent_it(partly, begin):
    turn = begin("And now?", partly[0].conversation)
    told = [message["content"] for message in turn.call.messages]
    assert told[1:] == [NEW, "Young roses.", "And now?"]


def test_the_persons_export_holds_none_of_it(partly, olive):
    first, second = partly
    archive = opened(exported(olive), olive)
    everything = "".join(texts(archive).values())
    for gone in (OLD, "Of tulips", str(first.reply.pk)):
        assert gone not in everything
    told = json_of(archive, f"{stem_of(stored(first))}.json")
    assert [each["follows"] for each in told["messages"]] == [None, str(second.question.pk)]


def test_a_title_is_given_anew_and_the_first_is_kept_for_counsel(partly, ravi, olive):
    talk = stored(partly[0])
    assert talk.shown_title == ""
    assert whole_page(talk, ravi, olive).title == "Of tulips"
    talk.title = "Of roses"
    talk.save()
    assert stored(partly[0]).shown_title == "Of roses"


def test_counsel_reads_all_of_it_when_its_days_keys_are_gone(partly, ravi, olive, ravi_client):
    first, _ = partly
    for day in keyring().days():
        holds.keep_keys(day)
        keyring().destroy(day)
    holds.forget_held_keys()
    page = whole_page(first.conversation, ravi, olive)
    assert page.title == "Of tulips"
    assert [each.content for each in page.messages] == [OLD, "**Old** roses.", NEW, "Young roses."]


def test_a_reply_whose_question_is_hidden_is_not_continued(begin, hold, olive, runner_row):
    turn = begin(OLD)
    Message.objects.filter(pk=turn.reply.pk).update(state="stopped")
    aged(turn.question)
    hold(olive)
    purge(datetime.now(UTC))
    [reply] = page_of(stored(turn)).messages
    assert not can_continue(reply)
    with pytest.raises(Refusal, match="not_continuable"):
        continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)


# --- what is hidden as a whole ----------------------------------------------------------------


def test_a_conversation_of_which_all_is_due_is_gone_for_its_owner(
    wholly, olive, olive_client, runner_row
):
    talk = wholly.conversation
    assert stored(wholly).lifecycle == "purged"
    assert olive_client.get(talk.get_absolute_url()).status_code == 404
    assert "Of tulips" not in olive_client.get("/").content.decode()
    assert reading.sessions(olive, None, 50)["items"] == []
    archive = opened(exported(olive), olive)
    assert str(talk.pk) not in "".join(texts(archive).values())
    assert not _may_read(olive, talk.pk, Cursor(0, 0))
    assert _known_cursors({talk.pk}) == {}
    assert _deleted({talk.pk}) == {talk.pk}
    with pytest.raises(Conversation.DoesNotExist):
        start_turn(talk.pk, by=olive, text="More?", key="k", runner_id=runner_row.pk)
    with pytest.raises(Conversation.DoesNotExist):
        continue_turn(talk.pk, wholly.reply.pk, by=olive, runner_id=runner_row.pk)
    with pytest.raises(Conversation.DoesNotExist):
        delete(talk.pk, by=olive)


def test_its_own_log_does_not_tell_the_owner_that_it_is_still_there(wholly, olive_client):
    olive_client.get(wholly.conversation.get_absolute_url())
    assert not Entry.objects.filter(event="access.denied").exists()


def test_counsel_finds_it(wholly, ravi, olive, ravi_client):
    page = whole_page(wholly.conversation, ravi, olive)
    assert page.messages[0].content == OLD
    grant = break_glass.grants().get()
    listing = ravi_client.get(f"/break-glass/{grant.pk}/").content.decode()
    assert "Of tulips" in listing
    assert "its owner sees it no more" in listing


def test_what_was_deleted_and_is_due_meanwhile_cant_be_undone(finished, hold, olive):
    turn = finished(OLD)
    hold(olive)
    delete(turn.conversation.pk, by=olive)
    assert deletion_of(olive, turn.conversation.pk)
    aged(turn.question, turn.reply)
    purge(datetime.now(UTC))
    assert deletion_of(olive, turn.conversation.pk) is None
    assert undo(turn.conversation.pk, by=olive) == 0
    assert stored(turn).lifecycle == "deleted"


def test_to_delete_all_takes_it_along_without_a_word(wholly, olive):
    assert hide_all(olive, datetime.now(UTC)) == []
    assert stored(wholly).lifecycle == "deleted"


# --- when and how -----------------------------------------------------------------------------


def test_where_holds_are_told_nothing_is_hidden(finished, hold, olive, settings):
    settings.HOLDS_ARE_TOLD = True
    turn = finished(OLD)
    aged(turn.question, turn.reply)
    hold(olive)
    purge(datetime.now(UTC))
    assert stored(turn).purged_before is None
    assert [each.content for each in page_of(stored(turn)).messages] == [OLD, "Hi."]


def test_the_run_counts_it_as_held_and_repeating_changes_nothing(wholly):
    before = Conversation.objects.values().get()
    run = purge(datetime.now(UTC))
    assert run.held == PurgeRun.objects.earliest("pk").held == 2
    assert set(run.counts.values()) == {0}
    assert Conversation.objects.values().get() == before


def test_when_the_hold_has_ended_the_next_purge_destroys_it(wholly, ravi):
    lifted = holds.lift(holds.Hold.objects.get(), reason="Settled.", by=ravi)
    holds.end_due(lifted.ends_at)
    run = purge(datetime.now(UTC))
    assert run.counts["messages"] == 2
    assert not Conversation.objects.exists()


def test_a_hidden_title_goes_with_the_words(partly, ravi):
    assert stored(partly[0]).hidden_title_sealed
    lifted = holds.lift(holds.Hold.objects.get(), reason="Settled.", by=ravi)
    holds.end_due(lifted.ends_at)
    assert purge(in_a_month()).counts["messages"] == 2
    assert not stored(partly[0]).hidden_title_sealed


def test_what_is_being_written_waits(begin, hold, olive):
    turn = begin(OLD)
    aged(turn.question, turn.reply)
    hold(olive)
    purge(datetime.now(UTC))
    assert stored(turn).purged_before is None


def test_nothing_is_hidden_that_no_hold_keeps(finished, hold, sam):
    turn = finished(OLD)
    assert hide_held([turn.conversation.pk, uuid.uuid4()], purged_before=datetime.now(UTC)) == set()
    assert stored(turn).purged_before is None


def test_what_redis_holds_of_it_goes(finished, hold, olive, django_capture_on_commit_callbacks):
    first = finished(OLD)
    second = finished(NEW, conversation=first.conversation)
    aged(first.question, first.reply)
    hold(olive)
    with redis.Redis.from_url(configured.REDIS_URL) as client:
        key = key_of(first.conversation.pk)
        for turn in (first, second):
            client.xadd(key, {"f": b"sealed"}, id=f"{turn.reply.fence}-0")
        with django_capture_on_commit_callbacks(execute=True):
            hide_held([first.conversation.pk], purged_before=datetime.now(UTC) - 30 * DAY)
        ((entry, _),) = client.xrange(key)
    assert entry == f"{second.reply.fence}-0".encode()


def test_a_reply_that_is_being_written_is_shown_though_older_words_went(finished, begin):
    first = finished(OLD)
    turn = begin(NEW, first.conversation)
    aged(first.question, first.reply, days=32)
    aged(turn.question, turn.reply)
    purge(datetime.now(UTC))
    assert [each.pk for each in page_of(stored(turn)).messages] == [turn.question.pk, turn.reply.pk]


# --- where the key of a day is gone -----------------------------------------------------------


@pytest.fixture
def keyless(begin, hold, olive, settings):
    """A held reply that stopped, can be read, and whose day's key is gone."""
    settings.HOLDS_ARE_TOLD = True

    def make(text: str):
        turn = begin(OLD)
        turn.reply.content = text
        turn.reply.state = "stopped"
        turn.reply.save()
        hold(olive)
        aged(turn.question, turn.reply)  # no key was ever made for a day so long ago
        return turn

    return make


@pytest.mark.parametrize("text", ["", "Half a"])
def test_continue_answers_as_for_what_is_gone(keyless, olive, olive_client, runner_row, text):
    turn = keyless(text)
    reply = Message.objects.select_related("conversation").get(pk=turn.reply.pk)
    assert not can_continue(reply)
    with pytest.raises(Message.DoesNotExist):
        continue_turn(turn.conversation.pk, reply.pk, by=olive, runner_id=runner_row.pk)
    assert olive_client.get(turn.conversation.get_absolute_url()).status_code == 200


@pytest.mark.parametrize("comment", ["", "Fine"])
def test_feedback_answers_as_for_what_is_gone(keyless, olive, comment):
    turn = keyless("Half a")
    with pytest.raises(Message.DoesNotExist):
        rate(olive, turn.conversation.pk, turn.reply.pk, Opinion(Rating.UP, [], comment))
    assert not Feedback.objects.exists()
