"""A figure by day, drawn as SVG: one file for each theme and width.

Solid is the version in question, dashed the one beside it; the newest day is at the right. A day
without turns leaves a gap. The same figures stand beside it in words (`finding`) and as a table.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

Value = float | None


@dataclass(frozen=True, slots=True)
class Series:
    """The figures of a version, one for each day."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class _Ink:
    text: str
    base: str
    grid: str
    line: str


# The colours of static/css/tokens.css; an image knows no variables of the page.
_INKS = {
    "light": _Ink("#5f6662", "#2b332f", "#dcddd8", "#1f5a41"),
    "dark": _Ink("#a4a79f", "#e6e4dd", "#3a403d", "#7fc4a2"),
}
THEMES = tuple(_INKS)
WIDTHS = {"wide": 900, "narrow": 420}
HEIGHT = 180
_STEPS = 2


def finding(
    label: str, days: Sequence[date], series: Sequence[Series], words: Callable[[float], str]
) -> str:
    """Return what the plot shows, for those who don't see it."""
    told = [_told(each, days, words) for each in series]
    return f"{label} by day, {_named(days[0])} to {_named(days[-1])}: {'; '.join(told)}"


def _told(series: Series, days: Sequence[date], words: Callable[[float], str]) -> str:
    known = [
        (value, day) for value, day in zip(series.values, days, strict=True) if value is not None
    ]
    if not known:
        return f"{series.name} has none"
    (lowest, _), (highest, at) = min(known), max(known)
    last, latest = known[-1]
    if lowest == highest:
        return f"{series.name} {words(last)} on each day with turns"
    return (
        f"{series.name} from {words(lowest)} to {words(highest)}, the most on {_named(at)},"
        f" {words(last)} on {_named(latest)}"
    )


def _named(day: date) -> str:
    return f"{day.day} {day:%b}"


def drawn(
    days: Sequence[date],
    series: Sequence[Series],
    words: Callable[[float], str],
    *,
    theme: str,
    width: str,
) -> str:
    """Return the plot as SVG: the first of the series solid, the second dashed."""
    return "".join(_Plot(days, series, words, _INKS[theme], WIDTHS[width]).pieces())


class _Plot:
    """Places in pixels, from the upper left."""

    LEFT, RIGHT, TOP, BELOW = 64, 12, 12, 26

    def __init__(
        self,
        days: Sequence[date],
        series: Sequence[Series],
        words: Callable[[float], str],
        ink: _Ink,
        width: int,
    ) -> None:
        self._days, self._series, self._words = days, series, words
        self._ink, self._width = ink, width
        known = [value for each in series for value in each.values if value is not None]
        self._top = _round_up(max(known, default=0.0))
        self._step = (width - self.LEFT - self.RIGHT) / max(1, len(days) - 1)

    def pieces(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {HEIGHT}"'
            f' width="{self._width}" height="{HEIGHT}" font-size="12" font-family='
            '"-apple-system, Segoe UI, Cantarell, Ubuntu, Roboto, Noto Sans, sans-serif">'
        )
        for number in range(_STEPS + 1):
            yield self._line(self._top * number / _STEPS)
        for at, day in enumerate(self._days):
            yield self._label(at, day)
        dashed, solid = (
            f'stroke="{self._ink.text}" stroke-width="1.5" stroke-dasharray="4 3"',
            f'stroke="{self._ink.line}" stroke-width="2"',
        )
        for each, look in reversed(list(zip(self._series, (solid, dashed), strict=False))):
            yield from self._drawn(each, look, is_solid=look == solid)
        yield "</svg>"

    def _line(self, value: float) -> str:
        y = self._y(value)
        stroke = self._ink.grid if value else self._ink.base
        return (
            f'<path d="M{self.LEFT} {y:.1f}H{self._width}" stroke="{stroke}"/>'
            f'<text x="{self.LEFT - 8}" y="{y + 4:.1f}" text-anchor="end"'
            f' fill="{self._ink.text}">{self._words(value)}</text>'
        )

    def _label(self, at: int, day: date) -> str:
        every = math.ceil(len(self._days) * 56 / (self._width - self.LEFT))
        if (len(self._days) - 1 - at) % every:
            return ""
        anchor = "end" if at == len(self._days) - 1 else "middle"
        return (
            f'<text x="{self._x(at) + (8 if anchor == "end" else 0):.1f}" y="{HEIGHT - 8}"'
            f' text-anchor="{anchor}" fill="{self._ink.text}">{_named(day)}</text>'
        )

    def _drawn(self, series: Series, look: str, *, is_solid: bool) -> Iterator[str]:
        fill = self._ink.line if is_solid else self._ink.text
        for run in _runs(series.values):
            points = " ".join(f"{self._x(at):.1f},{self._y(value):.1f}" for at, value in run)
            if len(run) > 1:
                yield f'<polyline points="{points}" fill="none" stroke-linejoin="round" {look}/>'
            at, value = run[-1]
            if is_solid or len(run) == 1:
                yield (
                    f'<circle cx="{self._x(at):.1f}" cy="{self._y(value):.1f}"'
                    f' r="{3.5 if is_solid else 2.5}" fill="{fill}"/>'
                )

    def _x(self, at: int) -> float:
        return self.LEFT + self._step * at

    def _y(self, value: float) -> float:
        base = HEIGHT - self.BELOW
        return base - (base - self.TOP) * value / self._top


def _runs(values: Sequence[Value]) -> list[list[tuple[int, float]]]:
    """Return what follows each other without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def _round_up(value: float) -> float:
    """Return the next number that divides into the steps of the axis and reads well."""
    if value < 1e-9:  # nothing that could be seen
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value / _STEPS))
    return next(
        unit * factor * _STEPS
        for factor in (1, 2, 5, 10)
        if value <= unit * factor * _STEPS * 1.000001
    )
