"""How a conversation went: when it is asked, that it is asked once, what becomes of answers."""

from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from conversations import satisfaction
from conversations.models import Conversation, Message, Satisfaction, SatisfactionPause
from conversations.retention.deletion import delete_conversations
from conversations.rights import deleting
from conversations.rights.erasure import erase, finish_all
from conversations.satisfaction import (
    AFTER_NO,
    BETWEEN,
    FRESH,
    LEAST_REPLIES,
    QUIET,
    ask_about_last,
    decline,
    give,
)
from prompts.models import VersionFigures

from .taking_along import exported, json_of, opened, texts

pytestmark = pytest.mark.django_db

A_MOMENT = timedelta(seconds=5)
SCRIPT = {"HTTP_HX_REQUEST": "true"}
CARD = 'id="satisfaction"'


@pytest.fixture
def talk(finished):
    """A conversation with so many complete replies."""

    def make(replies: int = LEAST_REPLIES, **given) -> Conversation:
        turn = finished(**given)
        for _ in range(replies - 1):
            turn.conversation.refresh_from_db()
            turn = finished(conversation=turn.conversation, **given)
        turn.conversation.refresh_from_db()
        return turn.conversation

    return make


def after(conversation: Conversation, span: timedelta) -> datetime:
    return conversation.last_message_at + span


def asked(user, now: datetime) -> Conversation | None:
    return ask_about_last(user, now)


# --- when -------------------------------------------------------------------------------------


def test_a_session_has_ended_when_it_was_quiet_for_a_while_and_is_not_old(talk, olive):
    conversation = talk()
    assert asked(olive, after(conversation, QUIET - A_MOMENT)) is None
    assert asked(olive, after(conversation, FRESH + A_MOMENT)) is None
    assert asked(olive, after(conversation, QUIET + A_MOMENT)) == conversation


def test_it_takes_a_few_complete_replies(talk, olive):
    conversation = talk(LEAST_REPLIES - 1)
    assert asked(olive, after(conversation, QUIET)) is None
    longer = talk()
    Message.objects.filter(pk=longer.leaf_id).update(state="failed")
    assert asked(olive, after(longer, QUIET)) is None


def test_never_while_a_reply_is_being_written(talk, begin, olive):
    conversation = talk()
    begin(conversation=conversation)
    conversation.refresh_from_db()
    assert asked(olive, after(conversation, QUIET)) is None


def test_never_about_temporary_deleted_or_foreign_ones(talk, olive, sam):
    temporary, deleted = talk(), talk()
    Conversation.objects.filter(pk=temporary.pk).update(retention_class=2)
    deleting.delete(deleted.pk, by=olive)
    assert asked(olive, after(deleted, QUIET)) is None
    talk()
    assert asked(sam, timezone.now() + QUIET) is None


def test_each_conversation_is_asked_about_once(talk, olive):
    conversation = talk()
    assert asked(olive, after(conversation, QUIET)) == conversation
    Conversation.objects.update(last_message_at=timezone.now() + BETWEEN)
    assert asked(olive, timezone.now() + BETWEEN + QUIET) is None


def test_a_person_is_asked_once_in_a_week_whether_they_answer_or_not(talk, olive):
    now = after(talk(), QUIET)
    assert asked(olive, now)
    other = talk()
    assert asked(olive, now + A_MOMENT) is None
    Conversation.objects.filter(pk=other.pk).update(last_message_at=now + BETWEEN - QUIET)
    assert asked(olive, now + BETWEEN - A_MOMENT) is None
    assert asked(olive, now + BETWEEN) == other


def test_deleting_the_conversation_brings_no_question_sooner(talk, olive):
    conversation = talk()
    now = after(conversation, QUIET)
    assert asked(olive, now)
    delete_conversations([conversation.pk])
    talk()
    assert asked(olive, now + QUIET) is None


