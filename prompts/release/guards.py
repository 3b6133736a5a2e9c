"""Watches releases: rolls back a canary that is worse than production, offers steps that are done.

    watch()                                    each LOOK_EVERY, by the worker
    set_bounds(release, Bounds(...), by=...)   before the first person was compared
    standing(release)                          how each metric is, for people

What is compared are the tallies of people (`tallies`), by the tests of `sequential`. A window of a
person is compared once, when it is full or old, and then stays as it is: so a verdict never depends
on how often somebody looked. One ALPHA is split over all metrics, steps and windows: a release
whose bounds are kept is rolled back by mistake with a probability of at most ALPHA, whoever looks,
whenever, for as long as it takes.

The group of the early access was chosen, not drawn: other people have other questions, and nothing
but failures can be told from that. There errors alone are compared, and the probability of a
mistake holds only as far as the group fails as rarely as others do.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Now, Power
from django.utils import timezone

from accounts.access import System, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from chatbot.telemetry import release_rollbacks
from prompts.models import WHOLE, Arm, ArmTally, GuardReading, Release, ReleaseGuard
from prompts.publishing import NotPossible
from prompts.release import rollout
from prompts.release.sequential import (
    CANARY,
    PRODUCTION,
    USUAL_SCORE,
    Comparison,
    Scale,
    Side,
    alpha_of,
    margin_of_ratio,
    ratio_of_scores,
)

logger = structlog.get_logger(__name__)

ALPHA = 0.05
"""How probable it is, at most, that a release which keeps its bounds is rolled back."""

LOOK_EVERY = timedelta(seconds=20)
OLD_AFTER = timedelta(minutes=10)
"""A window that isn't full is compared when its first turn is so old."""

MOST_AT_ONCE = 5_000
GUARDS = System("guards")

Metric = GuardReading.Metric
Kind = ArmTally.Kind


# --- what is measured --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """How a tally becomes a person's value, and how much worse it may be.

    A quantity (`is_ratio`) has a factor as its bound, a rate a difference. `value` is None for
    somebody of whom nothing is known.
    """

    kind: ArmTally.Kind
    bound: str
    value: Callable[[ArmTally], float | None]
    guess: float
    is_ratio: bool = False

    def margin(self, guard: ReleaseGuard) -> float:
        """Return the bound as a difference of scores."""
        bound: float = getattr(guard, self.bound)
        return margin_of_ratio(bound) if self.is_ratio else bound


MEASURES: dict[GuardReading.Metric, Measure] = {
    Metric.ERRORS: Measure(Kind.TURNS, "error_rate", lambda row: row.errors / row.count, 0.05),
    Metric.REFUSALS: Measure(
        Kind.TURNS, "refusal_rate", lambda row: row.refusals / row.count, 0.05
    ),
    Metric.THUMBS_DOWN: Measure(
        Kind.RATINGS, "thumbs_down_rate", lambda row: row.thumbs_down / row.count, 0.2
    ),
    Metric.DURATION: Measure(
        Kind.TURNS,
        "duration_factor",
        lambda row: row.duration_ms / row.completed if row.completed else None,
        USUAL_SCORE,
        is_ratio=True,
    ),
    Metric.COST: Measure(
        Kind.TURNS,
        "cost_factor",
        lambda row: float(row.cost_usd) / row.completed if row.completed else None,
        USUAL_SCORE,
        is_ratio=True,
    ),
}


def metrics_of(release: Release) -> list[GuardReading.Metric]:
    """Return what is compared in the present step."""
    return list(MEASURES) if release.share else [Metric.ERRORS]


# --- bounds ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much worse a canary may be, as `ReleaseGuard` has it."""

    error_rate: float = 0.02
    refusal_rate: float = 0.03
    thumbs_down_rate: float = 0.1
    duration_factor: float = 1.25
    cost_factor: float = 1.25
    advances_itself: bool = False


