"""Guards on real data: tallies, comparisons, automatic rollback, steps that are offered."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from accounts.access import Denied
from accounts.models import User
from audit.models import Entry
from audit.trail import acting_as
from prompts import publishing
from prompts.models import (
    Arm,
    ArmTally,
    GuardReading,
    PromptTemplate,
    Release,
    ReleaseDecision,
    ReleaseGuard,
)
from prompts.publishing import NotPossible, Terms
from prompts.release import guards, rollout
from prompts.release.guards import Bounds
from prompts.release.rollout import Plan, Step
from prompts.release.tallies import tally_rating, tally_turn

pytestmark = pytest.mark.django_db

NOTHING = "0.0\N{NO-BREAK SPACE}%"
HALF = (Step(5000, people=3, turns=3), Step(9000))


@pytest.fixture
def mei(make_user) -> User:
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def begin_release(make_user, mei):
    """Begin to release a version of the general assistant that somebody else wrote."""
    iris = make_user("iris", "prompt_editor")

    def make(**plan) -> Release:
        template = PromptTemplate.objects.get(slug="general-assistant")
        with acting_as(iris):
            draft = publishing.begin_draft(template, Terms("Answer."), by=iris)
        with acting_as(mei):
            version = publishing.publish(
                draft, content_hash=draft.content_hash, note="Agreed", by=mei, for_release=True
            )
            return rollout.begin(version, Plan(**({"steps": HALF} | plan)), note="Try", by=mei)

    return make


@pytest.fixture
def people(make_user) -> list[User]:
    made = [User(email=f"person{number}@example.org") for number in range(40)]
    return User.objects.bulk_create(made)


def turn(release: Release, arm: str, person: User, **known) -> None:
    what = {
        "failed": False,
        "refused": False,
        "completed": not known.get("failed", False),
        "duration_ms": 2000,
        "cost_usd": Decimal("0.01"),
        "conversation_began": timezone.now(),
    }
    tally_turn(release.pk, arm, person.pk, **(what | known))


def fresh(release: Release) -> Release:
    return Release.objects.get(pk=release.pk)


def failing_canary(release: Release, people: list[User]) -> None:
    """Half of the people are drawn, and all of their turns fail."""
    for number, person in enumerate(people):
        arm = Arm.CANARY if number % 2 else Arm.PRODUCTION
        turn(release, arm, person, failed=arm == Arm.CANARY)


# --- tallies -----------------------------------------------------------------------------------


def test_turns_of_a_person_fill_windows_of_one_four_and_twenty(begin_release, olive):
    release = begin_release()
    for number in range(8):
        turn(release, Arm.CANARY, olive, failed=number in {0, 3}, duration_ms=100)
    windows = ArmTally.objects.order_by("window")
    assert [(row.window, row.count, row.errors, row.completed) for row in windows] == [
        (0, 1, 1, 0),
        (1, 4, 1, 3),
        (2, 3, 0, 3),
    ]
    assert [row.duration_ms for row in windows] == [0, 300, 300]


def test_a_window_that_was_compared_stays_and_the_next_turn_begins_another(begin_release, olive):
    release = begin_release()
    turn(release, Arm.CANARY, olive)
    turn(release, Arm.CANARY, olive)
    ArmTally.objects.update(compared_at=timezone.now())
    turn(release, Arm.CANARY, olive)
    assert list(ArmTally.objects.order_by("window").values_list("window", "count")) == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]


def test_a_conversation_that_began_before_the_step_is_not_counted(begin_release, olive):
    release = begin_release()
    turn(release, Arm.CANARY, olive, conversation_began=timezone.now() - timedelta(days=1))
    assert not ArmTally.objects.exists()


def test_a_release_that_is_over_counts_nobody(begin_release, olive, mei):
    release = begin_release()
    rollout.roll_back(release, note="Enough", by=mei)
    turn(release, Arm.CANARY, olive)
    assert not ArmTally.objects.exists()


def test_the_early_access_is_not_counted_among_those_who_were_drawn(begin_release, olive):
    turn(begin_release(), Arm.EARLY, olive)
    assert not ArmTally.objects.exists()


# --- rollback ----------------------------------------------------------------------------------


def test_a_canary_that_fails_is_rolled_back_with_its_numbers(begin_release, people):
    release = begin_release()
    failing_canary(release, people)
    guards.watch()
    assert fresh(release).state == Release.State.ROLLED_BACK
    decision = ReleaseDecision.objects.get(verb="rolled_back")
    assert decision.part == "guards"
    (crossed,) = decision.numbers["crossed"]
    assert crossed["metric"] == "errors"
    assert crossed["canary"] == 1.0
    assert crossed["production"] == 0.0
    assert crossed["p"] <= crossed["alpha"]
    assert crossed["people_canary"] >= 5
    entry = Entry.objects.get(event="release.rolled_back")
    assert (entry.actor_kind, entry.actor_id) == ("system", "guards")
    assert entry.payload["numbers"] == decision.numbers
    assert "turns that failed, 100.0\N{NO-BREAK SPACE}% against 0.0" in entry.reason


def test_the_sums_stay_and_the_people_are_forgotten_when_it_is_over(begin_release, people):
    failing_canary(begin_release(), people)
    guards.watch()
    assert not ArmTally.objects.exists()
    assert GuardReading.objects.exists()


def test_a_canary_like_production_stays(begin_release, people):
    release = begin_release()
    for number, person in enumerate(people):
        turn(release, (Arm.CANARY, Arm.PRODUCTION)[number % 2], person, failed=number % 8 < 2)
    guards.watch()
    assert fresh(release).state == Release.State.CANARY


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        ("refusals", {"refused": True, "completed": False}),
        ("duration", {"duration_ms": 60_000}),
        ("cost", {"cost_usd": Decimal("0.30")}),
    ],
)
def test_every_metric_can_end_a_release(begin_release, people, make_user, metric, worse):
    release = begin_release()
    more = User.objects.bulk_create(User(email=f"more{n}@example.org") for n in range(40))
    for number, person in enumerate([*people, *more]):
        arm = Arm.CANARY if number % 2 else Arm.PRODUCTION
        turn(release, arm, person, **(worse if arm == Arm.CANARY else {}))
    guards.watch()
    decision = ReleaseDecision.objects.get(verb="rolled_back")
    assert {each["metric"] for each in decision.numbers["crossed"]} == {metric}


def test_thumbs_down_end_a_release(begin_release, people):
    release = begin_release()
    for number, person in enumerate(people):
        arm = Arm.CANARY if number % 2 else Arm.PRODUCTION
        began = timezone.now()
        is_down = arm == Arm.CANARY
        tally_rating(release.pk, arm, person.pk, conversation_began=began, is_down=is_down)
    guards.watch()
    decision = ReleaseDecision.objects.get(verb="rolled_back")
    assert decision.numbers["crossed"][0]["metric"] == "thumbs_down"


def test_one_heavy_user_can_not_end_a_release(begin_release, people, olive):
    release = begin_release()
    for _ in range(200):
        turn(release, Arm.CANARY, olive, failed=True)
    for person in people:
        turn(release, Arm.PRODUCTION, person)
    guards.watch()
    assert fresh(release).state == Release.State.CANARY


def test_looking_often_changes_nothing(begin_release, people):
    release = begin_release()
    for number, person in enumerate(people[:12]):
        turn(release, (Arm.CANARY, Arm.PRODUCTION)[number % 2], person, failed=number == 4)
        guards.watch()
    often = list(GuardReading.objects.order_by("metric").values("metric", "comparison"))
    GuardReading.objects.all().delete()
    ArmTally.objects.update(compared_at=None)
    guards.watch()
    assert list(GuardReading.objects.order_by("metric").values("metric", "comparison")) == often
    assert fresh(release).state == Release.State.CANARY


def test_a_window_that_is_not_full_waits_until_it_is_old(begin_release, olive):
    release = begin_release()
    for _ in range(3):
        turn(release, Arm.CANARY, olive)
    guards.watch()
    (waiting,) = ArmTally.objects.filter(compared_at=None)
    assert waiting.window == 1
    ArmTally.objects.update(began_at=timezone.now() - timedelta(minutes=11))
    guards.watch()
    assert not ArmTally.objects.filter(compared_at=None).exists()


def test_a_paused_release_is_still_rolled_back(begin_release, people, mei):
    release = begin_release()
    rollout.pause(release, note="Let me see", by=mei)
    failing_canary(release, people)
    guards.watch()
    assert fresh(release).state == Release.State.ROLLED_BACK


def test_the_early_access_is_judged_by_failures_alone(begin_release, people, olive):
    release = begin_release(early_people=[olive.pk])
    for number, person in enumerate(people):
        arm = Arm.EARLY if number % 2 else Arm.PRODUCTION
        turn(release, arm, person, duration_ms=90_000 if arm == Arm.EARLY else 1000)
    guards.watch()
    assert fresh(release).state == Release.State.EARLY_ACCESS
    assert set(GuardReading.objects.values_list("metric", flat=True)) == {"errors"}


def test_one_release_that_can_not_be_looked_at_holds_no_other(begin_release, people, monkeypatch):
    release = begin_release()
    failing_canary(release, people)
    monkeypatch.setattr(guards, "_watch", lambda release: 1 / 0)
    guards.watch()  # reported, not raised
    assert fresh(release).state == Release.State.CANARY


# --- steps -------------------------------------------------------------------------------------


@pytest.fixture
def done(monkeypatch):
    """Let the present step have its turns and its time, whatever was said in conversations."""
    progress = rollout.progress_of

    def of(release, **given):
        found = progress(release, **given)
        return rollout.Progress(found.step, 1000, 1000, 1000, found.is_last)

    monkeypatch.setattr(rollout, "progress_of", of)


def well(release: Release, people: list[User]) -> None:
    for number, person in enumerate(people):
        turn(release, (Arm.CANARY, Arm.PRODUCTION)[number % 2], person)


def test_a_step_that_is_done_is_offered_once_with_its_numbers(begin_release, people, done):
    release = begin_release()
    well(release, people)
    guards.watch()
    guards.watch()
    (entry,) = Entry.objects.filter(event="release.step_offered")
    assert entry.payload["step"] == 0
    assert {each["metric"] for each in entry.payload["numbers"]["compared"]} >= {"errors", "cost"}
    assert ReleaseGuard.objects.get().offered_step == 0
    assert fresh(release).step == 0


def test_a_step_is_taken_when_so_configured(begin_release, people, done, mei):
    release = begin_release()
    guards.set_bounds(release, Bounds(advances_itself=True), by=mei)
    well(release, people)
    guards.watch()
    assert fresh(release).step == 1
    assert ReleaseDecision.objects.get(verb="advanced").part == "guards"


def test_the_last_step_is_only_offered(begin_release, people, done, mei):
    release = begin_release(steps=HALF[:1])
    guards.set_bounds(release, Bounds(advances_itself=True), by=mei)
    well(release, people)
    guards.watch()
    assert fresh(release).state == Release.State.CANARY
    assert Entry.objects.filter(event="release.step_offered").exists()


def test_a_step_is_not_offered_before_enough_people_were_compared(begin_release, people, done):
    begin_release()
    guards.watch()
    assert not Entry.objects.filter(event="release.step_offered").exists()


# --- bounds ------------------------------------------------------------------------------------


def test_bounds_can_be_set_until_somebody_was_compared(begin_release, people, mei):
    release = begin_release()
    guards.set_bounds(release, Bounds(error_rate=0.1), by=mei)
    assert guards.bounds_of(release).error_rate == 0.1
    assert Entry.objects.get(event="release.guarded").payload["bounds"]["error_rate"] == 0.1
    well(release, people)
    guards.watch()
    with pytest.raises(NotPossible, match="compared already"):
        guards.set_bounds(release, Bounds(error_rate=0.5), by=mei)


@pytest.mark.parametrize("bounds", [{"error_rate": -0.1}, {"cost_factor": 0.5}, {"error_rate": 2}])
def test_bounds_that_can_not_be_are_refused(begin_release, mei, bounds):
    release = begin_release()
    with pytest.raises(NotPossible, match="by a factor of 1 to 4"):
        guards.set_bounds(release, Bounds(**bounds), by=mei)


def test_who_may_not_publish_sets_no_bounds(begin_release, olive):
    release = begin_release()
    with pytest.raises(Denied):
        guards.set_bounds(release, Bounds(), by=olive)


def test_the_defaults_of_bounds_are_those_of_the_model():
    assert Bounds() == Bounds(
        **{name: getattr(ReleaseGuard(), name) for name in Bounds.__dataclass_fields__}
    )


def test_how_it_stands_can_be_read_in_two_queries(begin_release, people, django_assert_num_queries):
    release = begin_release()
    well(release, people)
    guards.watch()
    with django_assert_num_queries(2):
        errors, _, ratings, duration, _ = guards.standing(release)
    assert (errors.label, errors.bound) == ("turns that failed", "+2 in 100")
    assert (errors.canary, errors.production, errors.evidence) == (NOTHING, NOTHING, 0)
    assert (ratings.canary, ratings.people) == ("", "")
    assert (duration.canary, duration.bound) == ("1.00 times", "1.25 times")


def test_the_page_of_a_release_shows_how_it_stands_and_takes_bounds(
    begin_release, people, mei, client
):
    release = begin_release()
    client.force_login(mei)
    page = f"/admin/prompts/release/{release.pk}/change/"
    form = {name: getattr(Bounds(), name) for name in Bounds.__dataclass_fields__}
    form |= {"act": "bounds", "error_rate": "0.05", "advances_itself": "on"}
    assert client.post(page, form).status_code == 302
    assert guards.bounds_of(release) == Bounds(error_rate=0.05, advances_itself=True)
    refused = client.post(page, form | {"cost_factor": "0.5"})
    assert (refused.status_code, guards.bounds_of(release).cost_factor) == (409, 1.25)
    failing_canary(release, people[:6])
    guards.watch()
    shown = client.get(page).content.decode()
    assert "Turns that failed" in shown
    assert "100.0\N{NO-BREAK SPACE}%" in shown
    assert "+5 in 100" in shown
    assert 'value="bounds"' not in shown
