"""The ledger of a run: whatever happens in whatever order, the money adds up."""

import uuid
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.access import System
from prompts.evaluation import runs, sets
from prompts.evaluation.runs import Claim, Decided, Lost, Settled
from prompts.models import EvaluationResult, EvaluationRun, EvaluationSet, PromptTemplate
from prompts.publishing import NotPossible
from tests.prompts.evaluations import case, lines

pytestmark = pytest.mark.django_db

BY = System("test")
LIMIT = Decimal(10)
Result = EvaluationResult.State
CENTS = st.integers(1, 400).map(lambda cents: Decimal(cents) / 100)
CASES = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("claim"), CASES, CENTS),
    st.tuples(st.just("settle"), CASES, CENTS),
    st.tuples(st.just("fail"), CASES, CENTS),
    st.tuples(st.just("die")),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("resume"), st.booleans()),
)


class History:
    """Processes that claim, settle and die in turn, and what has to hold whatever they do."""

    def __init__(self) -> None:
        which = EvaluationSet(slug=uuid.uuid4().hex, name="Tests")
        stored = sets.make_set(which, lines(*(case(f"c{n}") for n in range(4))), note="", by=BY)
        version = PromptTemplate.objects.get(slug="summariser").live_version
        self.run = runs.begin(version, stored, limit_usd=LIMIT, by=BY, here=True)
        self.results = list(self.run.results.values_list("pk", flat=True))
        self.claims: list[tuple[Claim, Decimal]] = []
        self.paid = Decimal(0)
        runs.take(self.run.pk)

    def claim(self, at: int, worst: Decimal) -> None:
        self.run.refresh_from_db()
        claimed = Claim(self.run.pk, self.results[at], 0, uuid.uuid4())
        with suppress(Lost, Decided):
            if runs.claim(claimed, self.run.fence, worst):
                assert runs.claim(claimed, self.run.fence, worst), "it may be told twice"
                self.claims.append((claimed, worst))

    def settle(self, at: int, cost: Decimal, state: Result = Result.PASSED) -> None:
        found = [pair for pair in self.claims if pair[0].result_id == self.results[at]]
        for claimed, worst in found[:1]:
            self.claims.remove((claimed, worst))
            spent = min(cost, worst)
            self.paid += spent
            runs.settle(claimed, Settled(state, spent, 1, 1, is_estimated=False))
            if EvaluationResult.objects.get(pk=claimed.result_id).attempt == claimed.attempt:
                runs.settle(claimed, Settled(state, spent, 1, 1, is_estimated=False))

    def fail(self, at: int, cost: Decimal) -> None:
        self.settle(at, cost, Result.ERROR)

    def die(self) -> None:
        """Another process takes the run; what this one had claimed may still be settled."""
        EvaluationRun.objects.filter(pk=self.run.pk, state="running").update(state="waiting")
        runs.take(self.run.pk)

    def cancel(self) -> None:
        with suppress(NotPossible):
            runs.cancel(self.run, by=BY)

    def resume(self, ask_again: bool) -> None:
        with suppress(NotPossible):
            runs.resume(self.run, ask_again=ask_again, by=BY, here=True)
            runs.take(self.run.pk)

    def holds(self) -> None:
        run = EvaluationRun.objects.get(pk=self.run.pk)
        rows = list(run.results.all())
        held = sum(row.held_usd for row in rows if row.state == Result.CLAIMED)
        assert run.reserved_usd == held
        assert run.spent_usd == sum(row.cost_usd for row in rows)
        assert run.spent_usd >= self.paid, "nothing that was paid is forgotten"
        assert run.spent_usd + run.reserved_usd <= LIMIT + sum(worst for _, worst in self.claims)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, max_size=14))
def test_the_money_of_a_run_adds_up_whatever_happens(db, steps):
    history = History()
    for verb, *given_ in steps:
        getattr(history, verb)(*given_)
        history.holds()
    history.cancel()