def test_after_no_thanks_a_month_passes(talk, olive):
    now = after(talk(), QUIET)
    decline(olive, asked(olive, now).pk)
    (declined,) = Satisfaction.objects.all()
    other = talk()
    for later, found in ((AFTER_NO - A_MOMENT, None), (AFTER_NO, other)):
        moment = declined.answered_at + later
        Conversation.objects.filter(pk=other.pk).update(last_message_at=moment - QUIET)
        assert asked(olive, moment) == found


def test_of_two_pages_that_open_at_once_one_asks(talk, olive):
    now = after(talk(), QUIET)
    late = satisfaction._ended(olive, now).first()
    assert asked(olive, now)
    assert not satisfaction._put(late, olive, now)
    assert Satisfaction.objects.count() == 1


# --- where ------------------------------------------------------------------------------------


@pytest.fixture
def ended(talk) -> Conversation:
    """A session that ended a while ago."""
    conversation = talk()
    conversation.title = "Of gardens"
    conversation.last_message_at -= QUIET + A_MOMENT
    conversation.save()
    return conversation


def test_the_first_screen_asks_once_by_title(ended, olive_client):
    page = olive_client.get("/").content.decode()
    assert CARD in page
    assert "How did <q>Of gardens</q> go?" in page
    assert CARD not in olive_client.get("/").content.decode()


def test_its_own_page_asks_when_somebody_comes_back(ended, olive_client):
    page = olive_client.get(ended.get_absolute_url()).content.decode()
    assert "How did this conversation go?" in page
    assert CARD not in olive_client.get(ended.get_absolute_url()).content.decode()
    assert CARD not in olive_client.get("/").content.decode()


def test_another_conversation_does_not_ask(ended, finished, olive_client):
    other = finished().conversation
    assert CARD not in olive_client.get(other.get_absolute_url()).content.decode()


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender"])
def test_a_page_fetched_before_anybody_came_to_it_does_not_ask(ended, olive_client, purpose):
    early = {"HTTP_SEC_PURPOSE": purpose}
    assert CARD not in olive_client.get("/", **early).content.decode()
    assert CARD not in olive_client.get(ended.get_absolute_url(), **early).content.decode()
    assert CARD in olive_client.get("/").content.decode()


@pytest.mark.parametrize("query", ["?ask=What+is+Parley%3F", "?list=2026-11-22", "?temporary"])
def test_a_page_with_a_purpose_does_not_ask(ended, olive_client, query):
    assert CARD not in olive_client.get(f"/{query}").content.decode()
    assert CARD not in olive_client.get(f"{ended.get_absolute_url()}{query}").content.decode()
    olive_client.head("/")
    assert CARD not in olive_client.get("/", **SCRIPT).content.decode()
    assert CARD in olive_client.get("/").content.decode()


def test_the_page_of_a_long_or_a_young_conversation_costs_no_query_for_it(
    talk, olive, django_assert_num_queries
):
    young = talk()
    young.owner = olive
    messages = list(young.messages.all())
    with django_assert_num_queries(0):
        for span in (A_MOMENT, FRESH + A_MOMENT):
            assert satisfaction.ask_about(young, messages, after(young, span)) is None
        assert satisfaction.ask_about(young, messages[:4], after(young, QUIET)) is None
    with django_assert_num_queries(1):
        assert ask_about_last(olive, timezone.now()) is None


# --- answers ----------------------------------------------------------------------------------


def post(client, conversation: Conversation, score: object, **how):
    return client.post(reverse("satisfaction", args=[conversation.pk]), {"score": score}, **how)


def score_sums() -> dict[str, int]:
    names = ("satisfaction_count", "satisfaction_sum")
    return VersionFigures.objects.aggregate(**{name: Sum(name) for name in names})


def test_a_score_is_kept_with_what_made_the_last_reply_and_counted_once(ended, olive_client):
    olive_client.get("/")
    answer = post(olive_client, ended, 4, **SCRIPT)
    assert "Thank you." in answer.content.decode()
    assert post(olive_client, ended, 1).status_code == 302
    (kept,) = Satisfaction.objects.all()
    assert (kept.score, kept.prompt_version) == (4, ended.leaf.prompt_version)
    assert kept.answered_at
    assert score_sums() == {"satisfaction_count": 1, "satisfaction_sum": 4}
    (entry,) = Entry.objects.filter(event__startswith="satisfaction.")
    assert (entry.event, entry.payload) == ("satisfaction.given", {"score": 4})


