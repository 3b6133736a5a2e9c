"""A release's canary beside production: figures with intervals, from the replies themselves.

    found = compared(release)
    found.lines        each figure of both arms, and their difference
    found.early        figures of the early access: chosen, not drawn, so compared with nothing

The person is the unit (`intervals`). Replies that were deleted can't be told apart by person any
more. While they are few, the rest stands for all; else sums stay (`rollups`), without intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, F, Q, Sum

from prompts.figures.intervals import Interval, Person, difference, mean, quantile, rate
from prompts.figures.reports import METRICS, MINUS, Better, Metric, Sums, percent, sums
from prompts.models import Arm, Release

MOST_REPLIES = 100_000
"""The newest so many are looked at."""

LEAST_LEFT = 0.9
"""This part of an arm's replies must be there still for intervals."""


class _Turns(NamedTuple):
    """What the turns of one person in one arm came to."""

    arm: str
    turns: int
    errors: int
    fallbacks: int
    refusals: int
    first_tokens: list[int]
    durations: list[int]
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: Any
    thumbs_up: int
    ratings: int


_People = Sequence[_Turns]
_Estimate = Callable[[_People], Interval | None]


def _rate(name: str, whole: str = "turns") -> _Estimate:
    return lambda people: rate([Person(getattr(one, whole), getattr(one, name)) for one in people])


def _mean(name: str) -> _Estimate:
    return lambda people: mean(
        [Person(one.turns, float(getattr(one, name) or 0)) for one in people]
    )


def _quantile(name: str, share: float) -> _Estimate:
    return lambda people: quantile([getattr(one, name) for one in people], share)


_ESTIMATES: dict[str, _Estimate | None] = {
    "errors": _rate("errors"),
    "fallbacks": _rate("fallbacks"),
    "refusals": _rate("refusals"),
    "first-token": _quantile("first_tokens", 0.5),
    "first-token-p95": _quantile("first_tokens", 0.95),
    "duration": _quantile("durations", 0.5),
    "duration-p95": _quantile("durations", 0.95),
    "tokens-in": _mean("tokens_in"),
    "tokens-out": _mean("tokens_out"),
    "cost": _mean("cost_usd"),
    "thumbs-up": _rate("thumbs_up", "ratings"),
    "satisfaction": None,
    "policy-hits": None,
    "personal-data": None,
}
"""What is shown, and how sure it is; None where only sums are known."""


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of both arms in words. `verdict` is empty where chance alone could explain it.

    There is no difference where nothing of the kind happened in either arm.
    """

    label: str
    canary: str
    production: str
    canary_range: str = ""
    production_range: str = ""
    difference: str = ""
    difference_range: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """Canary and production of a release. `turns` and `people` are by arm.

    `deleted`: so many replies are gone. `is_gone`: too many, so there are no intervals. `is_cut`:
    only the newest replies are in the intervals.
    """

    lines: list[Line]
    early: list[tuple[str, str]]
    turns: dict[str, int]
    people: dict[str, int] = field(default_factory=dict)
    deleted: int = 0
    is_gone: bool = False
    is_cut: bool = False


def compared(release: Release) -> ArmComparison:
    """Return how the arms of a release stand. Two queries."""
    counted = {arm: found for (arm,), found in sums(by=["arm"], release=release).items()}
    people = _people(release)
    by_arm = {arm: [one for one in people if one.arm == arm] for arm in Arm.values}
    turns = {arm: int(found.of("turns")) for arm, found in counted.items()}
    left = {arm: sum(one.turns for one in found) for arm, found in by_arm.items()}
    is_cut = sum(left.values()) >= MOST_REPLIES
    is_gone = not is_cut and any(left[arm] < LEAST_LEFT * turns[arm] for arm in turns)
    canary, production = by_arm[Arm.CANARY], by_arm[Arm.PRODUCTION]
    early = counted.get(Arm.EARLY)
    return ArmComparison(
        lines=[
            _line(
                METRICS[name],
                (counted.get(Arm.CANARY), counted.get(Arm.PRODUCTION)),
                (estimate(canary), estimate(production))
                if estimate and not is_gone
                else (None, None),
            )
            for name, estimate in _ESTIMATES.items()
        ],
        early=[(METRICS[name].label, METRICS[name].shown(early)) for name in _ESTIMATES]
        if early
        else [],
        turns=turns,
        people={} if is_gone else {arm: len(found) for arm, found in by_arm.items()},
        deleted=0 if is_cut else sum(max(0, turns[arm] - left[arm]) for arm in turns),
        is_gone=is_gone,
        is_cut=is_cut,
    )


def _people(release: Release) -> list[_Turns]:
    """Return what each person's turns came to, by arm. One query."""
    ended = release.replies.exclude(state="streaming").order_by("-created_at")
    replies = release.replies.filter(pk__in=ended.values("pk")[:MOST_REPLIES])
    grouped = replies.order_by().values("arm", person=F("conversation__owner"))
    rows = grouped.annotate(
        turns=Count("pk"),
        errors=Count("pk", filter=Q(state__in=["failed", "interrupted"])),
        fallbacks=Count("pk", filter=Q(is_fallback=True)),
        refusals=Count("pk", filter=Q(state="refused")),
        first_tokens=ArrayAgg("first_token_ms", filter=Q(first_token_ms__isnull=False), default=[]),
        durations=ArrayAgg("duration_ms", filter=Q(state="completed"), default=[]),
        sum_in=Sum("tokens_in"),
        sum_out=Sum("tokens_out"),
        sum_usd=Sum("cost_usd"),
        thumbs_up=Count("pk", filter=Q(feedback__rating="up")),
        ratings=Count("pk", filter=Q(feedback__rating__in=["up", "down"])),
    )
    renamed = {"tokens_in": "sum_in", "tokens_out": "sum_out", "cost_usd": "sum_usd"}
    columns = [renamed.get(name, name) for name in _Turns._fields]
    return [_Turns(*row) for row in rows.values_list(*columns)]


# --- in words ----------------------------------------------------------------------------------

_Two = tuple[Interval | None, Interval | None]


def _line(metric: Metric, counted: tuple[Sums | None, Sums | None], found: _Two) -> Line:
    canary, production = found
    told = {
        "canary": metric.words(canary.value) if canary else metric.shown(counted[0]),
        "production": metric.words(production.value) if production else metric.shown(counted[1]),
        "canary_range": _range(canary, metric.words),
        "production_range": _range(production, metric.words),
    }
    if canary is None or production is None or canary.value == production.value == 0:
        return Line(metric.label, **told)
    apart = difference(canary, production)
    words = _signed(_points if metric.words is percent else metric.words)
    return Line(
        metric.label,
        **told,
        difference=words(apart.value),
        difference_range=_range(apart, words),
        verdict=_verdict(apart, metric.better),
    )


def _range(found: Interval | None, words: Callable[[float], str]) -> str:
    return f"{words(found.low)} to {words(found.high)}" if found else ""


def _points(share: float) -> str:
    return f"{share * 100:.1f}"


def _signed(words: Callable[[float], str]) -> Callable[[float], str]:
    def signed(amount: float) -> str:
        shown = words(abs(amount))
        is_zero = not any(digit in "123456789" for digit in shown)
        return shown if is_zero else f"{MINUS if amount < 0 else '+'}{shown}"

    return signed


def _verdict(apart: Interval, better: Better) -> str:
    """Say what is beyond chance."""
    if not apart.leaves_zero_out:
        return ""
    direction = Better.LESS if apart.high < 0 else Better.MORE
    if better == Better.NEITHER:
        return direction.value
    return "better" if direction == better else "worse"
