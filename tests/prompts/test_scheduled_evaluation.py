"""Live versions are evaluated by a schedule; a fall below their own baseline is told, no other."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from accounts.access import Denied
from audit.models import Entry
from audit.trail import acting_as
from benchmarks.provider_simulator import running_simulator
from prompts import drift, publishing
from prompts.catalogue import kept_offers
from prompts.evaluation import engine, schedule, sets
from prompts.evaluation.schedule import ALPHA, Fall, Plan, alpha_of
from prompts.models import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSet,
    EvaluationSetVersion,
    LanguageModel,
    PromptTemplate,
    ScheduledEvaluation,
)
from prompts.publishing import NotPossible
from tests.prompts.evaluations import case, lines

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CASES = 20
State = EvaluationRun.State
Result = ScheduledEvaluation.Result


@pytest.fixture
def mei(make_user):
    """A publisher."""
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def iris(make_user):
    """An editor."""
    return make_user("iris", "prompt_editor")


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.select_related("live_version").get(slug="summariser")


@pytest.fixture
def cases(iris) -> EvaluationSetVersion:
    which = EvaluationSet(slug="tests", name="Tests")
    with acting_as(iris):
        return sets.make_set(which, lines(*(case(f"c{n}") for n in range(CASES))), note="", by=iris)


@pytest.fixture
def planned(template, cases, mei) -> PromptTemplate:
    """The summariser is evaluated each week."""
    return _plan(template, Plan(cases.set, 7, Decimal(2)), mei)


def _plan(template, plan, by, note="We want to know") -> PromptTemplate:
    with acting_as(by):
        return schedule.plan(template, plan, note=note, by=by)


def _ended(run: EvaluationRun, passed, state=State.FINISHED, **given) -> EvaluationRun:
    """Let a run have ended, with these cases passed. `judged`: by whom the cases are judged too."""
    judged, unread = given.pop("judged", ""), given.pop("unread", ())
    for result in run.results.all():
        good = result.position in passed
        result.state = "passed" if good else "failed"
        result.verdicts = [{"kind": "contains", "outcome": "passed" if good else "failed"}]
        if judged:
            result.verdicts[0]["outcome"] = "passed"
            result.verdicts.append(
                {"kind": "judge", "outcome": "passed" if good else "failed", "judge": judged}
            )
        if result.position in unread:
            result.verdicts[-1]["outcome"] = "unparsable"
        result.save()
    run.passed, run.failed, run.unparsable = len(passed), CASES - len(passed), len(unread)
    run.state, run.ended_at = state, NOON
    for name, value in given.items():
        setattr(run, name, value)
    run.save()
    return run


def _look(days: float = 0) -> None:
    schedule.look(NOON + timedelta(days=days))


@pytest.fixture
def evaluated(planned):
    """Evaluate so many days after the first time, with these cases passed; return what followed."""

    def evaluate(days: float, passed, **given) -> ScheduledEvaluation:
        _look(days)
        made = ScheduledEvaluation.objects.latest("at")
        assert made.result == Result.WAITING
        _ended(made.run, passed, **given)
        _look(days)
        made.refresh_from_db()
        return made

    return evaluate


ALL = set(range(CASES))


# --- the plan ----------------------------------------------------------------------------------


def test_it_is_off_until_a_publisher_plans_it(template, cases, mei):
    _look()
    assert not ScheduledEvaluation.objects.exists()
    _plan(template, Plan(cases.set, 7, Decimal(2)), mei)
    entry = Entry.objects.get(event="prompt.schedule_changed")
    assert entry.payload["now"] == {"set": "tests", "days": 7, "limit_usd": "2"}
    assert entry.payload["before"] == {"set": ""}
    _look()
    assert ScheduledEvaluation.objects.get().version == template.live_version


def test_it_can_be_switched_off(planned, mei):
    _plan(planned, None, mei)
    _look()
    assert not ScheduledEvaluation.objects.exists()


def test_who_edits_does_not_plan(template, cases, iris):
    with pytest.raises(Denied):
        _plan(template, Plan(cases.set, 7, Decimal(2)), iris)


@pytest.mark.parametrize(("days", "usd"), [(0, 1), (366, 1), (7, 0), (7, 1001)])
def test_a_plan_outside_its_bounds_is_refused(template, cases, mei, days, usd):
    with pytest.raises(NotPossible):
        _plan(template, Plan(cases.set, days, Decimal(usd)), mei)


def test_a_plan_needs_a_note_and_cases_and_a_change(template, planned, cases, mei):
    with pytest.raises(NotPossible, match="note"):
        _plan(template, None, mei, note=" ")
    with pytest.raises(NotPossible, match="already"):
        _plan(template, Plan(cases.set, 7, Decimal(2)), mei)
    empty = EvaluationSet.objects.create(slug="empty", name="Empty")
    with pytest.raises(NotPossible, match="no cases"):
        _plan(template, Plan(empty, 7, Decimal(2)), mei)


# --- when it begins ----------------------------------------------------------------------------


def test_each_begins_when_its_days_are_over(evaluated):
    first = evaluated(0, ALL)
    assert first.run.limit_usd == 2
    assert first.run.began_by_id is None
    _look(6.9)
    assert ScheduledEvaluation.objects.count() == 1
    evaluated(7, ALL)
    assert ScheduledEvaluation.objects.count() == 2


def test_it_waits_for_an_evaluation_that_somebody_began(planned, cases, iris):
    from prompts.evaluation import runs

    with acting_as(iris):
        other = runs.begin(planned.live_version, cases, by=iris, here=True)
    _look()
    assert not ScheduledEvaluation.objects.exists()
    _ended(other, ALL)
    _look()
    assert ScheduledEvaluation.objects.exists()


def test_a_paused_template_is_not_evaluated(planned, mei):
    with acting_as(mei):
        publishing.set_paused(planned, True, note="Holidays", by=mei)
    _look()
    assert not ScheduledEvaluation.objects.exists()


def test_what_could_not_begin_is_told_once(planned):
    LanguageModel.objects.update(is_active=False)
    kept_offers.forget()
    _look()
    _look(1)
    made = ScheduledEvaluation.objects.get()
    assert (made.result, made.run) == (Result.NOT_BEGUN, None)
    assert made.trouble
    assert _told() == [("not_begun", "failed")]


def _told() -> list[tuple[str, str]]:
    entries = Entry.objects.filter(event="prompt.evaluated").order_by("pk")
    return [(entry.payload["result"], entry.outcome) for entry in entries]


# --- the baseline ------------------------------------------------------------------------------


def test_the_first_that_passed_is_the_baseline(evaluated):
    below = evaluated(0, set(range(10)))
    assert (below.result, below.baseline) == (Result.BELOW, None)
    first = evaluated(7, ALL)
    assert (first.result, first.baseline) == (Result.BASELINE, first.run)
    second = evaluated(14, ALL)
    assert (second.result, second.baseline) == (Result.HELD, first.run)


def test_an_evaluation_that_somebody_began_can_be_the_baseline(planned, cases, iris, evaluated):
    from prompts.evaluation import runs

    with acting_as(iris):
        gate = _ended(runs.begin(planned.live_version, cases, by=iris, here=True), ALL)
    assert evaluated(0, ALL).baseline == gate


@pytest.mark.parametrize(
    "spoilt",
    [
        {"state": State.INTERRUPTED, "why": "provider"},
        {"state": State.CANCELLED},
        {"unread": {3}},
    ],
)
def test_a_run_that_failed_is_never_a_baseline(evaluated, spoilt):
    evaluated(0, ALL, **spoilt)
    second = evaluated(7, ALL)
    assert second.baseline == second.run


def test_another_version_of_the_set_has_a_baseline_of_its_own(evaluated, cases, iris):
    evaluated(0, ALL)
    with acting_as(iris):
        sets.store_version(
            cases.set, lines(*(case(f"d{n}") for n in range(CASES))), note="", by=iris
        )
    second = evaluated(7, ALL)
    assert (second.result, second.baseline) == (Result.BASELINE, second.run)


# --- a fall ------------------------------------------------------------------------------------


@pytest.fixture
def declined(monkeypatch) -> list:
    told: list = []
    monkeypatch.setattr(drift, "declined", lambda *given: told.append(given))
    return told


def test_a_fall_beyond_chance_is_told_with_its_numbers(evaluated, declined):
    baseline = evaluated(0, ALL - {19})
    fallen = evaluated(7, {0, 1, 2, 3, 19})
    assert fallen.result == Result.DECLINED
    ((version, source, numbers),) = declined
    assert (version, source) == (baseline.version, "evaluation")
    assert (numbers["fell"], numbers["rose"], numbers["cases_compared"]) == (15, 1, 20)
    assert (numbers["passed_of_them_baseline"], numbers["passed_of_them"]) == (19, 5)
    assert numbers["p"] == pytest.approx(17 / 2**16, rel=0.01)
    assert numbers["p"] <= numbers["alpha"] == pytest.approx(0.05 * 7 / 365, rel=0.01)
    assert _told() == [("baseline", "succeeded"), ("declined", "succeeded")]


def test_the_entry_of_a_decline_names_the_evaluation(evaluated):
    before = _declines()
    evaluated(0, ALL)
    evaluated(7, set())
    assert Entry.objects.get(event="prompt.declined").payload["source"] == "evaluation"
    assert _declines() == before + 1


def _declines() -> float:
    labels = {"template": "summariser", "source": "evaluation"}
    return REGISTRY.get_sample_value("parley_prompt_declines_total", labels) or 0.0


def test_what_chance_explains_is_no_decline(evaluated, declined):
    evaluated(0, ALL)
    below = evaluated(7, set(range(10, CASES)))  # ten fell: p is 1/1024, alpha a little less
    assert below.result == Result.BELOW
    assert declined == []
    assert evaluated(14, set(range(11, CASES))).result == Result.DECLINED


def test_as_many_cases_that_rose_speak_against_a_fall(evaluated, declined, planned):
    PromptTemplate.objects.update(required_score=Decimal("0.5"))
    evaluated(0, set(range(10)))
    assert evaluated(7, set(range(10, 20))).result == Result.HELD
    assert declined == []


def test_a_run_that_could_not_finish_is_reported_and_is_no_decline(evaluated, declined):
    evaluated(0, ALL)
    lost = evaluated(7, set(), state=State.INTERRUPTED, why="provider")
    assert (lost.result, lost.numbers["why"]) == (Result.UNFINISHED, "provider")
    assert declined == []
    assert _told()[-1] == ("unfinished", "failed")
    _look(8)
    assert len(_told()) == 2


def test_a_run_that_somebody_let_go_on_is_compared_after_all(evaluated, declined):
    evaluated(0, ALL)
    lost = evaluated(7, set(), state=State.INTERRUPTED, why="provider")
    _ended(lost.run, {0})
    _look(8)
    lost.refresh_from_db()
    assert lost.result == Result.DECLINED
    assert len(declined) == 1


def test_cases_that_the_judge_left_open_are_left_out(evaluated, declined):
    evaluated(0, ALL, judged="a judge")
    open_ = evaluated(7, set(range(5)), judged="a judge", unread=set(range(5, 20)))
    assert open_.result == Result.BELOW
    assert open_.numbers["cases_compared"] == 5
    assert declined == []


def test_what_another_judge_judged_is_not_compared(evaluated, declined):
    evaluated(0, ALL, judged="a mild judge")
    strict = evaluated(7, set(), judged="a strict judge")
    assert strict.result == Result.BELOW
    assert (strict.numbers["with_judge"], strict.numbers["fell"]) == (False, 0)
    assert declined == []
    assert evaluated(14, set(), judged="a mild judge").result == Result.DECLINED


def test_a_fall_is_told_once_a_week(template, cases, mei, evaluated, declined):
    _plan(template, Plan(cases.set, 1, Decimal(2)), mei)
    evaluated(0, ALL)
    for day in range(1, 10):
        assert evaluated(day, set()).result == Result.DECLINED
    assert len(declined) == 2  # on the first day, and eight days later


def test_a_version_that_is_not_live_any_more_did_not_decline(evaluated, declined, planned):
    evaluated(0, ALL)
    _look(7)
    made = ScheduledEvaluation.objects.latest("at")
    _ended(made.run, set())
    PromptTemplate.objects.filter(pk=planned.pk).update(live_version=None)
    _look(7)
    made.refresh_from_db()
    assert made.result == Result.DECLINED
    assert declined == []


def test_one_that_can_t_be_looked_at_holds_no_other(evaluated, planned, cases, mei, monkeypatch):
    other = PromptTemplate.objects.get(slug="support-agent")
    _plan(other, Plan(cases.set, 7, Decimal(2)), mei)
    real = schedule.newest_version
    seen = []

    def fails_first(which):
        seen.append(which)
        if len(seen) == 1:
            raise RuntimeError("for the test")
        return real(which)

    monkeypatch.setattr(schedule, "newest_version", fails_first)
    _look()
    assert ScheduledEvaluation.objects.count() == 1


# --- what chance does --------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 40))
def test_p_is_a_tail_of_the_fair_coin(fell, rose):
    p = Fall(100, fell, rose, 0, 0).p_value
    fewer = Fall(100, rose + 1, fell - 1, 0, 0).p_value  # as many rose as would be no more extreme
    assert p + fewer == pytest.approx(1)
    assert Fall(100, fell + 1, rose, 0, 0).p_value < p


def test_without_a_change_nothing_speaks_for_a_fall():
    assert Fall(100, 0, 0, 90, 90).p_value == 1


def test_the_looks_of_a_year_share_alpha():
    assert alpha_of(7) * 365 / 7 == pytest.approx(ALPHA)
    assert alpha_of(365) == ALPHA


def test_a_prompt_that_stays_as_it_is_rarely_gives_an_alarm_in_a_year():
    """Half of the cases change by chance; the baseline is the first run that passed."""
    chance = random.Random(5)
    likely = [1.0] * 15 + [0.95] * 9 + [0.8] * 6
    years, alarms = 400, 0
    for _ in range(years):
        baseline = [False] * 30
        while sum(baseline) < 27:
            baseline = [chance.random() < p for p in likely]
        alarms += any(_falls(baseline, [chance.random() < p for p in likely]) for _ in range(52))
    assert alarms <= years * ALPHA


def _falls(before: list[bool], now: list[bool]) -> bool:
    pairs = list(zip(before, now, strict=True))
    fall = Fall(len(pairs), pairs.count((True, False)), pairs.count((False, True)), 0, 0)
    return fall.p_value <= alpha_of(7)


# --- the whole ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_model_that_was_exchanged_is_noticed(template, cases, mei, simulator, settings):
    settings.PROVIDER_ATTEMPTS, settings.PROVIDER_BREAKER_FAULTS = 1, 1_000_000
    _plan(template, Plan(cases.set, 7, Decimal(2)), mei)
    settings.OPENAI_BASE_URL = simulator
    _evaluated_for_real(0)
    with running_simulator(text="Something else.", tokens_per_second=0) as other:
        settings.OPENAI_BASE_URL = other
        kept_offers.forget()
        _evaluated_for_real(7)
    results = ScheduledEvaluation.objects.order_by("at").values_list("result", flat=True)
    assert list(results) == [Result.BASELINE, Result.DECLINED]
    numbers = Entry.objects.get(event="prompt.declined").payload["numbers"]
    assert (numbers["fell"], numbers["rose"]) == (CASES, 0)
    assert EvaluationResult.objects.filter(state="failed").count() == CASES


def _evaluated_for_real(days: int) -> None:
    _look(days)
    engine.work(ScheduledEvaluation.objects.latest("at").run_id)
    _look(days)
