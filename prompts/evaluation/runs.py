"""The verbs of a run, and its ledger: who makes which call, what it may cost, what came of it.

    run = begin(version, set_version, limit_usd=…, by=user)     a worker takes it
    cancel(run, by=…)   resume(run, ask_again=False, by=…)
    tend(now)           hands over what no worker took, or whose worker died

and for `engine`, which makes the calls: `take`, `claim`, `settle`, `beat`, `interrupt`, `finish`.

Each call is claimed before it is made, in a transaction of its own that holds its worst cost; its
result is stored in another one, with what it really cost. So of a process that dies it is known
which calls it may have made: those that were claimed and have no result. They become `uncertain`,
count as paid in full, and are not made again unless a person asks for that. What is guaranteed:

- a call with a stored result is never made again;
- a call that nobody claimed was never made;
- spent + reserved never exceeds the limit, as far as a provider counts no more input than we
  estimate (`calling.Prepared.worst_usd`).

One process works on a run at a time: it has the run's fence, which grows with each one that takes
the run. A process that was slow and taken for dead can claim nothing more; results of what it had
claimed are still taken. Rows are locked in one order: the run, then its result.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from celery import current_app
from django.db import transaction
from django.db.models import Count, F, Q, QuerySet, Sum
from django.utils import timezone
from kombu.exceptions import OperationalError

from accounts.access import Actor, System, allowed, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from prompts.catalogue import NotOffered, offer_for
from prompts.evaluation.cases import Case, cases_of, judged_checks
from prompts.models import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSetVersion,
    PromptVersion,
)
from prompts.publishing import NotPossible, Terms, locked
from prompts.rendering import Refused, compiled, declared, stored_form, with_line_feeds
from prompts.serving import Wording, known_now

USUAL_LIMIT_USD = Decimal(5)
MAX_LIMIT_USD = Decimal(1_000)
KEPT_FOR = timedelta(days=30)
"""So long are replies and reasons kept, for those who have to read why a case failed."""

EVALUATION = System("evaluation")
# A run that nobody took is handed over again; a process that was silent is taken for dead.
UNTAKEN_AFTER = timedelta(seconds=45)
SILENT_AFTER = timedelta(seconds=60)
HANDED_OVER_FOR_SECONDS = 55
_TASK = "prompts.tasks.run_evaluation"
_EXACT = Decimal("0.00000001")

State = EvaluationRun.State
Why = EvaluationRun.Why
Result = EvaluationResult.State


class Lost(Exception):
    """The run is not this process' any more: it was cancelled, or another one has taken it."""


class Decided(Exception):
    """The call need not be made: a process that was taken for dead has brought its result."""


# --- beginning and ending ------------------------------------------------------------------------


def may_evaluate(user: Any) -> bool:
    """Whether this person may run evaluations: who writes prompts, and who releases them."""
    return allowed(user, Permission.EDIT_PROMPTS) or allowed(user, Permission.PUBLISH_PROMPTS)


def _require_evaluator(by: Actor) -> None:
    if not may_evaluate(by):
        require(by, Permission.EDIT_PROMPTS)


