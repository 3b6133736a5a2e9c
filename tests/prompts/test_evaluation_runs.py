"""Runs of evaluations: calls, claims, money, ends; on a real database and a simulated provider."""

import re
import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.access import Denied, System
from audit.models import Entry
from audit.trail import acting_as
from benchmarks.provider_simulator import forget_requests, recorded_requests, running_simulator
from prompts import publishing, tasks
from prompts.evaluation import engine, runs, sets
from prompts.models import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSet,
    EvaluationSetVersion,
    LanguageModel,
    PromptTemplate,
    PromptVersion,
)
from prompts.publishing import NotPossible, Terms
from tests.prompts.evaluations import case, lines, make_judge

pytestmark = pytest.mark.django_db(transaction=True)

State = EvaluationRun.State
Result = EvaluationResult.State


@pytest.fixture
def iris(make_user):
    """An editor."""
    return make_user("iris", "prompt_editor")


@pytest.fixture
def mei(make_user):
    """A publisher."""
    return make_user("mei", "prompt_publisher")


@pytest.fixture(autouse=True)
def provider(simulator, settings):
    """The simulated provider; its faults are to be seen, not mended."""
    settings.OPENAI_BASE_URL = simulator
    settings.PROVIDER_ATTEMPTS, settings.PROVIDER_BREAKER_FAULTS = 1, 1_000_000
    forget_requests(simulator)
    return simulator


@pytest.fixture(scope="module")
def judging():
    """A provider that judges all replies alike."""
    answer = '{"score": 0.8, "reason": "It is kind."}'
    with running_simulator(text=answer, tokens_per_second=0) as base_url:
        yield base_url


@pytest.fixture
def judge(judging) -> LanguageModel:
    model = make_judge(judging)
    forget_requests(judging)
    return model


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


@pytest.fixture
def draft(template, iris) -> PromptVersion:
    with acting_as(iris):
        return publishing.begin_draft(template, Terms("Be brief."), by=iris)


def stored(by, *cases) -> EvaluationSetVersion:
    which = EvaluationSet(slug="tests", name="Tests")
    return sets.make_set(which, lines(*cases), note="", by=by)


def begun(version, set_version, by, **given) -> EvaluationRun:
    return runs.begin(version, set_version, by=by, here=True, **given)


def worked(run: EvaluationRun) -> EvaluationRun:
    engine.work(run.pk)
    return EvaluationRun.objects.select_related("template", "version", "set_version").get(pk=run.pk)


def states(run: EvaluationRun) -> dict[str, str]:
    return dict(run.results.values_list("case_id", "state"))


def asked(provider: str) -> Counter:
    """How often each case was asked."""
    said = (record["messages"][-1]["content"] for record in recorded_requests(provider))
    return Counter(found[1] for text in said if (found := re.match(r"Question (\S+)", text)))


def entries(event: str) -> list[Entry]:
    return list(Entry.objects.filter(event=event).order_by("pk"))


# --- from beginning to end -----------------------------------------------------------------------


def test_a_run_asks_each_case_once_and_counts_what_passed(draft, iris, provider):
    none = {"type": "contains", "text": "nowhere"}
    set_version = stored(iris, case("a"), case("b"), case("c", none))
    run = worked(begun(draft, set_version, iris))
    assert run.state == State.FINISHED
    assert (run.passed, run.failed, run.total) == (2, 1, 3)
    assert run.score == Decimal(2) / 3
    assert asked(provider) == {"a": 1, "b": 1, "c": 1}
    told = recorded_requests(provider)[0]["messages"]
    assert told[0] == {"role": "system", "content": "Be brief."}
    failed = run.results.get(case_id="c")
    assert failed.verdicts == [
        {"kind": "contains", "outcome": "failed", "reason": "It does not contain “nowhere”."}
    ]
    assert failed.reply == "A simulated reply."
    assert run.reserved_usd == 0
    assert run.spent_usd == sum(run.results.values_list("cost_usd", flat=True)) > 0