def bounds_of(release: Release) -> Bounds:
    """Return the bounds that hold. One query."""
    stored = ReleaseGuard.objects.filter(pk=release.pk).first()
    return (
        Bounds(**{name: getattr(stored, name) for name in asdict(Bounds())}) if stored else Bounds()
    )


@transaction.atomic
def set_bounds(release: Release, bounds: Bounds, *, by: User) -> ReleaseGuard:
    """Let other bounds hold for a release of which nobody was compared yet.

    Raises Denied, and NotPossible: once somebody was compared, other bounds would be chosen with a
    look at the result.
    """
    require(by, Permission.PUBLISH_PROMPTS, release.version)
    guard = _locked_guard(release)
    if is_begun(release):
        raise NotPossible(
            "People of this release were compared already: its bounds stay until it ends."
        )
    for name, value in asdict(bounds).items():
        setattr(guard, name, value)
    try:
        guard.full_clean()
    except ValidationError as error:
        raise NotPossible(
            "A rate may be worse by 0 to 0.9, a duration or cost by a factor of 1 to 4."
        ) from error
    guard.save()
    record(by, "release.guarded", release.template, release=str(release.pk), bounds=asdict(bounds))
    return guard


def _locked_guard(release: Release) -> ReleaseGuard:
    ReleaseGuard.objects.bulk_create([ReleaseGuard(release=release)], ignore_conflicts=True)
    return ReleaseGuard.objects.select_for_update().get(pk=release.pk)


# --- readings ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Reading:
    """The comparison of one metric, in one window of the present step."""

    metric: GuardReading.Metric
    window: int
    comparison: Comparison
    scale: Scale
    is_changed: bool = False

    def see(self, row: ArmTally) -> None:
        """Take the window of one person."""
        measure = MEASURES[self.metric]
        value = measure.value(row)
        if value is None:
            return
        self.is_changed = True
        side: Side = PRODUCTION if row.arm == Arm.PRODUCTION else CANARY
        scores = self.scale.scores(side, value) if measure.is_ratio else [(side, min(1.0, value))]
        for of_side, score in scores:
            self.comparison.see(of_side, score)

    def numbers(self, release: Release, guard: ReleaseGuard) -> dict[str, Any]:
        """Return what is known, as figures that say nothing of a single person."""
        comparison, measure = self.comparison, MEASURES[self.metric]
        canary, production = comparison.canary_mean, comparison.production_mean
        known: dict[str, Any] = {
            "metric": self.metric.value,
            "window": self.window,
            "people_canary": comparison.canary_people,
            "people_production": comparison.production_people,
            "bound": getattr(guard, measure.bound),
            "p": _rounded(comparison.p_value),
            "alpha": _rounded(_alpha(release, self.window)),
        }
        if canary is None or production is None:
            return known
        if measure.is_ratio:
            return known | {"factor": round(ratio_of_scores(canary, production), 3)}
        return known | {"canary": round(canary, 4), "production": round(production, 4)}


def _rounded(probability: float) -> float:
    return float(f"{probability:.2e}")


def _alpha(release: Release, window: int) -> float:
    return alpha_of(ALPHA, guards=len(MEASURES), steps=len(release.steps), window=window)


