"""Evaluates live versions again and again, and notices when one falls below its own baseline.

    plan(template, Plan(cases, days=7, limit_usd=…), note=…, by=user)    None switches it off
    look(now)                                                            by the worker

The baseline of a version is the first of its runs that passed: finished, with the score that its
template requires, by the same version of the set, and every answer of the judge readable. A run
that failed or did not finish is never one.

A later run is compared with it case by case (McNemar's test, exact and one-sided): of the cases
that changed, those that fell are counted. If nothing but chance changed them, each is as likely to
have fallen as to have risen, so the probability of so many falls or more is that of a fair coin. A
look errs with a probability of at most ALPHA times the share of a year that it stands for: with all
that stays as it was, ALPHA is the probability of any mistaken alarm about a version within a year.
A baseline is chosen for having passed, so one that passed by luck makes alarms a little more
frequent.

What is no fault of the prompt is no fall. A run that could not finish is reported as that; a case
is left out where an answer of the judge could not be read; and where another model judged than in
the baseline, what was judged is left out of both.

McNemar: Note on the sampling error of the difference between correlated proportions or percentages.
Psychometrika 12 (1947).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import comb
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from accounts.access import Actor, System, require
from accounts.roles import Permission
from audit.trail import record
from chatbot.telemetry import scheduled_evaluations
from prompts import drift
from prompts.catalogue import NotOffered, offer_for
from prompts.evaluation import runs
from prompts.evaluation.sets import newest_version
from prompts.models import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSet,
    PromptTemplate,
    ScheduledEvaluation,
)
from prompts.publishing import NotPossible, locked, noted

logger = structlog.get_logger(__name__)

ALPHA = drift.ALPHA
MOST_DAYS = 365
TOLD_ONCE_IN = timedelta(days=7)

SCHEDULE = System("schedule")
Result = ScheduledEvaluation.Result


# --- what is planned -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """With what a live version is evaluated, how often, and for how much money at once."""

    cases: EvaluationSet
    days: int
    limit_usd: Decimal

    @classmethod
    def of(cls, template: PromptTemplate) -> "Plan | None":
        """Return what is planned for a template."""
        if template.scheduled_set is None:
            return None
        return cls(template.scheduled_set, template.scheduled_days, template.scheduled_limit_usd)

    def as_dict(self) -> dict[str, Any]:
        """Return it as the log tells it."""
        return {"set": self.cases.slug, "days": self.days, "limit_usd": f"{self.limit_usd:f}"}


@transaction.atomic
def plan(template: PromptTemplate, planned: Plan | None, *, note: str, by: Actor) -> PromptTemplate:
    """Let the live version of a template be evaluated every so many days, or never.

    Raises Denied and NotPossible.
    """
    require(by, Permission.GATE_PROMPTS)
    note = noted(note)
    stored = locked(template)
    before = Plan.of(stored)
    if planned == before:
        raise NotPossible("This is planned already.")
    if planned is not None:
        _check(planned)
        stored.scheduled_days, stored.scheduled_limit_usd = planned.days, planned.limit_usd
    stored.scheduled_set = planned.cases if planned else None
    stored.save(update_fields=["scheduled_set", "scheduled_days", "scheduled_limit_usd"])
    said, said_before = (one.as_dict() if one else {"set": ""} for one in (planned, before))
    record(by, "prompt.schedule_changed", stored, reason=note, now=said, before=said_before)
    return stored


def _check(planned: Plan) -> None:
    if not 1 <= planned.days <= MOST_DAYS:
        raise NotPossible(f"The days from one to the next are between 1 and {MOST_DAYS}.")
    if not 0 < planned.limit_usd <= runs.MAX_LIMIT_USD:
        raise NotPossible(f"The limit lies above $0 and at most at ${runs.MAX_LIMIT_USD}.")
    if newest_version(planned.cases) is None:
        raise NotPossible(f"{planned.cases} has no cases yet: upload some first.")


# --- looking -------------------------------------------------------------------------------------


def look(now: datetime) -> None:
    """Begin what is due, and look at what has ended. What fails for one template holds no other."""
    ended = ScheduledEvaluation.objects.filter(_has_ended())
    for evaluation_id in ended.values_list("pk", flat=True):
        try:
            _settle(evaluation_id, now)
        except Exception:
            logger.exception("scheduled_evaluation_not_settled", evaluation=str(evaluation_id))
    for template in PromptTemplate.objects.exclude(scheduled_set=None):
        try:
            _begin_if_due(template, now)
        except Exception:
            logger.exception("scheduled_evaluation_not_begun", template=template.slug)


@transaction.atomic
def _begin_if_due(template: PromptTemplate, now: datetime) -> None:
    stored = locked(template)
    version, cases = stored.live_version, stored.scheduled_set
    if version is None or cases is None or stored.is_paused or not _is_due(stored, now):
        return
    newest = newest_version(cases)
    assert newest is not None, "sets without cases are not planned, and cases stay"
    of_this = EvaluationRun.objects.filter(
        template=stored, set_version=newest, content_hash=version.content_hash
    )
    if of_this.filter(state__in=EvaluationRun.OPEN).exists():
        return  # somebody evaluates it at the moment
    baseline = _passed(stored, of_this).first()
    evaluation = ScheduledEvaluation(template=stored, version=version, at=now)
    try:
        evaluation.run = runs.begin(
            version,
            newest,
            limit_usd=stored.scheduled_limit_usd,
            judge=_judge_of(baseline),
            by=SCHEDULE,
        )
    except NotPossible as error:
        evaluation.trouble = str(error)[:300]
        _end(evaluation, Result.NOT_BEGUN)
    else:
        evaluation.save()


def _judge_of(baseline: EvaluationRun | None) -> str:
    """Return the baseline's judge while it can be asked, so that both are judged alike."""
    slug = baseline.judge if baseline else ""
    try:
        offer_for(SCHEDULE, slug)
    except NotOffered:
        return ""
    return slug


