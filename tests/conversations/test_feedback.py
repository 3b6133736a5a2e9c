"""Rating replies in the page: what is kept, counted and recorded, with and without a script."""

import re
import uuid
from datetime import UTC, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from prometheus_client import REGISTRY

from audit.models import Entry
from conversations.feedback import MAX_COMMENT_CHARACTERS, Opinion, UnfitOpinion, rate, unrate
from conversations.models import Conversation, Feedback, Message, Rating
from conversations.reply import fragments
from conversations.reply.markdown import BlockStream
from conversations.retention.deletion import delete_conversations
from conversations.turn import continue_turn
from prompts.models import RatingTally, VersionFigures

pytestmark = pytest.mark.django_db

UP, DOWN = Rating.UP, Rating.DOWN
SCRIPT = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def reply(finished) -> Message:
    return finished().reply


@pytest.fixture
def give(reply, olive):
    def given(*opinion) -> Feedback:
        return rate(olive, reply.conversation_id, reply.pk, Opinion(*opinion))

    return given


def address(reply: Message) -> str:
    return reverse("feedback", args=[reply.conversation_id, reply.pk])


def page(reply: Message) -> str:
    return reply.conversation.get_absolute_url()


def kept() -> Feedback:
    return Feedback.objects.get()


def thumbs() -> tuple[int, int]:
    sums = VersionFigures.objects.aggregate(up=Sum("thumbs_up"), down=Sum("thumbs_down"))
    return sums["up"] or 0, sums["down"] or 0


# --- the verb ---------------------------------------------------------------------------------


def test_a_thumb_keeps_its_reasons_in_one_order_and_its_words_sealed(give):
    give(DOWN, ["other", "wrong", "other"], "It says roses.")
    assert (kept().rating, kept().reasons) == ("down", ["wrong", "other"])
    assert kept().comment == "It says roses."
    assert b"roses" not in bytes(kept().comment_sealed)


def test_a_thumb_alone_leaves_words_and_reasons_and_another_thumb_the_words(give):
    give(DOWN, ["wrong"], "It says roses.")
    give(DOWN)
    assert (kept().reasons, kept().comment) == (["wrong"], "It says roses.")
    give(UP)
    assert (kept().reasons, kept().comment) == ([], "It says roses.")


@pytest.mark.parametrize(
    ("opinion", "part"),
    [
        (Opinion(UP, ["wrong"]), "reasons"),
        (Opinion(DOWN, ["correct"]), "reasons"),
        (Opinion(DOWN, ["dull"]), "reasons"),
        (Opinion(UP, [], "é" * (MAX_COMMENT_CHARACTERS + 1)), "comment"),
        (Opinion(UP, [], "a\0b"), "comment"),
    ],
)
def test_what_can_not_be_kept_is_refused_and_changes_nothing(reply, olive, give, opinion, part):
    give(DOWN, ["wrong"], "Before")
    with pytest.raises(UnfitOpinion) as refused:
        rate(olive, reply.conversation_id, reply.pk, opinion)
    assert refused.value.part == part
    assert (kept().reasons, kept().comment) == (["wrong"], "Before")


def test_the_longest_comment_is_kept(give):
    give(UP, [], "é" * MAX_COMMENT_CHARACTERS)
    assert len(kept().comment) == MAX_COMMENT_CHARACTERS


@pytest.mark.parametrize(("rating", "reasons"), [("up", ["wrong"]), ("down", ["correct", "other"])])
def test_the_database_refuses_reasons_of_the_other_thumb(reply, rating, reasons):
    with pytest.raises(IntegrityError, match="reasons_fit"), transaction.atomic():
        Feedback.objects.create(reply=reply, rating=rating, reasons=reasons)


def test_rows_of_a_release_without_reasons_have_none(reply):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO conversations_feedback (id, reply_id, rating, comment_sealed, created_at,"
            " changed_at) VALUES (%s, %s, 'up', '', now(), now())",
            [uuid.uuid4(), reply.pk],
        )
    assert kept().reasons == []


def test_each_change_of_a_thumb_is_counted_for_the_version(reply, olive, give):
    for opinion, counted in (
        ([UP], (1, 0)),
        ([UP, ["correct"], "Good"], (1, 0)),
        ([DOWN, ["wrong"]], (0, 1)),
        ([DOWN], (0, 1)),
        ([UP], (1, 0)),
    ):
        give(*opinion)
        assert thumbs() == counted
    unrate(olive, reply.conversation_id, reply.pk)
    unrate(olive, reply.conversation_id, reply.pk)
    assert thumbs() == (0, 0)
    assert RatingTally.objects.get().ratings == 1
    give(DOWN)
    counted = VersionFigures.objects.filter(thumbs_down__gt=0).values_list("version", flat=True)
    assert set(counted) == {reply.prompt_version_id}