@transaction.atomic
def begin(  # noqa: PLR0913 - all are named
    version: PromptVersion,
    set_version: EvaluationSetVersion,
    *,
    limit_usd: Decimal = USUAL_LIMIT_USD,
    judge: str = "",
    by: Actor,
    here: bool = False,
) -> EvaluationRun:
    """Store a run of a version, published or not, as it is now, through all cases of a set.

    A worker takes it when this is committed; with `here` it is the caller's to be worked on.
    Raises Denied, and NotPossible for what could not be asked or is being asked already.
    """
    _require_evaluator(by)
    _check_limit(limit_usd)
    template = locked(version.template)  # two clicks must not begin two runs
    stored = PromptVersion.objects.get(pk=version.pk)
    cases = cases_of(set_version.lines)
    _check_askable(Terms.of(stored), cases, judge, by)
    alike = EvaluationRun.objects.filter(
        template=template, content_hash=stored.content_hash, set_version=set_version
    )
    for under_way in alike.filter(state__in=EvaluationRun.OPEN):
        raise NotPossible(
            f"Exactly this is being evaluated already, by run {under_way.pk}: wait for it, or"
            " cancel it."
        )
    run = EvaluationRun.objects.create(
        set_version=set_version,
        template=template,
        version=stored,
        was_draft=stored.is_draft,
        content_hash=stored.content_hash,
        terms=_as_json(Terms.of(stored)),
        judge=judge,
        total=len(cases),
        limit_usd=limit_usd,
        began_by=by if isinstance(by, User) else None,
    )
    EvaluationResult.objects.bulk_create(
        EvaluationResult(run=run, position=position, case_id=case.id)
        for position, case in enumerate(cases)
    )
    record(
        by,
        "evaluation.began",
        template,
        **told(run),
        limit_usd=str(limit_usd),
        judge=judge,
    )
    if not here:
        transaction.on_commit(lambda: hand_over(run))
    return run


def _check_limit(limit_usd: Decimal) -> None:
    if not 0 < limit_usd <= MAX_LIMIT_USD:
        raise NotPossible(f"The limit lies above $0 and at most at ${MAX_LIMIT_USD}.")


def _check_askable(terms: Terms, cases: Sequence[Case], judge: str, by: Actor) -> None:
    """Refuse what no call could be made of, before the first one is paid."""
    try:
        terms.rendered()
    except Refused as refused:
        raise NotPossible(f"The version can't be rendered. {refused}") from refused
    for case in cases:
        try:
            wording_of(_as_json(terms), case)
        except Refused as refused:
            raise NotPossible(
                f"The case {case.id} does not fit this template. {refused} Change the case's"
                " variables, or choose another set."
            ) from refused
    models = [terms.model, judge] if any(map(judged_checks, cases)) else [terms.model]
    for slug in models:
        try:
            offer = offer_for(by, slug)
        except NotOffered as error:
            raise NotPossible(str(error)) from error
        if offer.price is None:
            raise NotPossible(
                f"{offer.label} has no price yet, so nobody can say what the evaluation costs."
                " An administrator has to set it."
            )


def _as_json(terms: Terms) -> dict[str, Any]:
    return {
        "content": with_line_feeds(terms.content),
        "variables": stored_form(terms.variables),
        "model": terms.model,
        "parameters": dict(terms.parameters),
    }


def wording_of(terms: Mapping[str, Any], case: Case) -> Wording:
    """Return what the model is told in a case, for `terms` of a run. Raises Refused."""
    template = compiled(terms["content"], declared(terms["variables"]))
    text = template.render({**known_now(), **case.variables})
    return Wording(text, model=terms["model"], parameters=terms["parameters"])


@transaction.atomic
def cancel(run: EvaluationRun, *, by: Actor) -> EvaluationRun:
    """End a run before it is done; calls that are being made are still counted.

    Raises Denied and NotPossible.
    """
    _require_evaluator(by)
    stored = _locked(run.pk)
    if not stored.is_open:
        raise NotPossible("The evaluation has ended already.")
    stored.state, stored.ended_at = State.CANCELLED, timezone.now()
    stored.save(update_fields=["state", "ended_at"])
    record(by, "evaluation.cancelled", stored.template, **told(stored), numbers=numbers(stored))
    return stored