def _is_due(template: PromptTemplate, now: datetime) -> bool:
    last = template.scheduled_evaluations.order_by("-at").first()
    return last is None or last.at <= now - timedelta(days=template.scheduled_days)


def _has_ended() -> Q:
    """Waiting ones whose run ended, and unfinished ones whose run somebody let go on."""
    finished = Q(run__state=EvaluationRun.State.FINISHED)
    is_over = ~Q(run__state__in=EvaluationRun.OPEN)
    return Q(is_over, result=Result.WAITING) | Q(finished, result=Result.UNFINISHED)


@transaction.atomic
def _settle(evaluation_id: Any, now: datetime) -> None:
    """Say what follows from a run that has ended."""
    rows = ScheduledEvaluation.objects.select_related("template", "version", "run")
    rows = rows.select_for_update(of=("self",)).filter(_has_ended(), pk=evaluation_id)
    evaluation = rows.first()
    if evaluation is None or evaluation.run is None:
        return None  # another worker was here
    run, template = evaluation.run, evaluation.template
    evaluation.numbers = runs.numbers(run)
    if run.state != EvaluationRun.State.FINISHED:
        evaluation.numbers["why"] = run.why or run.state
        return _end(evaluation, Result.UNFINISHED)
    passes = run.reaches(template.required_score)
    evaluation.baseline = baseline_of(run)
    if evaluation.baseline is None:
        return _end(evaluation, Result.BELOW)
    if evaluation.baseline == run:
        return _end(evaluation, Result.BASELINE)
    fall = compared(evaluation.baseline, run)
    alpha = alpha_of(template.scheduled_days)
    evaluation.numbers |= fall.numbers(alpha)
    if fall.p_value > alpha:
        return _end(evaluation, Result.HELD if passes else Result.BELOW)
    if template.live_version_id == evaluation.version_id and not _told_lately(evaluation, now):
        evaluation.version.template = template
        drift.declined(evaluation.version, "evaluation", evaluation.numbers)
        evaluation.told_at = now
    return _end(evaluation, Result.DECLINED)


def _told_lately(evaluation: ScheduledEvaluation, now: datetime) -> bool:
    of_version = ScheduledEvaluation.objects.filter(version=evaluation.version)
    return of_version.filter(told_at__gt=now - TOLD_ONCE_IN).exists()