def test_the_log_tells_of_a_run_in_numbers_and_holds_no_word_of_it(draft, iris):
    set_version = stored(iris, case("a", text="Grumbling answers."))
    worked(begun(draft, set_version, iris))
    (began,), (ended,) = entries("evaluation.began"), entries("evaluation.ended")
    assert began.actor_id == str(iris.pk)
    assert ended.payload["numbers"] == {
        **dict.fromkeys(("passed", "errors", "uncertain", "unparsable"), 0),
        "total": 1,
        "failed": 1,
        "score": 0.0,
        "spent_usd": str(EvaluationRun.objects.get().spent_usd),
    }
    assert ended.payload["content_hash"] == draft.content_hash
    assert "Grumbling" not in str([entry.payload for entry in Entry.objects.all()])


def test_earlier_turns_variables_and_parameters_reach_the_model(iris, provider):
    support = PromptTemplate.objects.get(slug="support-agent")
    one = case("a")
    one["turns"] = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "Which order?"},
        *one["turns"],
    ]
    one["variables"] = {"organisation": "Tulips Ltd", "topics": ["storms"]}
    run = worked(begun(support.live_version, stored(iris, one), iris))
    assert run.state == State.FINISHED
    (record,) = recorded_requests(provider)
    roles = [message["role"] for message in record["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "customers of Tulips Ltd" in record["messages"][0]["content"]
    assert "- storms" in record["messages"][0]["content"]
    assert record["max_tokens"] == engine.MOST_REPLY_TOKENS


def test_personal_data_does_not_reach_the_provider_and_comes_back_for_the_checks(
    draft, iris, provider
):
    one = case("a", {"type": "contains", "text": "jo@example.org"}, text="Write to jo@example.org.")
    run = worked(begun(draft, stored(iris, one), iris))
    assert run.passed == 1, "the placeholder was restored before the check"
    assert "jo@example.org" not in str(recorded_requests(provider))


def test_a_rule_holds_for_an_evaluation_and_the_case_says_so(draft, iris, rule, provider):
    rule(action="block", words="Question b")
    run = worked(begun(draft, stored(iris, case("a"), case("b")), iris))
    assert run.state == State.FINISHED
    assert asked(provider) == {"a": 1}
    refused = run.results.get(case_id="b")
    assert refused.state == Result.FAILED
    assert "A rule does not let this message through." in refused.trouble
    assert entries("policy.hit")


# --- the judge -----------------------------------------------------------------------------------

KIND = {"type": "judge", "rubric": "The reply is kind.", "min": 0.7}


def test_a_model_judges_by_the_rubric_and_its_model_price_and_rubric_are_stored(
    draft, iris, judge, judging, provider
):
    strict = {**KIND, "min": 0.9}
    set_version = stored(iris, case("a", KIND), case("b", KIND, strict))
    run = worked(begun(draft, set_version, iris, judge="judge"))
    assert states(run) == {"a": "passed", "b": "failed"}
    (verdict,) = run.results.get(case_id="a").verdicts
    assert verdict["score"] == 0.8
    assert verdict["reason"] == "It is kind."
    assert (verdict["judge"], verdict["prices"]) == ("judging", "1 / 1 / 2")
    assert len(verdict["rubric"]) == 64
    told = recorded_requests(judging)[0]["messages"]
    assert "The reply is kind." in told[0]["content"]
    assert "| reply to judge:\n| A simulated reply." in told[1]["content"]
    assert sum(asked(provider).values()) == 2, "the judge asks nothing anew"


def test_what_the_judge_says_otherwise_fails_the_check_and_the_gate(draft, iris, mei, template):
    set_version = stored(iris, case("a", KIND))
    run = worked(begun(draft, set_version, iris))  # the provider is no judge
    assert (run.state, run.failed, run.unparsable) == (State.FINISHED, 1, 1)
    assert run.results.get().verdicts[0]["outcome"] == "unparsable"
    assert not run.reaches(Decimal("0.001"))
    _gated(template, set_version, mei)
    with pytest.raises(NotPossible, match="Evaluate it again with another judge"):
        _publish(draft, mei)


@pytest.mark.parametrize(
    ("says", "check"),
    [
        ("b\0c", {"type": "regex", "pattern": "b.c"}),
        (
            '{"\\u0000": 1}',
            {"type": "json_schema", "schema": {"additionalProperties": {"type": "null"}}},
        ),
        ('{"score": 1, "reason": "\\u0000 and \\ud800"}', KIND),
    ],
)
def test_a_reply_that_the_database_can_not_hold_as_it_is_is_decided_like_others(
    draft, iris, settings, says, check
):
    with running_simulator(text=says, tokens_per_second=0) as settings.OPENAI_BASE_URL:
        run = worked(begun(draft, stored(iris, case("a", check)), iris))
    assert (run.state, run.decided) == (State.FINISHED, 1)
    assert "\N{REPLACEMENT CHARACTER}" in run.results.get().verdicts[0]["reason"]


# --- money ---------------------------------------------------------------------------------------


def test_a_run_stops_at_its_limit_with_nothing_overspent_and_goes_on_with_a_higher_one(
    draft, iris, provider
):
    set_version = stored(iris, *(case(f"c{n}", text="reply " * 3_000) for n in range(12)))
    run = worked(begun(draft, set_version, iris, limit_usd=Decimal("0.01")))
    assert (run.state, run.why) == (State.INTERRUPTED, EvaluationRun.Why.LIMIT)
    assert 0 < run.spent_usd <= run.limit_usd
    assert run.reserved_usd == 0
    before = asked(provider)
    assert 0 < sum(before.values()) < 12
    again = runs.resume(run, by=iris, limit_usd=Decimal(1), here=True)
    run = worked(again)
    assert run.decided == 12
    assert set(asked(provider).values()) == {1}


@pytest.mark.parametrize("limit", [Decimal(0), Decimal(-1), Decimal(1_001)])
def test_a_limit_that_is_none_is_refused(draft, iris, limit):
    with pytest.raises(NotPossible, match="limit"):
        begun(draft, stored(iris, case("a")), iris, limit_usd=limit)


def test_a_model_without_a_price_is_refused_before_anything_is_asked(draft, iris, provider):
    LanguageModel.objects.create(
        slug="free",
        label="Free",
        base_url=provider,
        remote_name="of no price",
        context_window=32_768,
        max_output_tokens=4_096,
    )
    with pytest.raises(NotPossible, match="Free has no price yet"):
        begun(draft, stored(iris, case("a", KIND)), iris, judge="free")
    assert not EvaluationRun.objects.exists()


# --- the provider fails --------------------------------------------------------------------------


def test_a_provider_that_dies_interrupts_the_run_and_nothing_is_lost(
    draft, iris, provider, monkeypatch
):
    monkeypatch.setattr(engine, "AT_ONCE", 1)
    good = [case(f"good{n}") for n in range(3)]
    dead = [case(f"dead{n}", status=500, times=1) for n in range(5)]
    later = [case(f"later{n}") for n in range(4)]
    run = worked(begun(draft, stored(iris, *good, *dead, *later), iris))
    assert (run.state, run.why) == (State.INTERRUPTED, EvaluationRun.Why.PROVIDER)
    assert (run.passed, run.errors) == (3, 5)
    assert run.score is None
    assert not run.reaches(Decimal("0.001"))
    assert run.results.filter(state=Result.WAITING).count() == 4
    assert run.results.filter(state=Result.ERROR)[0].trouble
    (ended,) = entries("evaluation.ended")
    assert (ended.outcome, ended.payload["why"]) == ("failed", "provider")

    forget = asked(provider)
    run = worked(runs.resume(run, by=iris, here=True))
    assert run.decided == 12
    after = asked(provider)
    assert {name: after[name] for name in forget if name.startswith("good")} == {
        f"good{n}": 1 for n in range(3)
    }
    assert all(after[f"dead{n}"] == 2 for n in range(5))


def test_a_fault_now_and_then_does_not_stop_the_run_but_keeps_it_from_a_score(draft, iris):
    set_version = stored(iris, case("a"), case("b", status=500), case("c"))
    run = worked(begun(draft, set_version, iris))
    assert (run.state, run.why) == (State.INTERRUPTED, EvaluationRun.Why.ERRORS)
    assert states(run) == {"a": "passed", "b": "error", "c": "passed"}
    assert run.score is None


# --- processes -----------------------------------------------------------------------------------


def test_two_workers_on_one_run_ask_each_case_once(draft, iris, provider):
    set_version = stored(iris, *(case(f"c{n}") for n in range(20)))
    run = begun(draft, set_version, iris)
    workers = [threading.Thread(target=engine.work, args=(run.pk,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    run.refresh_from_db()
    assert (run.state, run.passed, run.fence) == (State.FINISHED, 20, 1)
    assert set(asked(provider).values()) == {1}


def _claimed(run: EvaluationRun) -> tuple[EvaluationRun, runs.Claim]:
    """A call that a process claimed which then died."""
    taken = runs.take(run.pk)
    result = taken.results.first()
    claimed = runs.Claim(run.pk, result.pk, 0, result.pk)
    assert runs.claim(claimed, taken.fence, Decimal("0.5"))
    return taken, claimed


def _silent(run: EvaluationRun) -> None:
    EvaluationRun.objects.filter(pk=run.pk).update(beat_at=timezone.now() - timedelta(hours=1))
    runs.tend(timezone.now())


def test_what_a_dead_process_had_claimed_is_asked_again_only_deliberately(draft, iris, provider):
    run = begun(draft, stored(iris, case("a"), case("b")), iris)
    _claimed(run)
    _silent(run)
    run = worked(run)
    assert (run.state, run.why) == (State.INTERRUPTED, EvaluationRun.Why.UNCERTAIN)
    assert states(run) == {"a": "uncertain", "b": "passed"}
    assert asked(provider) == {"b": 1}
    assert run.spent_usd > Decimal("0.5"), "it counts as paid in full"
    assert run.reserved_usd == 0
    with pytest.raises(NotPossible, match="Of 1 cases nobody knows"):
        runs.resume(run, by=iris, here=True)
    run = worked(runs.resume(run, by=iris, ask_again=True, here=True))
    assert (run.state, run.passed) == (State.FINISHED, 2)
    assert asked(provider) == {"a": 1, "b": 1}
    assert entries("evaluation.resumed")[0].payload["asked_again"] == 1


def test_the_result_of_a_slow_process_is_taken_though_another_has_the_run(draft, iris, provider):
    run = begun(draft, stored(iris, case("a"), case("b")), iris)
    taken, claimed = _claimed(run)
    _silent(run)
    run = worked(run)
    spent = run.spent_usd
    brought = runs.Settled(
        Result.PASSED, Decimal("0.1"), 5, 6, is_estimated=False, changes={"reply": "Late."}
    )
    runs.settle(claimed, brought)
    runs.settle(claimed, brought)
    run.refresh_from_db()
    assert states(run) == {"a": "passed", "b": "passed"}
    assert run.spent_usd == spent - Decimal("0.4")
    with pytest.raises(runs.Lost):
        runs.claim(claimed, taken.fence, Decimal(0))
    run = worked(runs.resume(run, by=iris, here=True))
    assert (run.state, run.passed) == (State.FINISHED, 2)
    assert asked(provider) == {"b": 1}


def test_a_reply_that_was_stored_is_not_asked_for_again_when_its_judge_died(
    draft, iris, judge, judging, provider
):
    run = begun(draft, stored(iris, case("a", KIND)), iris, judge="judge")
    _taken, claimed = _claimed(run)
    changes = {"reply": "Be well.", "verdicts": [None], "step": 1}
    runs.settle(
        claimed, runs.Settled(Result.WAITING, Decimal(0), 1, 1, is_estimated=False, changes=changes)
    )
    _silent(run)
    run = worked(run)
    assert (run.state, run.passed) == (State.FINISHED, 1)
    assert not asked(provider)
    assert "| Be well." in recorded_requests(judging)[0]["messages"][1]["content"]


def test_a_call_is_claimed_and_settled_without_loading_texts(draft, iris):
    run = begun(draft, stored(iris, case("a"), case("b")), iris)
    with CaptureQueriesContext(connection) as asked:
        _taken, claimed = _claimed(run)
        before = len(asked)
        runs.settle(claimed, runs.Settled(Result.PASSED, Decimal(0), 1, 1, is_estimated=False))
    assert '"lines"' not in str(asked[before:])
    loaded = [q["sql"] for q in asked if '"lines"' in q["sql"]]
    assert len(loaded) == 1, "by taking the run, and not by each call"


def test_a_cancelled_run_asks_nothing_more_and_can_be_resumed(draft, iris, mei, provider):
    run = begun(draft, stored(iris, case("a"), case("b")), iris)
    runs.cancel(run, by=mei)
    assert worked(run).state == State.CANCELLED
    assert not asked(provider)
    with pytest.raises(NotPossible):
        runs.cancel(run, by=mei)
    run = worked(runs.resume(run, by=mei, here=True))
    assert (run.state, run.passed) == (State.FINISHED, 2)
    assert [e.actor_id for e in entries("evaluation.cancelled")] == [str(mei.pk)]


def test_a_cancel_in_the_middle_keeps_what_is_being_asked(draft, iris, provider):
    slow = [case(f"c{n}", text="A reply.", first_token_seconds=0.3) for n in range(12)]
    run = begun(draft, stored(iris, *slow), iris)
    seen: list[int] = []

    def after_the_first() -> None:
        if not seen:
            seen.append(1)
            thread = threading.Thread(target=lambda: runs.cancel(run, by=iris))
            thread.start()
            thread.join()

    engine.work(run.pk, after_the_first)
    run.refresh_from_db()
    assert run.state == State.CANCELLED
    assert 1 <= run.decided < 12
    assert not run.results.filter(state=Result.CLAIMED).exists()
    assert run.decided == sum(asked(provider).values())
    assert run.reserved_usd == 0


def test_a_process_that_ends_lets_the_run_wait_for_another(draft, iris, provider, monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(engine, "stopping", stop)
    run = begun(draft, stored(iris, *(case(f"c{n}") for n in range(8))), iris)
    engine.work(run.pk, stop.set)
    run.refresh_from_db()
    assert run.state == State.WAITING
    assert run.decided < 8
    stop.clear()
    run = worked(run)
    assert (run.state, run.passed, run.uncertain) == (State.FINISHED, 8, 0)
    assert set(asked(provider).values()) == {1}


def test_a_process_goes_on_to_say_that_it_lives_when_the_database_was_away(
    draft, iris, monkeypatch
):
    beaten: list[int] = []
    beat = runs.beat

    def beat_but_for_the_first(*whose) -> None:
        beaten.append(1)
        if len(beaten) == 1:
            raise OperationalError("away")
        beat(*whose)

    monkeypatch.setattr(runs, "beat", beat_but_for_the_first)
    monkeypatch.setattr(engine, "BEAT_SECONDS", 0.01)
    slow = case("a", text="A reply.", first_token_seconds=2)
    run = worked(begun(draft, stored(iris, slow), iris))
    assert (run.state, run.passed) == (State.FINISHED, 1)
    assert len(beaten) > 2


def test_a_worker_is_asked_again_for_what_nobody_took(draft, iris, monkeypatch, provider):
    handed: list[list[str]] = []
    monkeypatch.setattr(runs.current_app, "send_task", lambda _, args, **_o: handed.append(args))
    run = runs.begin(draft, stored(iris, case("a")), by=iris)
    assert handed == [[str(run.pk)]]
    runs.tend(timezone.now())
    assert len(handed) == 1, "it was handed over just now"
    runs.tend(timezone.now() + timedelta(minutes=1))
    assert len(handed) == 2
    for _ in handed:
        tasks.run_evaluation(str(run.pk))
    run.refresh_from_db()
    assert (run.state, run.passed) == (State.FINISHED, 1)
    assert asked(provider) == {"a": 1}


# --- who, and what can't be ----------------------------------------------------------------------


def test_members_and_readers_run_nothing(draft, iris, olive, ravi):
    set_version = stored(iris, case("a"))
    for stranger in (olive, ravi):
        with pytest.raises(Denied):
            begun(draft, set_version, stranger)
        with pytest.raises(Denied):
            sets.store_version(set_version.set, lines(case("b")), note="", by=stranger)


def test_the_same_is_not_evaluated_twice_at_once(draft, iris, mei):
    set_version = stored(iris, case("a"))
    begun(draft, set_version, iris)
    with pytest.raises(NotPossible, match="being evaluated already"):
        begun(draft, set_version, mei)


def test_a_variable_that_the_template_does_not_have_is_refused_at_once(draft, iris):
    one = case("a") | {"variables": {"organisation": "Acme"}}
    with pytest.raises(NotPossible, match=r"case a does not fit.*no variable organisation"):
        begun(draft, stored(iris, one), iris)


def test_a_draft_is_evaluated_as_it_was_when_the_run_began(draft, iris, provider):
    run = begun(draft, stored(iris, case("a")), iris)
    with acting_as(iris):
        publishing.save_draft(draft, Terms("Be rude."), revision=1, by=iris)
    run = worked(run)
    assert recorded_requests(provider)[0]["messages"][0]["content"] == "Be brief."
    draft.refresh_from_db()
    assert run.content_hash != draft.content_hash


def test_stored_cases_stay_and_the_same_ones_are_no_new_version(iris):
    version = stored(iris, case("a"), case("b"))
    with pytest.raises(NotPossible, match="v1 has exactly these cases"):
        sets.store_version(version.set, lines(case("a"), case("b")), note="", by=iris)
    second = sets.store_version(version.set, lines(case("a")), note="Fewer", by=iris)
    assert (second.number, second.case_count) == (2, 1)
    table = EvaluationSetVersion._meta.db_table
    for statement in (
        f"UPDATE {table} SET lines = ''",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_words_are_forgotten_after_thirty_days_and_outcomes_stay(draft, iris, judge):
    run = worked(begun(draft, stored(iris, case("a", KIND)), iris, judge="judge"))
    assert runs.forget_replies(timezone.now()) == 0
    assert runs.forget_replies(timezone.now() + timedelta(days=31)) == 1
    result = run.results.get()
    assert result.reply == ""
    assert "reason" not in result.verdicts[0]
    assert (result.verdicts[0]["score"], result.state) == (0.8, "passed")
    assert runs.forget_replies(timezone.now() + timedelta(days=31)) == 0


def test_a_run_whose_replies_are_forgotten_does_not_go_on_to_judge_nothing(draft, iris, judge):
    run = begun(draft, stored(iris, case("a", KIND)), iris, judge="judge")
    _taken, claimed = _claimed(run)
    changes = {"reply": "Be well.", "verdicts": [None], "step": 1}
    runs.settle(
        claimed, runs.Settled(Result.WAITING, Decimal(0), 1, 1, is_estimated=False, changes=changes)
    )
    runs.cancel(run, by=iris)
    old = timezone.now() - timedelta(days=31)
    EvaluationRun.objects.filter(pk=run.pk).update(began_at=old)
    assert runs.forget_replies(timezone.now()) == 1
    with pytest.raises(NotPossible, match="Begin a new one"):
        runs.resume(run, by=iris, here=True)


# --- the gate ------------------------------------------------------------------------------------


def _gated(template, set_version, by, score="0.9") -> PromptTemplate:
    return publishing.require_evaluation(
        template, set_version.set, Decimal(score), note="Agreed", by=by
    )


def _publish(draft, by):
    with acting_as(by):
        return publishing.publish(draft, content_hash=draft.content_hash, note="Agreed", by=by)


def test_publishing_waits_for_the_evaluation_that_the_template_requires(draft, iris, mei, template):
    set_version = stored(iris, case("a"), case("b"))
    _gated(template, set_version, mei)
    with pytest.raises(NotPossible, match=r"was not evaluated with v1 .*Press “Evaluate…”"):
        _publish(draft, mei)
    run = begun(draft, set_version, iris)
    with pytest.raises(NotPossible, match="is being evaluated"):
        _publish(draft, mei)
    worked(run)
    assert not _publish(draft, mei).is_draft


def test_a_score_below_an_older_set_and_another_text_do_not_open_the_gate(
    draft, iris, mei, template
):
    none = {"type": "contains", "text": "nowhere"}
    first = stored(iris, case("a"), case("b", none))
    _gated(template, first, mei)
    worked(begun(draft, first, iris))
    with pytest.raises(NotPossible, match=r"passed 1 of 2\. Change the text"):
        _publish(draft, mei)
    second = sets.store_version(first.set, lines(case("a")), note="", by=iris)
    with pytest.raises(NotPossible, match="not evaluated with v2"):
        _publish(draft, mei)
    worked(begun(draft, second, iris))
    with acting_as(iris):
        changed = publishing.save_draft(draft, Terms("Be rude."), revision=1, by=iris)
    with pytest.raises(NotPossible, match="not evaluated with v2"):
        _publish(changed, mei)
    assert template.versions.get(pk=draft.pk).is_draft


def test_a_passed_run_opens_the_gate_however_many_came_after_it(draft, iris, mei, template):
    set_version = stored(iris, case("a"))
    _gated(template, set_version, mei)
    worked(begun(draft, set_version, iris))
    for _ in range(51):
        runs.cancel(begun(draft, set_version, iris), by=iris)
    assert not _publish(draft, mei).is_draft


def test_a_run_without_an_end_does_not_open_the_gate(draft, iris, mei, template):
    set_version = stored(iris, case("a"), case("b", status=500))
    _gated(template, set_version, mei, "0.1")
    worked(begun(draft, set_version, iris))
    with pytest.raises(NotPossible, match="did not come to its end"):
        _publish(draft, mei)


def test_a_gate_is_changed_by_publishers_and_administrators_with_a_note(template, iris, mei, ada):
    set_version = stored(iris, case("a"))
    for stranger in (iris,):
        with pytest.raises(Denied):
            _gated(template, set_version, stranger)
    with pytest.raises(NotPossible, match="note"):
        publishing.require_evaluation(template, set_version.set, Decimal(1), note=" ", by=mei)
    _gated(template, set_version, ada)
    publishing.require_evaluation(template, None, Decimal("0.9"), note="Not now", by=mei)
    changed = entries("prompt.gate_changed")[-2:]  # the built-in templates began with theirs
    assert [e.payload["now"]["set"] for e in changed] == ["tests", ""]
    assert changed[1].reason == "Not now"


def test_restoring_is_not_held_up_by_the_gate(draft, iris, mei, template):
    first = template.live_version
    _publish(draft, mei)
    _gated(template, stored(iris, case("a")), mei)
    with acting_as(mei):
        publishing.restore(first, note="Something is wrong", by=mei)
    template.refresh_from_db()
    assert template.live_version == first


def test_parley_itself_may_evaluate(draft, iris):
    run = begun(draft, stored(iris, case("a")), System("schedule"))
    assert worked(run).began_by_id is None