@transaction.atomic
def resume(
    run: EvaluationRun,
    *,
    by: Actor,
    ask_again: bool = False,
    limit_usd: Decimal | None = None,
    here: bool = False,
) -> EvaluationRun:
    """Let a run go on that was interrupted or cancelled.

    Cases that have no result are asked, those too at which the provider failed. Those of which
    nobody knows whether they were asked are asked with `ask_again` alone: they may be paid twice.
    `limit_usd` is a new limit for the whole. Raises Denied and NotPossible, also for a run whose
    replies are forgotten: a judge would judge nothing in their place.
    """
    _require_evaluator(by)
    stored = _locked(run.pk)
    if stored.state not in {State.INTERRUPTED, State.CANCELLED}:
        raise NotPossible("The evaluation is done, or goes on already.")
    if stored.began_at < timezone.now() - KEPT_FOR:
        raise NotPossible(
            f"The evaluation began more than {KEPT_FOR.days} days ago: its replies are removed, so"
            " there is nothing left to judge. Begin a new one."
        )
    if limit_usd is not None:
        _check_limit(limit_usd)
        stored.limit_usd = limit_usd
    _mark_uncertain(stored)
    again = stored.results.filter(state=Result.UNCERTAIN) if ask_again else stored.results.none()
    asked_again = again.update(state=Result.WAITING, held_usd=0)
    stored.results.filter(state=Result.ERROR).update(state=Result.WAITING, trouble="")
    left = stored.results.exclude(state__in=[Result.PASSED, Result.FAILED])
    if left.exists() and not left.exclude(state=Result.UNCERTAIN).exists():
        raise NotPossible(
            f"Of {left.count()} cases nobody knows whether they were asked and paid. Ask them again"
            " deliberately, or begin a new evaluation."
        )
    _recount(stored)
    stored.state, stored.why, stored.ended_at, stored.beat_at = State.WAITING, "", None, None
    stored.save()
    record(
        by,
        "evaluation.resumed",
        stored.template,
        **told(stored),
        asked_again=asked_again,
        limit_usd=str(stored.limit_usd),
    )
    if not here:
        transaction.on_commit(lambda: hand_over(stored))
    return stored


def told(run: EvaluationRun) -> dict[str, Any]:
    """Return by what the log names a run."""
    return {
        "run": str(run.pk),
        "set": run.set_version.set.slug,
        "set_number": run.set_version.number,
        "version": str(run.version_id),
        "number": run.version.number,
        "content_hash": run.content_hash,
    }


def numbers(run: EvaluationRun) -> dict[str, Any]:
    """Return how a run stands, in figures."""
    counted = ("total", "passed", "failed", "errors", "uncertain", "unparsable")
    score = None if run.score is None else float(round(run.score, 4))
    figures: dict[str, Any] = {name: getattr(run, name) for name in counted}
    return {**figures, "score": score, "spent_usd": str(run.spent_usd)}


def hand_over(run: EvaluationRun) -> None:
    """Ask a worker to take a run; `tend` asks again when the broker is away."""
    try:
        # By name: the task's module imports this one.
        current_app.send_task(_TASK, [str(run.pk)], queue="long", expires=HANDED_OVER_FOR_SECONDS)
    except OperationalError:
        return


def tend(now: datetime) -> None:
    """Hand over runs that nobody took, and those whose process was silent."""
    EvaluationRun.objects.filter(state=State.RUNNING, beat_at__lt=now - SILENT_AFTER).update(
        state=State.WAITING, beat_at=None, fence=F("fence") + 1
    )
    waited = Q(began_at__lt=now - UNTAKEN_AFTER)
    for run in EvaluationRun.objects.filter(waited, state=State.WAITING):
        hand_over(run)


@transaction.atomic
def taken_from_the_dead(run: EvaluationRun) -> EvaluationRun:
    """Return a run that is open, so that this process can take it. Raises NotPossible."""
    stored = _locked(run.pk)
    if stored.state == State.RUNNING:
        if stored.beat_at and stored.beat_at > timezone.now() - SILENT_AFTER:
            raise NotPossible(
                "Another process works on this run. If it died just now, try again in a minute."
            )
        stored.state, stored.beat_at, stored.fence = State.WAITING, None, stored.fence + 1
        stored.save(update_fields=["state", "beat_at", "fence"])
    return stored