def test_no_thanks_is_kept_without_a_score(ended, olive_client):
    olive_client.get("/")
    answer = post(olive_client, ended, "", **SCRIPT)
    assert "You won’t be asked again for a month." in answer.content.decode()
    (kept,) = Satisfaction.objects.all()
    assert kept.score is None
    assert kept.answered_at
    assert not VersionFigures.objects.filter(satisfaction_count__gt=0).exists()
    (entry,) = Entry.objects.filter(event__startswith="satisfaction.")
    assert (entry.event, entry.payload) == ("satisfaction.declined", {})
    pause = SatisfactionPause.objects.get().until - timezone.now()
    assert AFTER_NO - timedelta(minutes=1) < pause <= AFTER_NO


def test_without_a_script_the_page_comes_back(ended, olive_client):
    page = ended.get_absolute_url()
    olive_client.get(page)
    answer = post(olive_client, ended, 5, HTTP_REFERER=f"http://testserver{page}")
    assert answer.url == page


@pytest.mark.parametrize("score", ["0", "6", "-1", "good", "1.5", "٣x", "1" * 5000])
def test_what_is_no_score_is_refused(ended, olive_client, score):
    olive_client.get("/")
    assert post(olive_client, ended, score).status_code == 400
    assert Satisfaction.objects.get().answered_at is None


def test_nobody_answers_for_others_or_unasked(ended, olive, olive_client, sam_client):
    assert post(olive_client, ended, 5).status_code == 404
    olive_client.get("/")
    for score in (5, ""):
        assert post(sam_client, ended, score).status_code == 404
    deleting.delete(ended.pk, by=olive)
    assert post(olive_client, ended, 5).status_code == 404
    assert olive_client.get(reverse("satisfaction", args=[ended.pk])).status_code == 405


@pytest.mark.parametrize(
    "wrong",
    [{"score": 0, "answered_at": timezone.now()}, {"score": 6, "answered_at": timezone.now()},
     {"score": 3}],
)  # fmt: skip
def test_the_database_refuses_what_is_no_answer(ended, wrong):
    with pytest.raises(IntegrityError), transaction.atomic():
        Satisfaction.objects.create(conversation=ended, asked_at=timezone.now(), **wrong)


# --- what becomes of it -----------------------------------------------------------------------


def test_a_score_goes_with_its_conversation_and_the_figures_stay(ended, olive):
    asked(olive, timezone.now())
    give(olive, ended.pk, 5)
    delete_conversations([ended.pk])
    assert not Satisfaction.objects.exists()
    assert score_sums() == {"satisfaction_count": 1, "satisfaction_sum": 5}


def test_a_persons_file_has_it(ended, olive, settings, tmp_path):
    settings.EXPORT_FOLDER = tmp_path / "exports"
    asked(olive, timezone.now())
    give(olive, ended.pk, 2)
    archive = opened(exported(olive), olive)
    stem = f"conversations/{ended.created_at:%Y-%m-%d}-{ended.pk}"
    told = json_of(archive, f"{stem}.json")["satisfaction"]
    assert told["score"] == 2
    assert told["asked_at"] <= told["answered_at"]
    for ending in ("html", "md"):
        assert "ow it went, from 1 to 5: 2" in texts(archive)[f"{stem}.{ending}"]
    account = json_of(archive, "account.json")["account"]
    assert account[0]["not_asked_before"]


def test_erasing_the_account_forgets_whom_not_to_ask(ended, olive):
    asked(olive, timezone.now())
    erase(olive, by=olive)
    deleting.destroy_due(timezone.now())
    finish_all(timezone.now())
    assert not SatisfactionPause.objects.exists()
