"""Each built-in set, whole, through the engine: with good answers it passes, with bad ones not."""

import json
from decimal import Decimal

import pytest

from accounts.access import System
from audit.trail import acting_as
from benchmarks.provider_simulator import running_simulator, sim
from prompts.builtin import BUILT_IN, BuiltIn
from prompts.evaluation import engine, runs, sets
from prompts.evaluation.cases import read
from prompts.models import EvaluationRun, EvaluationSet, LanguageModel, PromptTemplate
from tests.prompts.evaluations import make_judge
from tests.prompts.test_built_in_sets import ANSWERS

pytestmark = pytest.mark.django_db(transaction=True)

TESTS = System("tests")


@pytest.fixture(autouse=True)
def _provider(simulator, settings):
    settings.OPENAI_BASE_URL = simulator
    settings.PROVIDER_ATTEMPTS, settings.PROVIDER_BREAKER_FAULTS = 1, 1_000_000


@pytest.fixture(scope="module")
def _judging():
    answer = '{"score": 1, "reason": "It does what the rubric says."}'
    with running_simulator(text=answer, tokens_per_second=0) as base_url:
        yield base_url


@pytest.fixture
def judge(_judging) -> LanguageModel:
    """A judge whom everything pleases."""
    return make_judge(_judging)


def _scripted(built_in: BuiltIn, quality: str) -> str:
    """Return the cases, each with a line that tells the provider what to answer."""
    answers = {}
    for line in (ANSWERS / f"{built_in.slug}.jsonl").read_text().splitlines():
        answer = json.loads(line)
        answers[answer["id"]] = answer[quality][0]
    cases = [json.loads(line) for line in built_in.cases.decode().splitlines()]
    for case in cases:
        told = sim(text=answers[case["id"]], tokens_per_second=0)
        case["turns"][-1]["content"] += f"\n{told}"
    return "\n".join(json.dumps(case) for case in cases)


@pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda one: one.slug)
@pytest.mark.parametrize("quality", ["good", "bad"])
def test_a_whole_set_is_run(built_in, quality, judge):
    template = PromptTemplate.objects.get(slug=built_in.slug)
    which = EvaluationSet(slug="scripted", name="Scripted")
    with acting_as(TESTS):
        cases = sets.make_set(which, _scripted(built_in, quality), note="", by=TESTS)
        run = runs.begin(template.live_version, cases, judge=judge.slug, by=TESTS, here=True)
    engine.work(run.pk)
    run.refresh_from_db()
    assert (run.state, run.errors, run.unparsable) == (EvaluationRun.State.FINISHED, 0, 0)
    assert run.score == (1 if quality == "good" else 0)
    assert run.reaches(Decimal("0.9")) == (quality == "good")
    judged = sum(
        verdict["kind"] == "judge" and verdict["judge"] == "judging"
        for verdicts in run.results.values_list("verdicts", flat=True)
        for verdict in verdicts
    )
    assert judged == sum(
        check.kind == "judge" for case in read(built_in.cases).cases for check in case.checks
    )
