"""Figures as people read them: summed up by version, arm, day or template, and put into words.

    sums(by=("version_id", "day"), version__template=template, day__gte=first)
    METRICS["errors"].words(METRICS["errors"].value(found))

One query each, whatever there is. What the numbers count says `prompts.figures.rollups`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from django.contrib.postgres.aggregates import JSONBAgg
from django.db.models import Sum

from prompts.figures.rollups import HISTOGRAMS, SUMS, quantile
from prompts.models import VersionFigures

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
UNKNOWN = "–"


@dataclass(slots=True)
class Sums:
    """Figures that were added up: numbers by name, and turns by bucket of time."""

    numbers: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    histograms: dict[str, Counter[int]] = field(
        default_factory=lambda: {name: Counter() for name in HISTOGRAMS}
    )

    def of(self, name: str) -> float:
        """Return a sum; never less than nothing, which a part that was taken back could be."""
        return max(0, self.numbers[name])

    def per(self, name: str, *others: str) -> float | None:
        """Return one sum in terms of others together; None where these are nothing."""
        whole = sum(self.of(each) for each in others)
        return self.of(name) / whole if whole else None

    def quantile(self, name: str, share: float) -> float | None:
        """Return the milliseconds below which this share lies."""
        return quantile(self.histograms[name], share)

    def add(self, other: "Sums") -> None:
        """Take the others in as well."""
        for name, number in other.numbers.items():
            self.numbers[name] += number
        for name, histogram in other.histograms.items():
            self.histograms[name].update(histogram)


def sums(
    *, by: Sequence[str], histograms: Sequence[str] = HISTOGRAMS, **which: Any
) -> dict[tuple[Any, ...], Sums]:
    """Return the figures of the rows that `which` filters, by these columns. One query.

    Histograms are most of what is read: a page of many templates names those that it shows.
    """
    rows = VersionFigures.objects.filter(**which).order_by().values_list(*by)
    added = rows.annotate(
        **{f"sum_{name}": Sum(name) for name in SUMS},
        **{f"all_{name}": JSONBAgg(name) for name in histograms},
    )
    return {row[: len(by)]: _sums(row[len(by) :], histograms) for row in added}


def _sums(row: Sequence[Any], histograms: Sequence[str]) -> Sums:
    found = Sums(dict(zip(SUMS, map(float, row), strict=False)))
    for name, parts in zip(histograms, row[len(SUMS) :], strict=True):
        found.histograms[name].update(_added(parts))
    return found


def _added(parts: Iterable[Mapping[str, int]]) -> dict[int, int]:
    """Return histograms added up. There can be a million buckets, so each is touched once."""
    whole: dict[str, int] = {}
    for part in parts:
        for bucket, number in part.items():
            whole[bucket] = whole.get(bucket, 0) + number
    return {int(bucket): number for bucket, number in whole.items()}


def first_day(days: int) -> date:
    """Return the first of the last `days`, today among them, by UTC."""
    return datetime.now(UTC).date() - timedelta(days=days - 1)


def together(found: Mapping[Any, Sums]) -> Sums:
    """Return all of them added up."""
    whole = Sums()
    for each in found.values():
        whole.add(each)
    return whole


# --- in words ----------------------------------------------------------------------------------


def percent(share: float) -> str:
    """Return a share as `1.2 %`."""
    return f"{share * 100:.1f}{NO_BREAK_SPACE}%"


def milliseconds(amount: float) -> str:
    """Return a time as `420 ms` or `3.2 s`."""
    if abs(amount) < 1000:
        return f"{amount:.0f}{NO_BREAK_SPACE}ms"
    return f"{amount / 1000:.1f}{NO_BREAK_SPACE}s"


def dollars(amount: float) -> str:
    """Return an amount as `$12.30`, `$0.0041`."""
    if not amount:
        return "$0.00"
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    if size < 0.0001:
        return f"{sign}${size:.6f}"
    return f"{sign}${size:.2f}" if size >= 1 else f"{sign}${size:.4f}"


def count(number: float) -> str:
    """Return a whole number in groups of three."""
    return f"{number:,.0f}".replace(",", THIN_SPACE)


def decimal(number: float) -> str:
    """Return a number with two places, whole tokens without."""
    return f"{number:.2f}" if abs(number) < 100 else count(number)


class Better(StrEnum):
    """In which direction a figure is better, if in any."""

    LESS = "less"
    MORE = "more"
    NEITHER = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure: its name, how it follows from sums, and how people read it."""

    label: str
    value: Callable[[Sums], float | None]
    words: Callable[[float], str]
    better: Better = Better.NEITHER

    def shown(self, found: Sums | None) -> str:
        """Return it in words, or a dash where nothing is known."""
        value = self.value(found) if found else None
        return UNKNOWN if value is None else self.words(value)


def _per(name: str, *others: str) -> Callable[[Sums], float | None]:
    return lambda found: found.per(name, *others)


def _quantile(name: str, share: float) -> Callable[[Sums], float | None]:
    return lambda found: found.quantile(name, share)


_time = partial(Metric, words=milliseconds, better=Better.LESS)
METRICS: dict[str, Metric] = {
    "turns": Metric("Turns", lambda found: found.of("turns"), count),
    "errors": Metric("Errors", _per("errors", "turns"), percent, Better.LESS),
    "missed": Metric("Could not serve", _per("missed", "turns", "missed"), percent, Better.LESS),
    "fallbacks": Metric(
        "Answered by another version", _per("fallbacks", "turns"), percent, Better.LESS
    ),
    "refusals": Metric("Refused", _per("refusals", "turns"), percent, Better.LESS),
    "first-token": _time("First token, p50", _quantile("first_token", 0.5)),
    "first-token-p95": _time("First token, p95", _quantile("first_token", 0.95)),
    "duration": _time("To the end, p50", _quantile("duration", 0.5)),
    "duration-p95": _time("To the end, p95", _quantile("duration", 0.95)),
    "tokens-in": Metric("Tokens in", _per("tokens_in", "turns"), count),
    "tokens-out": Metric("Tokens out", _per("tokens_out", "turns"), count),
    "cost": Metric("Cost", _per("cost_usd", "turns"), dollars, Better.LESS),
    "thumbs-up": Metric(
        "Thumbs up", _per("thumbs_up", "thumbs_up", "thumbs_down"), percent, Better.MORE
    ),
    "satisfaction": Metric(
        "Satisfaction, 1 to 5", _per("satisfaction_sum", "satisfaction_count"), decimal, Better.MORE
    ),
    "policy-hits": Metric("Policy hits", _per("policy_hits", "turns"), decimal),
    "personal-data": Metric("Personal data hidden", _per("personal_data_hits", "turns"), decimal),
}
