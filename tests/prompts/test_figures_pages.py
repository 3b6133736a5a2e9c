"""What people read of figures: in the list, on their own page with its plots, on a release."""

import csv
import random
import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation, Feedback, Message
from conversations.turn.counting import ended_turn
from prompts.figures import arm_comparison, reports, rollups
from prompts.models import Arm, PromptTemplate, PromptVersion, Release

pytestmark = pytest.mark.django_db

LIST = "/admin/prompts/prompttemplate/"
FIGURES = "/admin/prompts/versionfigures/"


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


@pytest.fixture
def release(template) -> Release:
    version = PromptVersion(
        template=template,
        number=2,
        content="Be brief.",
        content_hash="",
        published_at=timezone.now(),
        is_for_release=True,
    )
    PromptVersion.objects.bulk_create([version])
    return Release.objects.create(
        template=template,
        version=version,
        replaces=template.live_version,
        steps=[{"share": 5000, "people": 0, "turns": 0, "minutes": 0}],
        share=5000,
        state="canary",
        began_at=timezone.now() - timedelta(days=3),
    )


@pytest.fixture
def publisher(make_user) -> Client:
    browser = Client()
    browser.force_login(make_user("mei", "prompt_publisher"))
    return browser


class Turns:
    """Stores replies of people who ask several times each, and counts them."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.chance = random.Random(5)

    def of(self, arm: str, people: int, *, failing=0.0, usd="0.004", began=None, up=None) -> None:
        begun: datetime = began or timezone.now()
        live, new = self.release.replaces, self.release.version
        everybody = User.objects.bulk_create(
            User(email=f"{uuid.uuid4().hex}@parley.example") for _ in range(people)
        )
        conversations = [Conversation(owner=one, template=live.template) for one in everybody]
        replies = [
            Message(
                conversation=conversation,
                role="assistant",
                state="failed" if self.chance.random() < failing else "completed",
                prompt_version=live if arm == Arm.PRODUCTION else new,
                release=self.release,
                arm=arm,
                created_at=begun,
                first_token_ms=self.chance.randrange(300, 500),
                duration_ms=self.chance.randrange(2_000, 4_000),
                tokens_in=100,
                tokens_out=50,
                cost_usd=Decimal(usd) * self.chance.randrange(80, 120) / 100,
            )
            for conversation in conversations
            for _ in range(1 + self.chance.randrange(4))
        ]
        Conversation.objects.bulk_create(conversations)
        Message.objects.bulk_create(replies)
        rollups.count_turns(turn for reply in replies if (turn := ended_turn(reply)))
        if up is not None:
            Feedback.objects.bulk_create(
                Feedback(reply=one, rating="up" if self.chance.random() < up else "down")
                for one in replies
            )


@pytest.fixture
def turns(release) -> Turns:
    return Turns(release)


def line(release: Release, label: str) -> arm_comparison.Line:
    return next(one for one in arm_comparison.compared(release).lines if one.label == label)


# --- canary beside production -------------------------------------------------------------------


def test_what_is_beyond_chance_is_called_worse_or_better(turns, release):
    turns.of(Arm.PRODUCTION, 60, failing=0.02, usd="0.004")
    turns.of(Arm.CANARY, 60, failing=0.4, usd="0.002")
    assert line(release, "Errors").verdict == "worse"
    assert line(release, "Errors").difference.startswith("+")
    assert line(release, "Cost").verdict == "better"
    assert line(release, "First token, p50").verdict == ""


def test_figures_are_those_of_the_replies_and_have_their_ranges(turns, release):
    turns.of(Arm.PRODUCTION, 20, failing=0.2, up=0.5)
    turns.of(Arm.CANARY, 20, up=1.0)
    replies = release.replies.filter(arm=Arm.PRODUCTION)
    failed = replies.filter(state="failed").count() / replies.count()
    assert line(release, "Errors").production == reports.percent(failed)
    assert " to " in line(release, "Errors").production_range
    assert line(release, "Thumbs up").canary == reports.percent(1)
    found = arm_comparison.compared(release)
    assert found.people[Arm.PRODUCTION] == 20
    assert found.turns[Arm.PRODUCTION] == replies.count()


def test_of_a_handful_of_people_no_interval_is_told(turns, release):
    turns.of(Arm.PRODUCTION, 20)
    turns.of(Arm.CANARY, 4, failing=1.0)
    errors = line(release, "Errors")
    assert (errors.canary, errors.canary_range, errors.difference) == (reports.percent(1), "", "")
    assert errors.production_range


def test_what_happened_to_nobody_is_no_difference(turns, release):
    turns.of(Arm.PRODUCTION, 20)
    turns.of(Arm.CANARY, 20)
    assert (line(release, "Refused").difference, line(release, "Refused").verdict) == ("", "")


def test_the_early_access_stands_apart(turns, release):
    turns.of(Arm.PRODUCTION, 10)
    turns.of(Arm.EARLY, 10, failing=1.0)
    found = arm_comparison.compared(release)
    assert ("Errors", reports.percent(1)) in found.early
    assert line(release, "Errors").canary == reports.UNKNOWN


def test_a_few_replies_that_were_deleted_leave_the_rest_to_stand_for_all(turns, release, publisher):
    turns.of(Arm.PRODUCTION, 20)
    turns.of(Arm.CANARY, 20, failing=0.5)
    Message.objects.filter(pk=release.replies.first().pk).delete()
    assert line(release, "Errors").difference_range
    page = publisher.get(f"/admin/prompts/release/{release.pk}/change/").content.decode()
    assert "1 of these replies was deleted since" in page


def test_sums_stay_without_intervals_when_replies_were_purged(turns, release, publisher):
    turns.of(Arm.PRODUCTION, 20, failing=0.5)
    turns.of(Arm.CANARY, 20, failing=0.5)
    before = line(release, "Errors")
    old = release.replies.filter(arm=Arm.CANARY).values_list("pk", flat=True)
    Message.objects.filter(pk__in=list(old)[: len(old) // 4]).delete()
    after = line(release, "Errors")
    assert (after.canary, after.production) == (before.canary, before.production)
    assert (after.canary_range, after.difference) == ("", "")
    page = publisher.get(f"/admin/prompts/release/{release.pk}/change/").content.decode()
    assert "Many replies of this release were deleted." in page


def test_two_queries_for_both_arms(turns, release, django_assert_num_queries):
    turns.of(Arm.PRODUCTION, 10)
    with django_assert_num_queries(2):
        arm_comparison.compared(release)


def test_the_page_of_a_release_shows_both_arms(turns, release, publisher):
    turns.of(Arm.PRODUCTION, 30)
    turns.of(Arm.CANARY, 30, failing=0.5)
    page = publisher.get(f"/admin/prompts/release/{release.pk}/change/").content.decode()
    assert "Canary beside production" in page
    assert ", worse</span>" in page


# --- figures of a template ----------------------------------------------------------------------


def test_versions_stand_beside_each_other_with_plots_and_their_numbers(turns, publisher, template):
    turns.of(Arm.PRODUCTION, 5)
    turns.of(Arm.CANARY, 5, failing=1.0)
    page = publisher.get(f"{FIGURES}{template.pk}/").content.decode()
    assert "v2" in page
    assert "v1" in page
    assert page.count("<picture>") == 4
    assert "Errors by day, " in page
    assert "Solid: v2. Dashed: v1." in page


def test_the_page_asks_little_however_many_versions_there_are(
    turns, publisher, template, django_assert_max_num_queries
):
    turns.of(Arm.PRODUCTION, 3)
    turns.of(Arm.CANARY, 3)
    publisher.get(f"{FIGURES}{template.pk}/")
    with django_assert_max_num_queries(7):
        assert publisher.get(f"{FIGURES}{template.pk}/?days=30").status_code == 200


def test_only_the_days_that_are_asked_for_count(turns, publisher, template):
    turns.of(Arm.PRODUCTION, 3, began=timezone.now() - timedelta(days=10))
    none = "No turn of this template has ended in these days."
    assert none in publisher.get(f"{FIGURES}{template.pk}/?days=7").content.decode()
    assert none not in publisher.get(f"{FIGURES}{template.pk}/?days=14").content.decode()


def test_plots_are_drawn_for_each_theme_and_width(turns, publisher, template):
    turns.of(Arm.PRODUCTION, 3)
    for name in ("errors-wide-light", "cost-narrow-dark", "thumbs-up-wide-dark"):
        plot = publisher.get(f"{FIGURES}{template.pk}/{name}.svg?days=7")
        assert (plot.status_code, plot["Content-Type"]) == (200, "image/svg+xml")
        assert plot.content.startswith(b"<svg")
    assert publisher.get(f"{FIGURES}{template.pk}/errors-wide-pink.svg").status_code == 404
    assert publisher.get(f"{FIGURES}{template.pk}/secrets-wide-dark.svg").status_code == 404


def test_the_table_can_be_taken_along(turns, publisher, template, release):
    turns.of(Arm.PRODUCTION, 3)
    turns.of(Arm.CANARY, 3, failing=1.0)
    taken = publisher.get(f"{FIGURES}{template.pk}/figures.csv")
    assert taken["Content-Disposition"] == 'attachment; filename="summariser-figures.csv"'
    rows = list(csv.DictReader(taken.content.decode().splitlines()))
    assert {(row["version"], row["arm"]) for row in rows} == {("1", "production"), ("2", "canary")}
    canary = next(row for row in rows if row["arm"] == "canary")
    assert canary["turns"] == canary["errors"] != "0"
    assert canary["release"] == str(release.pk)
    assert (canary["duration_p50_ms"], canary["first_token_p50_ms"] != "") == ("", True)


def test_figures_are_for_those_who_may_see_prompts(olive_client, ravi_client, template):
    for address in ("", "figures.csv", "errors-wide-light.svg"):
        url = f"{FIGURES}{template.pk}/{address}"
        assert olive_client.get(url).status_code in {302, 403}
        assert ravi_client.get(url).status_code == 200
        unknown = ravi_client.get(f"{FIGURES}{uuid.uuid4()}/{address}")
        assert unknown.status_code == 404


# --- the list -----------------------------------------------------------------------------------


def test_the_list_shows_the_week_of_each_template_in_one_query_more(
    turns, publisher, django_assert_max_num_queries
):
    turns.of(Arm.PRODUCTION, 10, failing=1.0)
    turns.of(Arm.PRODUCTION, 50, began=timezone.now() - timedelta(days=8))
    expected = Message.objects.filter(state="failed").count()
    publisher.get(LIST)
    with django_assert_max_num_queries(9):
        page = publisher.get(LIST).content.decode()
    assert f'{expected}<span class="for-blocks"> turns' in page
    assert f'{reports.percent(1)}<span class="for-blocks"> errors' in page
    template_page = publisher.get(f"{LIST}{turns.release.template_id}/change/").content.decode()
    assert f"{expected} turns" in template_page


def test_the_list_reads_no_histogram_that_it_does_not_show(turns, publisher):
    """With a hundred templates these are a million buckets."""
    turns.of(Arm.PRODUCTION, 3)
    with CaptureQueriesContext(connection) as asked:
        page = publisher.get(LIST).content.decode()
    (query,) = [each["sql"] for each in asked if "prompts_versionfigures" in each["sql"]]
    assert query.count("JSONB_AGG") == 1
    assert 's<span class="for-blocks"> first token' in page
