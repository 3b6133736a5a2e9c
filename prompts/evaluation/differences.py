"""Two runs of a set, case by case: what fails now and passed before comes first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from prompts.evaluation.cases import Case, cases_of
from prompts.models import EvaluationResult, EvaluationRun

State = EvaluationResult.State


class Change(IntEnum):
    """What became of a case, in the order in which it is shown."""

    NEWLY_FAILING = 0
    NO_RESULT = 1
    FAILING_IN_BOTH = 2
    NEWLY_PASSING = 3
    ONLY_HERE = 4
    ONLY_BEFORE = 5
    PASSING_IN_BOTH = 6

    @property
    def label(self) -> str:
        """How people read it."""
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class Difference:
    """One case in both runs. `is_changed`: its text or its checks are not the same in both."""

    case_id: str
    change: Change
    before: EvaluationResult | None
    after: EvaluationResult | None
    case: Case
    is_changed: bool

    @property
    def pair(self) -> tuple[EvaluationResult | None, EvaluationResult | None]:
        """Its results, the earlier run's first."""
        return self.before, self.after


def between(before: EvaluationRun, after: EvaluationRun) -> list[Difference]:
    """Return how the cases of two runs differ, by `Change`, then in the order of the set.

    Two queries, beside those for the versions of the set. The results come without what models
    said: `with_words` reads that for those that are shown.
    """
    cases = {run.pk: _by_id(cases_of(run.set_version.lines)) for run in (before, after)}
    results = {run.pk: _results_of(run) for run in (before, after)}
    named = [*cases[after.pk], *(name for name in cases[before.pk] if name not in cases[after.pk])]
    found = []
    for name in named:
        old, new = results[before.pk].get(name), results[after.pk].get(name)
        old_case, new_case = cases[before.pk].get(name), cases[after.pk].get(name)
        case = new_case or old_case
        assert case is not None, "each name is of one of them"
        is_changed = old_case is not None and new_case is not None and old_case != new_case
        found.append(Difference(name, _change(old, new), old, new, case, is_changed))
    return sorted(found, key=lambda one: one.change)


def with_words(found: Sequence[Difference]) -> list[Difference]:
    """Return the same with replies and verdicts. One query."""
    whole = EvaluationResult.objects.in_bulk([row.pk for one in found for row in one.pair if row])
    return [
        replace(
            one,
            before=one.before and whole[one.before.pk],
            after=one.after and whole[one.after.pk],
        )
        for one in found
    ]


def _results_of(run: EvaluationRun) -> dict[str, EvaluationResult]:
    return {row.case_id: row for row in run.results.defer("reply", "verdicts", "trouble")}


def _by_id(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.id: case for case in cases}


def _change(before: EvaluationResult | None, after: EvaluationResult | None) -> Change:
    if before is None:
        return Change.ONLY_HERE
    if after is None:
        return Change.ONLY_BEFORE
    decided = {State.PASSED, State.FAILED}
    if before.state not in decided or after.state not in decided:
        return Change.NO_RESULT
    if after.state == State.FAILED:
        passed = before.state == State.PASSED
        return Change.NEWLY_FAILING if passed else Change.FAILING_IN_BOTH
    failed = before.state == State.FAILED
    return Change.NEWLY_PASSING if failed else Change.PASSING_IN_BOTH