class _Readings:
    """All readings of the present step of a release; those that are missing begin when needed."""

    def __init__(self, release: Release, guard: ReleaseGuard) -> None:
        self._release, self._guard = release, guard
        stored = GuardReading.objects.filter(release=release, step=release.step)
        self._known = {(Metric(row.metric), row.window): _read(row) for row in stored}

    def see(self, rows: Iterable[ArmTally]) -> None:
        """Take windows of people, in the order in which they became final."""
        for row in rows:
            for metric in metrics_of(self._release):
                if MEASURES[metric].kind == row.kind:
                    self._of(metric, row.window).see(row)

    def _of(self, metric: GuardReading.Metric, window: int) -> Reading:
        if (metric, window) not in self._known:
            measure, share = MEASURES[metric], self._release.share
            odds = (WHOLE - share) / share if share else 1.0
            comparison = Comparison(measure.margin(self._guard), odds, measure.guess)
            self._known[metric, window] = Reading(metric, window, comparison, Scale())
        return self._known[metric, window]

    def __iter__(self) -> Iterator[Reading]:
        return iter(sorted(self._known.values(), key=lambda each: (each.metric, each.window)))

    def crossed(self) -> list[Reading]:
        """Return those that say: worse by more than the bound."""
        return [
            each for each in self if each.comparison.is_worse(_alpha(self._release, each.window))
        ]

    def people_seen(self) -> int:
        """Return how many of the canary were looked at for errors, those who wait included."""
        first = self._known.get((Metric.ERRORS, 0))
        if first is None:
            return 0
        return first.comparison.canary_people + len(first.comparison.canary_waiting)

    def numbers(self, readings: Iterable[Reading] | None = None) -> list[dict[str, Any]]:
        return [each.numbers(self._release, self._guard) for each in readings or self]

    def save(self) -> None:
        rows = [self._row(each) for each in self if each.is_changed]
        GuardReading.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["release", "step", "metric", "window"],
            update_fields=["comparison", "scale", "changed_at"],
        )

    def _row(self, reading: Reading) -> GuardReading:
        return GuardReading(
            release=self._release,
            step=self._release.step,
            metric=reading.metric,
            window=reading.window,
            comparison=reading.comparison.as_dict(),
            scale=reading.scale.as_dict(),
        )


def _read(row: GuardReading) -> Reading:
    return Reading(Metric(row.metric), row.window, Comparison(**row.comparison), Scale(**row.scale))


@dataclass(frozen=True, slots=True)
class Line:
    """How a metric stands, in words. `evidence`: how much of what ends a release, in percent."""

    label: str
    bound: str
    canary: str = ""
    production: str = ""
    people: str = ""
    evidence: int = 0


def standing(release: Release) -> list[Line]:
    """Return how each metric stands in the present step: its window with the most evidence.

    Two queries.
    """
    guard = ReleaseGuard.objects.filter(pk=release.pk).first() or ReleaseGuard(release=release)
    readings = list(_Readings(release, guard))
    return [
        _line(metric, [each for each in readings if each.metric == metric], release, guard)
        for metric in metrics_of(release)
    ]


def _line(
    metric: GuardReading.Metric, readings: Sequence[Reading], release: Release, guard: ReleaseGuard
) -> Line:
    measure, label = MEASURES[metric], str(Metric(metric).label)
    bound: float = getattr(guard, measure.bound)
    says = f"{bound:g} times" if measure.is_ratio else f"+{bound * 100:g} in 100"
    if not readings:
        return Line(label, says)
    strongest = max(readings, key=lambda each: _evidence(each, release))
    canary, production = strongest.comparison.canary_mean, strongest.comparison.production_mean
    if canary is None or production is None:
        return Line(label, says, people="waiting")
    ratio = ratio_of_scores(canary, production)
    return Line(
        label,
        says,
        canary=f"{ratio:.2f} times" if measure.is_ratio else _percent(canary),
        production="1" if measure.is_ratio else _percent(production),
        people=f"{strongest.comparison.canary_people:,} and "
        f"{strongest.comparison.production_people:,}",
        evidence=min(100, int(100 * _evidence(strongest, release))),
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f}\N{NO-BREAK SPACE}%"


def _evidence(reading: Reading, release: Release) -> float:
    """Return 1 where the bound is crossed, 0 where nothing speaks for it."""
    return reading.comparison.peak_log / -math.log(_alpha(release, reading.window))


def is_begun(release: Release) -> bool:
    """Say whether somebody was compared, so that bounds stay. One query."""
    return GuardReading.objects.filter(release=release).exists()


# --- watching ----------------------------------------------------------------------------------


def watch() -> None:
    """Look at every release that is under way once. One that can't be looked at holds no other."""
    releases = Release.objects.filter(state__in=Release.UNDER_WAY)
    for release in releases.select_related("template", "version"):
        try:
            _watch(release)
        except Exception:
            logger.exception("release_not_watched", release=str(release.pk))
    _forget_people()