def forget_replies(now: datetime) -> int:
    """Remove what models said in runs that are older than KEPT_FOR; return of how many cases.

    Outcomes, scores and figures stay.
    """
    old = EvaluationResult.objects.filter(run__began_at__lt=now - KEPT_FOR)
    with_words = old.exclude(reply="", trouble="").filter(
        run__state__in=[State.FINISHED, State.INTERRUPTED, State.CANCELLED]
    )
    forgotten = 0
    for result in with_words.iterator(chunk_size=200):
        for verdict in filter(None, result.verdicts):
            verdict.pop("reason", None)
        result.reply = result.trouble = ""
        result.save(update_fields=["reply", "trouble", "verdicts"])
        forgotten += 1
    return forgotten


# --- the ledger ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A call that one process may make, once."""

    run_id: uuid.UUID
    result_id: uuid.UUID
    step: int
    attempt: uuid.UUID


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call came to. `state` is that of its case, `changes` are of the case's row."""

    state: EvaluationResult.State
    cost_usd: Decimal
    tokens_in: int
    tokens_out: int
    is_estimated: bool
    changes: Mapping[str, Any] = field(default_factory=dict)


@transaction.atomic
def take(run_id: uuid.UUID) -> EvaluationRun | None:
    """Return a run that waits, for this process to work on; None when it does not wait."""
    run = _locked(run_id)
    if run.state != State.WAITING:
        return None
    run.state, run.beat_at, run.fence = State.RUNNING, timezone.now(), run.fence + 1
    _mark_uncertain(run)
    _recount(run)
    run.save()
    return _runs().get(pk=run_id)


def beat(run_id: uuid.UUID, fence: int) -> None:
    """Say that the process lives. Raises Lost."""
    mine = EvaluationRun.objects.filter(pk=run_id, fence=fence, state=State.RUNNING)
    if not mine.update(beat_at=timezone.now()):
        raise Lost


@transaction.atomic
def claim(claimed: Claim, fence: int, worst_usd: Decimal) -> bool:
    """Hold the worst cost of a call, so that it may be made; False when the limit has no room.

    Safe to repeat with the same attempt. Raises Lost and Decided.
    """
    run = _mine(claimed.run_id, fence)
    result = run.results.select_for_update().get(pk=claimed.result_id)
    if result.attempt == claimed.attempt and result.state == Result.CLAIMED:
        return True
    if result.state != Result.WAITING or result.step != claimed.step:
        raise Decided
    worst = worst_usd.quantize(_EXACT, ROUND_CEILING)
    if run.spent_usd + run.reserved_usd + worst > run.limit_usd:
        return False
    result.state, result.attempt, result.held_usd = Result.CLAIMED, claimed.attempt, worst
    result.claimed_at = timezone.now()
    result.save(update_fields=["state", "attempt", "held_usd", "claimed_at"])
    run.reserved_usd += worst
    run.save(update_fields=["reserved_usd"])
    return True


@transaction.atomic
def settle(claimed: Claim, settled: Settled) -> None:
    """Store what a call came to, whoever has the run by now. Safe to repeat."""
    run = _locked(claimed.run_id)
    result = run.results.select_for_update().get(pk=claimed.result_id)
    if result.attempt != claimed.attempt:  # it was asked again meanwhile: both have to be paid
        result.cost_usd += settled.cost_usd
        run.spent_usd += settled.cost_usd
        result.save(update_fields=["cost_usd"])
        run.save(update_fields=["spent_usd"])
        return
    if result.claimed_at is None:
        return
    _exchange(run, result, settled.cost_usd)
    result.tokens_in += settled.tokens_in
    result.tokens_out += settled.tokens_out
    result.is_estimated = result.is_estimated or settled.is_estimated
    result.state, result.claimed_at = settled.state, None
    if settled.state != Result.WAITING:
        result.ended_at = timezone.now()
    for name, value in settled.changes.items():
        setattr(result, name, value)
    result.save()
    _recount(run)
    run.save()