def test_a_rating_is_changed_and_taken_back_on_the_day_on_which_it_was_given(reply, olive, give):
    """Else the week would have thumbs taken from it that it never had."""
    give(UP)
    began = timezone.now() - timedelta(days=10)
    Feedback.objects.update(created_at=began)
    VersionFigures.objects.filter(thumbs_up=1).update(day=began.astimezone(UTC).date())
    give(DOWN)
    week = {"version": reply.prompt_version_id, "day__gt": began.astimezone(UTC).date()}
    assert not VersionFigures.objects.filter(**week).exclude(thumbs_up=0, thumbs_down=0).exists()
    assert thumbs() == (0, 1)
    unrate(olive, reply.conversation_id, reply.pk)
    assert not VersionFigures.objects.filter(**week).exclude(thumbs_up=0, thumbs_down=0).exists()
    assert thumbs() == (0, 0)


def test_a_reply_from_before_there_were_releases_is_rated_in_production(reply, give):
    Message.objects.filter(pk=reply.pk).update(arm="")
    give(UP)
    assert VersionFigures.objects.get(thumbs_up=1).arm == "production"


def test_the_log_learns_thumb_and_reasons_and_never_the_words(reply, olive, give):
    give(UP)
    give(UP)
    give(DOWN, ["other", "unsafe"], "A secret opinion")
    give(DOWN, ["other", "unsafe"], "Another secret")
    unrate(olive, reply.conversation_id, reply.pk)
    entries = Entry.objects.filter(event__startswith="feedback.").order_by("pk")
    at = {"reply": str(reply.pk)}
    down = {**at, "rating": "down", "reasons": ["unsafe", "other"]}
    assert [(entry.event, entry.payload) for entry in entries] == [
        ("feedback.given", {**at, "rating": "up", "reasons": []}),
        ("feedback.given", down),
        ("feedback.given", down),
        ("feedback.withdrawn", at),
    ]
    assert "secret" not in str(list(entries.values()))


def test_thumbs_are_shown_to_prometheus_when_they_change(give, django_capture_on_commit_callbacks):
    def shown() -> float:
        return REGISTRY.get_sample_value("parley_ratings_total", {"rating": "down"}) or 0

    before = shown()
    with django_capture_on_commit_callbacks(execute=True):
        give(DOWN)
        give(DOWN, ["other"])
    assert shown() == before + 1


# --- the page ---------------------------------------------------------------------------------


def test_a_thumb_comes_back_with_its_reasons_unfolded_and_the_words_of_the_status(
    reply, olive_client
):
    html = olive_client.post(address(reply), {"rating": "down"}, **SCRIPT).content.decode()
    assert f'hx-target="#tools-{reply.pk}"' in html
    assert f'<details class="reasons" id="reasons-{reply.pk}" open>' in html
    assert 'value="not_followed"' in html
    assert 'value="well_written"' not in html
    assert "Rated as bad. You can say why below." in html
    assert pressed(html) == ["false", "true"]


def pressed(html: str) -> list[str]:
    return re.findall(r'name="rating"[^>]*aria-pressed="(\w+)"', html)


def test_reasons_and_words_are_kept_and_folded_away(reply, olive_client):
    olive_client.post(address(reply), {"rating": "down"}, **SCRIPT)
    form = {"rating": "down", "reasons": ["wrong", "too_long"], "comment": " One\r\ntwo. "}
    html = olive_client.post(address(reply), form, **SCRIPT).content.decode()
    assert (kept().reasons, kept().comment) == (["wrong", "too_long"], "One\ntwo.")
    assert "Your feedback: Not correct, Too long" in html
    assert " open>" not in html
    assert "Thank you. Your feedback is kept." in html


def test_the_pressed_thumb_takes_the_rating_back(reply, olive_client):
    olive_client.post(address(reply), {"rating": "up"}, **SCRIPT)
    shown = olive_client.get(page(reply)).content.decode()
    (value,) = re.findall(r'name="rating" value="(\w*)" aria-pressed="true"', shown)
    html = olive_client.post(address(reply), {"rating": value}, **SCRIPT).content.decode()
    assert not Feedback.objects.exists()
    assert "Your rating is taken back." in html
    assert "<details" not in html