def _end(evaluation: ScheduledEvaluation, result: ScheduledEvaluation.Result) -> None:
    """Store what followed, and tell it to the log and the figures."""
    evaluation.result = result
    evaluation.save()
    failed = result in {Result.UNFINISHED, Result.NOT_BEGUN}
    record(
        SCHEDULE,
        "prompt.evaluated",
        evaluation.template,
        outcome="failed" if failed else "succeeded",
        result=result.value,
        run=str(evaluation.run_id or ""),
        version=str(evaluation.version_id),
        number=evaluation.version.number,
        content_hash=evaluation.version.content_hash,
        numbers=evaluation.numbers,
    )
    scheduled_evaluations.labels(evaluation.template.slug, result.value).inc()


# --- comparing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fall:
    """Two runs, case by case: how many are in both, fell and rose, and passed in each.

    `with_judge`: what a model judged is part of it.
    """

    cases: int
    fell: int
    rose: int
    passed: int
    passed_before: int
    with_judge: bool = True

    @property
    def p_value(self) -> float:
        """The probability of so many falls or more, if each change is as likely up as down."""
        changed = self.fell + self.rose
        falls = sum(comb(changed, k) for k in range(self.fell, changed + 1))
        return float(falls / 2**changed)

    def numbers(self, alpha: float) -> dict[str, Any]:
        """Return it as the log and the hooks get it."""
        return {
            "cases_compared": self.cases,
            "passed_of_them": self.passed,
            "passed_of_them_baseline": self.passed_before,
            "fell": self.fell,
            "rose": self.rose,
            "with_judge": self.with_judge,
            "p": float(f"{self.p_value:.2e}"),
            "alpha": float(f"{alpha:.2e}"),
        }


def alpha_of(days: int) -> float:
    """Return with which probability a look may err that is taken every so many days."""
    return ALPHA * min(days, 365) / 365


def baseline_of(run: EvaluationRun) -> EvaluationRun | None:
    """Return the first passed run of the same text and cases, perhaps itself. One query."""
    alike = EvaluationRun.objects.filter(
        template=run.template_id, set_version=run.set_version_id, content_hash=run.content_hash
    )
    return _passed(run.template, alike).first()


def _passed(template: PromptTemplate, among: QuerySet[EvaluationRun]) -> QuerySet[EvaluationRun]:
    """Return the runs with a score that suffices, the first to end first."""
    suffices = Q(passed__gte=F("total") * template.required_score)
    finished = among.filter(suffices, state=EvaluationRun.State.FINISHED, unparsable=0)
    return finished.order_by("ended_at", "pk")


def compared(baseline: EvaluationRun, run: EvaluationRun) -> Fall:
    """Return how a run differs from its baseline. Two queries."""
    verdicts_before, verdicts = _verdicts(baseline), _verdicts(run)
    alike = _judges(verdicts_before) == _judges(verdicts)
    before, now = _decided(verdicts_before, alike), _decided(verdicts, alike)
    both = sorted(before.keys() & now.keys())
    return Fall(
        cases=len(both),
        fell=sum(before[at] and not now[at] for at in both),
        rose=sum(now[at] and not before[at] for at in both),
        passed=sum(now[at] for at in both),
        passed_before=sum(before[at] for at in both),
        with_judge=alike,
    )


Verdicts = Mapping[int, Sequence[Mapping[str, Any]]]
"""Those of each case, by its position."""


def _verdicts(run: EvaluationRun) -> Verdicts:
    states = [EvaluationResult.State.PASSED, EvaluationResult.State.FAILED]
    return dict(run.results.filter(state__in=states).values_list("position", "verdicts"))


def _judges(verdicts: Verdicts) -> set[str]:
    """Return who judged, by the names that the provider gave."""
    return {one["judge"] for each in verdicts.values() for one in each if one.get("judge")}


def _decided(verdicts: Verdicts, with_judge: bool) -> dict[int, bool]:
    """Return which cases passed, without those that nothing decided."""
    found = {}
    for at, each in verdicts.items():
        outcomes = {one["outcome"] for one in each if with_judge or one["kind"] != "judge"}
        if outcomes and "unparsable" not in outcomes:
            found[at] = outcomes == {"passed"}
    return found