def _exchange(run: EvaluationRun, result: EvaluationResult, cost_usd: Decimal) -> None:
    """Count what a call cost in place of what was held, or guessed, for it."""
    if result.state == Result.CLAIMED:
        run.reserved_usd -= result.held_usd
    elif result.state == Result.UNCERTAIN:
        run.spent_usd -= result.held_usd
        result.cost_usd -= result.held_usd
    run.spent_usd += cost_usd
    result.cost_usd += cost_usd
    result.held_usd = Decimal(0)


def _mark_uncertain(run: EvaluationRun) -> None:
    """Let what a process claimed that works no more count as paid in full, and stay unasked."""
    claimed = run.results.filter(state=Result.CLAIMED)
    held = claimed.aggregate(usd=Sum("held_usd"))["usd"] or Decimal(0)
    claimed.update(
        state=Result.UNCERTAIN, cost_usd=F("cost_usd") + F("held_usd"), is_estimated=True
    )
    run.reserved_usd -= held
    run.spent_usd += held


def _recount(run: EvaluationRun) -> None:
    unparsable = Q(verdicts__contains=[{"outcome": "unparsable"}])
    counts = run.results.aggregate(
        passed=Count("pk", filter=Q(state=Result.PASSED)),
        failed=Count("pk", filter=Q(state=Result.FAILED)),
        errors=Count("pk", filter=Q(state=Result.ERROR)),
        uncertain=Count("pk", filter=Q(state=Result.UNCERTAIN)),
        unparsable=Count("pk", filter=unparsable),
    )
    for name, count in counts.items():
        setattr(run, name, count)


@transaction.atomic
def let_go(run_id: uuid.UUID, fence: int) -> None:
    """Let another process go on: this one ends. What it still asks will be settled. Raises Lost."""
    run = _mine(run_id, fence)
    run.state, run.beat_at = State.WAITING, None
    run.save(update_fields=["state", "beat_at"])


@transaction.atomic
def interrupt(run_id: uuid.UUID, fence: int, why: EvaluationRun.Why) -> EvaluationRun:
    """End a run that can't go on by itself. Raises Lost."""
    return _ended(_mine(run_id, fence), State.INTERRUPTED, why)


@transaction.atomic
def finish(run_id: uuid.UUID, fence: int) -> EvaluationRun:
    """End a run of which nothing waits any more: with a score, or with what is missing.

    Raises Lost.
    """
    run = _mine(run_id, fence)
    if run.uncertain:
        return _ended(run, State.INTERRUPTED, Why.UNCERTAIN)
    if run.decided < run.total:
        return _ended(run, State.INTERRUPTED, Why.ERRORS)
    return _ended(run, State.FINISHED, None)


def _ended(
    run: EvaluationRun, state: EvaluationRun.State, why: EvaluationRun.Why | None
) -> EvaluationRun:
    run.state, run.why, run.ended_at = state, why or "", timezone.now()
    run.save(update_fields=["state", "why", "ended_at"])
    outcome = "failed" if why else "succeeded"
    record(
        EVALUATION,
        "evaluation.ended",
        run.template,
        outcome=outcome,
        **told(run),
        why=run.why,
        numbers=numbers(run),
    )
    return run


def _runs() -> "QuerySet[EvaluationRun]":
    return EvaluationRun.objects.select_related("set_version__set", "template", "version")


def _locked(run_id: uuid.UUID) -> EvaluationRun:
    """Return the run, locked, without its texts: each call comes here twice."""
    rows = _runs().defer("terms", "set_version__lines", "version__content")
    return rows.select_for_update(of=("self",), no_key=True).get(pk=run_id)


def _mine(run_id: uuid.UUID, fence: int) -> EvaluationRun:
    run = _locked(run_id)
    if run.state != State.RUNNING or run.fence != fence:
        raise Lost
    return run