def test_without_a_script_the_page_comes_back_at_the_reply_as_it_was_shown(reply, olive_client):
    at = f"http://testserver{page(reply)}?before={uuid.UUID(int=7)}"
    answer = olive_client.post(address(reply), {"rating": "up"}, HTTP_REFERER=at)
    path = f"{page(reply)}?before={uuid.UUID(int=7)}"
    assert answer.url == f"{path}&rated={reply.pk}#tools-{reply.pk}"
    shown = olive_client.get(answer.url).content.decode()
    assert f'id="reasons-{reply.pk}" open>' in shown
    form = {"rating": "up", "reasons": "helpful", "comment": "Fine"}
    answer = olive_client.post(
        address(reply), form, HTTP_REFERER=f"http://testserver{answer.url.partition('#')[0]}"
    )
    assert answer.url == f"{path}#tools-{reply.pk}"
    assert kept().reasons == ["helpful"]


def test_without_a_referrer_it_is_the_conversation_that_comes_back(reply, olive_client):
    answer = olive_client.post(address(reply), {"rating": ""}, HTTP_REFERER="https://evil.example/")
    assert answer.url == f"{page(reply)}#tools-{reply.pk}"


@pytest.mark.parametrize("how", [{}, SCRIPT])
def test_words_that_are_too_long_come_back_with_a_sentence(reply, olive_client, how):
    olive_client.post(address(reply), {"rating": "up"})
    form = {"rating": "up", "comment": "é" * 4001}
    answer = olive_client.post(address(reply), form, **how)
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "The comment is too long: 4,001 of 4,000 characters." in html
    assert "é" * 4001 in html
    assert f'id="reasons-{reply.pk}" open>' in html
    assert kept().comment == ""


@pytest.mark.parametrize("form", ["rating=sideways", "rating=up&comment=%FF"])
def test_senseless_forms_are_refused(reply, olive_client, form):
    kind = "application/x-www-form-urlencoded"
    assert olive_client.post(address(reply), form, content_type=kind).status_code == 400
    assert not Feedback.objects.exists()


def test_hostile_words_stay_words(reply, olive_client, give):
    give(UP, [], "</textarea><script>alert(1)</script>")
    shown = olive_client.get(page(reply)).content.decode()
    assert "<script>alert" not in shown
    assert "&lt;/textarea&gt;&lt;script&gt;" in shown


def test_strangers_and_questions_are_not_there(finished, sam_client, ada_client, olive_client):
    turn = finished()
    for client in (sam_client, ada_client):
        assert client.post(address(turn.reply), {"rating": "up"}, **SCRIPT).status_code == 404
    assert olive_client.post(address(turn.question), {"rating": "up"}).status_code == 404
    assert olive_client.get(address(turn.reply)).status_code == 405
    assert not Feedback.objects.exists()


def test_what_a_client_of_the_openai_door_made_up_has_no_thumbs(reply, olive_client):
    Message.objects.filter(pk=reply.pk).update(prompt_version=None)
    assert 'name="rating"' not in olive_client.get(page(reply)).content.decode()


def test_ratings_cost_the_page_no_query(finished, olive, olive_client, django_assert_num_queries):
    turn = finished()
    with CaptureQueriesContext(connection) as unrated:
        olive_client.get(page(turn.reply))
    for _ in range(5):
        turn.conversation.refresh_from_db()
        turn = finished(conversation=turn.conversation)
        opinion = Opinion(DOWN, ["wrong"], "Not so.")
        rate(olive, turn.conversation.pk, turn.reply.pk, opinion)
    with django_assert_num_queries(len(unrated)):
        shown = olive_client.get(page(turn.reply)).content.decode()
    assert shown.count("Your feedback: Not correct") == 5


# --- frames -----------------------------------------------------------------------------------


def test_the_frame_that_ends_a_reply_brings_thumbs_and_asks_no_database(
    reply, django_assert_num_queries
):
    final = BlockStream.resume("Hi.")[0].finish()
    with django_assert_num_queries(0):
        html = fragments.turn_ended(reply, final, "")
    assert pressed(html) == ["false", "false"]


def test_a_reply_that_was_rated_and_continued_keeps_its_thumb(
    begin, olive, runner_row, django_assert_num_queries
):
    turn = begin()
    Message.objects.filter(pk=turn.reply.pk).update(state="stopped", runner=None)
    rate(olive, turn.conversation.pk, turn.reply.pk, Opinion(DOWN))
    again = continue_turn(
        turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk
    ).reply
    assert 'name="rating"' not in fragments.reply_replaced(again)  # while it is being written
    again.state = Message.State.COMPLETED
    with django_assert_num_queries(0):
        html = fragments.turn_ended(again, BlockStream.resume("")[0].finish(), "")
    assert pressed(html) == ["false", "true"]


def test_a_deleted_conversation_takes_its_ratings_along_and_figures_stay(give, reply):
    give(DOWN, ["wrong"], "Not so.")
    delete_conversations([reply.conversation_id])
    assert not Feedback.objects.exists()
    assert not Conversation.objects.exists()
    assert thumbs() == (0, 1)