@transaction.atomic
def _watch(release: Release) -> None:
    """Compare whom there is to compare, and decide; nothing while another worker does so."""
    if not _alone(release):
        return
    guard = _locked_guard(release)
    rows = list(_final(release)[:MOST_AT_ONCE])
    readings = _Readings(release, guard)
    readings.see(rows)
    readings.save()
    ArmTally.objects.filter(pk__in=[row.pk for row in rows]).update(compared_at=Now())
    guard.looked_at = timezone.now()
    guard.save(update_fields=["looked_at"])
    if crossed := readings.crossed():
        _roll_back(release, readings, crossed)
    elif release.state != Release.State.PAUSED and len(rows) < MOST_AT_ONCE:
        _tend_step(release, guard, readings)


def _alone(release: Release) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"guard {release.pk}"]
        )
        (alone,) = cursor.fetchone()
    return bool(alone)


def _final(release: Release) -> QuerySet[ArmTally]:
    """Return windows that are full or old, locked, as they became final."""
    size = Case(When(window=0, then=Value(1.0)), default=4.0 * Power(5.0, F("window") - 1))
    waiting = ArmTally.objects.filter(release=release, step=release.step, compared_at=None)
    return (
        waiting.annotate(size=size)
        .filter(Q(count__gte=F("size")) | Q(began_at__lt=Now() - OLD_AFTER))
        .order_by("changed_at", "pk")
        .select_for_update(skip_locked=True, of=("self",), no_key=True)
    )


def _roll_back(release: Release, readings: _Readings, crossed: Sequence[Reading]) -> None:
    worst = min(crossed, key=lambda each: each.comparison.p_value)
    try:
        rollout.roll_back(
            release,
            by=GUARDS,
            note=_verdict(worst),
            numbers={"crossed": readings.numbers(crossed), "alpha": ALPHA},
        )
    except NotPossible:
        logger.info("release_ended_meanwhile", release=str(release.pk))
        return
    release_rollbacks.labels(release.template.slug, worst.metric.value).inc()
    logger.warning("release_rolled_back", release=str(release.pk), metric=worst.metric.value)


def _verdict(reading: Reading) -> str:
    """Say in a sentence what was found."""
    comparison = reading.comparison
    canary, production = comparison.canary_mean or 0.0, comparison.production_mean or 0.0
    people = f"{comparison.canary_people:,} and {comparison.production_people:,} people compared"
    label = Metric(reading.metric).label
    if MEASURES[reading.metric].is_ratio:
        found = f"{ratio_of_scores(canary, production):.2f} times that of production"
    else:
        found = f"{_percent(canary)} against {_percent(production)} in production"
    return f"Worse than its bound: {label}, {found}; {people}."


def _tend_step(release: Release, guard: ReleaseGuard, readings: _Readings) -> None:
    """Offer the next step when this one is done, or take it; each step is offered once."""
    progress = rollout.progress_of(release)
    if progress.lacking or readings.people_seen() < progress.step.people:
        return
    numbers = {**progress.numbers, "compared": readings.numbers()}
    if guard.advances_itself and not progress.is_last:
        _take_step(release, numbers)
    elif guard.offered_step != release.step:
        guard.offered_step = release.step
        guard.save(update_fields=["offered_step"])
        record(
            GUARDS,
            "release.step_offered",
            release.template,
            release=str(release.pk),
            step=release.step,
            numbers=numbers,
        )


def _take_step(release: Release, numbers: dict[str, Any]) -> None:
    note = "The step has its sample and its time, and no bound is crossed."
    try:
        rollout.advance(release, by=GUARDS, note=note, numbers=numbers)
    except NotPossible:
        logger.info("release_decided_meanwhile", release=str(release.pk))


def _forget_people() -> None:
    """Remove who took part in what is over: the numbers stay in the readings."""
    over = ~Q(release__state__in=Release.UNDER_WAY) | Q(step__lt=F("release__step"))
    ArmTally.objects.filter(over).delete()
