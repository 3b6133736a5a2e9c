"""What was purged each day, drawn as SVG: one file for each theme and width.

Filled bars are what was purged, striped ones what a hold kept on that day, the outlined one what is
due now. The same figures stand beside it in words (`finding`) and as a table on the page.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from conversations.models import PurgeRun
from conversations.retention.purge import cutoffs, due_of

DAYS = 30
_NARROW_DAYS = 15
_STEPS = 3
_THIN_SPACE = "\u202f"


@dataclass(frozen=True, slots=True)
class Bar:
    """Messages of one UTC day; `due` on the last day alone."""

    day: date
    purged: int
    held: int
    due: int

    @property
    def height(self) -> int:
        return self.purged + self.held + self.due


@dataclass(frozen=True, slots=True)
class _Ink:
    text: str
    base: str
    grid: str
    purged: str
    held: str


# The colours of static/css/tokens.css; an image knows no variables of the page.
_INKS = {
    "light": _Ink("#5f6662", "#2b332f", "#dcddd8", "#39735a", "#8a5a12"),
    "dark": _Ink("#a4a79f", "#e6e4dd", "#3a403d", "#5a9a7c", "#e2bd74"),
}
THEMES = tuple(_INKS)


def bars(now: datetime) -> list[Bar]:
    """Return the last DAYS days, oldest first."""
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=DAYS - 1)
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC)
    purged: dict[date, int] = {}
    held: dict[date, int] = {}
    runs = PurgeRun.objects.filter(state=PurgeRun.State.FINISHED, finished_at__gte=begin)
    for run in runs.only("finished_at", "counts", "held"):
        assert run.finished_at is not None, "it was asked for"
        day = run.finished_at.astimezone(UTC).date()
        purged[day] = purged.get(day, 0) + run.counts["messages"]
        held[day] = max(held.get(day, 0), run.held)
    due = sum(due_of(each).count() for each in cutoffs(now))
    days = [first + timedelta(days=number) for number in range(DAYS)]
    return [
        Bar(day, purged.get(day, 0), held.get(day, 0), due if day == today else 0) for day in days
    ]


def finding(shown: Sequence[Bar]) -> str:
    """Return what the plot shows, for those who don't see it."""
    most = max(shown, key=lambda bar: bar.purged)
    held = max(bar.held for bar in shown)
    told = [f"{sum(bar.purged for bar in shown):,} messages purged"]
    if most.purged:
        told.append(f"most on {_named(most.day)} with {most.purged:,}")
    told.append(f"at most {held:,} kept by a hold" if held else "none kept by a hold")
    told.append(f"{shown[-1].due:,} due now")
    return f"Bars per day from {_named(shown[0].day)} to {_named(shown[-1].day)}: " + "; ".join(
        told
    )


def _named(day: date) -> str:
    return f"{day.day} {day:%B}"


def drawn(shown: Sequence[Bar], theme: str, *, narrow: bool) -> str:
    """Return the plot as SVG; a narrow one shows the last days only."""
    if narrow:
        plot = _Plot(shown[-_NARROW_DAYS:], _INKS[theme], width=420, height=260)
    else:
        plot = _Plot(shown, _INKS[theme], width=900, height=250)
    return "".join(plot.pieces())


class _Plot:
    """Places in pixels, from the upper left."""

    LEFT, TOP, BELOW = 44, 14, 28

    def __init__(self, shown: Sequence[Bar], ink: _Ink, *, width: int, height: int) -> None:
        self._bars, self._ink, self._width, self._height = shown, ink, width, height
        self._base = height - self.BELOW
        self._top = _round_up(max(bar.height for bar in shown))
        self._step = (width - self.LEFT) / len(shown)

    def pieces(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}"'
            f' width="{self._width}" height="{self._height}" font-size="12" font-family='
            '"-apple-system, Segoe UI, Cantarell, Ubuntu, Roboto, Noto Sans, sans-serif">'
            '<defs><pattern id="h" width="5" height="5" patternUnits="userSpaceOnUse"'
            f' patternTransform="rotate(45)"><path d="M0 0V5" stroke="{self._ink.held}"'
            ' stroke-width="3.2"/></pattern></defs>'
        )
        for number in range(_STEPS + 1):
            yield self._line(self._top * number // _STEPS)
        for at, bar in enumerate(self._bars):
            yield from self._bar(at, bar)
        yield "</svg>"

    def _line(self, value: int) -> str:
        y = self._y(value)
        stroke = self._ink.grid if value else self._ink.base
        label = f"{value:,}".replace(",", _THIN_SPACE)
        return (
            f'<path d="M{self.LEFT} {y:.1f}H{self._width}" stroke="{stroke}"/>'
            f'<text x="{self.LEFT - 8}" y="{y + 4:.1f}" text-anchor="end"'
            f' fill="{self._ink.text}">{label}</text>'
        )

    def _bar(self, at: int, bar: Bar) -> Iterator[str]:
        x, width = self.LEFT + self._step * at + self._step * 0.18, self._step * 0.64
        fills = (
            (bar.purged, f'fill="{self._ink.purged}"'),
            (bar.held, f'fill="url(#h)" stroke="{self._ink.held}"'),
            (bar.due, f'fill="none" stroke="{self._ink.base}" stroke-width="1.5"'),
        )
        below = 0
        for value, fill in fills:
            if value:
                y, bottom = self._y(below + value), self._y(below)
                yield (
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
                    f' height="{max(1.0, bottom - y - (2 if below else 0)):.1f}" {fill}/>'
                )
            below += value
        if label := self._label(at, bar.day):
            yield (
                f'<text x="{x + width / 2:.1f}" y="{self._height - 9}" text-anchor="middle"'
                f' fill="{self._ink.text}">{label}</text>'
            )

    def _label(self, at: int, day: date) -> str:
        if at == 0 or day.day == 1:
            # The first of a month next to it would be written over.
            return "" if at == 0 and (day + timedelta(days=1)).day == 1 else f"{day.day} {day:%b}"
        return str(day.day) if day.weekday() == 0 and day.day > 2 and at > 1 else ""

    def _y(self, value: float) -> float:
        return self._base - (self._base - self.TOP) * value / self._top


def _round_up(value: int) -> int:
    """Return the next number that divides into the steps of the axis and reads well."""
    least = max(value, _STEPS)
    unit: int = 10 ** int(math.log10(least / _STEPS))
    for factor in (1, 2, 5, 10):
        if least <= unit * factor * _STEPS:
            return unit * factor * _STEPS
    return unit * 10 * _STEPS
