"""How often guards stop a release that is no worse, and which regression they find: a simulation.

    python -m benchmarks.sequential              1,000 releases for each line, some minutes
    python -m benchmarks.sequential --runs 100   a quicker look

Each release is 200 people in one step of five. How much they use it differs widely: the busiest
tenth makes about half of all turns. Whether a turn fails or is refused, how a reply is rated, how
long it takes and what it costs, all differ between people as well as between turns, so turns of
one person are alike. After every window of every person all guards look. Seeds are fixed.
"""

import argparse
import math
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.report import Table
from prompts.sequential import (
    CANARY,
    PRODUCTION,
    USUAL_SCORE,
    Comparison,
    Scale,
    Side,
    alpha_of,
    margin_of_ratio,
    window_size,
)

ALPHA = 0.05
PEOPLE = 200
STEPS = 5
MOST_TURNS = 400
SHARES = (0.05, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Guard:
    """A metric as `prompts.guards` compares it, with the bound by default.

    `steps` are the regressions that are tried: differences of a rate, factors of a quantity.
    """

    margin: float
    guess: float
    regressions: tuple[float, ...]
    is_ratio: bool = False


_DIFFERENCES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
_FACTORS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)

GUARDS: Mapping[str, Guard] = {
    "errors": Guard(0.02, 0.05, _DIFFERENCES),
    "refusals": Guard(0.03, 0.05, _DIFFERENCES),
    "thumbs_down": Guard(0.1, 0.2, _DIFFERENCES),
    "duration": Guard(margin_of_ratio(1.25), USUAL_SCORE, _FACTORS, is_ratio=True),
    "cost": Guard(margin_of_ratio(1.25), USUAL_SCORE, _FACTORS, is_ratio=True),
}
BOUNDS = {"errors": 0.02, "refusals": 0.03, "thumbs_down": 0.1, "duration": 1.25, "cost": 1.25}
"""A canary that is as bad as its bounds allow, in everything at once."""


# --- people ------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A window of a person that became final, at a time between 0 and about 3."""

    at: float
    metric: str
    window: int
    arm: Side
    value: float


def release(seed: int, share: float, worse: Mapping[str, float]) -> list[Seen]:
    """Return what guards see of a release, in order; the canary is `worse` by so much."""
    rng = random.Random(seed)
    seen: list[Seen] = []
    for _ in range(PEOPLE):
        if rng.random() < share:
            seen += _Person(rng, CANARY, worse).windows()
        else:
            seen += _Person(rng, PRODUCTION, {}).windows()
    seen.sort()
    return seen


class _Person:
    """Somebody with habits of their own."""

    def __init__(self, rng: random.Random, arm: Side, worse: Mapping[str, float]) -> None:
        self._rng, self._arm = rng, arm
        self._turns = min(MOST_TURNS, max(1, int(rng.lognormvariate(1.8, 1.3))))
        # Mean 3 %, 5 %, 20 %: most people hardly ever, some often.
        self._fails = rng.betavariate(0.15, 4.85) + worse.get("errors", 0)
        self._refused = rng.betavariate(0.3, 5.7) + worse.get("refusals", 0)
        self._dislikes = rng.betavariate(0.5, 2.0) + worse.get("thumbs_down", 0)
        self._rates = rng.betavariate(0.3, 1.5)
        self._seconds = rng.lognormvariate(1.0, 0.4) * worse.get("duration", 1)
        self._usd = rng.lognormvariate(-5.0, 0.7) * worse.get("cost", 1)
        self._began = rng.random()

    def windows(self) -> Iterator[Seen]:
        """Yield what each window of turns comes to, and each of ratings."""
        left, number, ratings = self._turns, 0, 0
        while left > 0:
            turns = min(left, window_size(number))
            at = self._began + 0.5 * (number + self._rng.random())
            yield from self._window(at, number, turns)
            ratings += self._times(turns, self._rates)
            left, number = left - turns, number + 1
        for number, count in _filled(ratings):
            at = self._began + 0.5 * (number + 1)
            down = self._times(count, self._dislikes) / count
            yield Seen(at, "thumbs_down", number, self._arm, down)

    def _window(self, at: float, number: int, turns: int) -> Iterator[Seen]:
        failed = self._times(turns, self._fails)
        yield Seen(at, "errors", number, self._arm, failed / turns)
        refused = self._times(turns - failed, self._refused)
        yield Seen(at, "refusals", number, self._arm, refused / turns)
        if completed := turns - failed - refused:
            spread = 1 / math.sqrt(completed)
            seconds = self._seconds * self._rng.lognormvariate(0, 0.5 * spread)
            yield Seen(at, "duration", number, self._arm, seconds)
            usd = self._usd * self._rng.lognormvariate(0, 0.7 * spread)
            yield Seen(at, "cost", number, self._arm, usd)

    def _times(self, count: int, probability: float) -> int:
        draw = self._rng.random
        return sum([draw() < probability for _ in range(count)])


def _filled(count: int) -> Iterator[tuple[int, int]]:
    number = 0
    while count > 0:
        size = min(count, window_size(number))
        yield number, size
        count, number = count - size, number + 1


# --- guards ------------------------------------------------------------------------------------


class Stopped(NamedTuple):
    """Which guard stopped a release, and what share of all windows it had seen."""

    metric: str
    window: int
    after: float


def watched(seen: list[Seen], share: float, only: str = "") -> Stopped | None:
    """Look after every window; return what stopped the release, None when nothing did.

    `only`: this guard alone looks, with its part of ALPHA.
    """
    comparisons: dict[tuple[str, int], tuple[Comparison, Scale]] = {}
    for number, (_, metric, window, arm, value) in enumerate(seen, start=1):
        if only and metric != only:
            continue
        guard = GUARDS[metric]
        if (metric, window) not in comparisons:
            fresh = Comparison(guard.margin, (1 - share) / share, guard.guess)
            comparisons[metric, window] = fresh, Scale()
        comparison, scale = comparisons[metric, window]
        for of_side, score in scale.scores(arm, value) if guard.is_ratio else [(arm, value)]:
            comparison.see(of_side, score)
        if comparison.is_worse(alpha_of(ALPHA, len(GUARDS), STEPS, window)):
            return Stopped(metric, window, number / len(seen))
    return None


def stopped(
    seeds: range, share: float, worse: Mapping[str, float], only: str = ""
) -> list[Stopped]:
    """Return what stopped the releases with these seeds, as far as they were stopped."""
    found = (watched(release(seed, share, worse), share, only) for seed in seeds)
    return [each for each in found if each]


def smallest_found(metric: str, share: float, seeds: range) -> tuple[float | None, float]:
    """Return the smallest regression that is found in 80 % of releases, and how often.

    None where no regression that is tried is found so often.
    """
    rate = 0.0
    for worse in GUARDS[metric].regressions:
        rate = len(stopped(seeds, share, {metric: worse}, only=metric)) / len(seeds)
        if rate >= 0.8:
            return worse, rate
    return None, rate


# --- tables ------------------------------------------------------------------------------------


_KEPT: Mapping[str, Mapping[str, float]] = {"as production": {}, "as bad as allowed": BOUNDS}


def _stopped(runs: int, share: float, name: str) -> int:
    return len(stopped(range(runs), share, _KEPT[name]))


def false_alarms(runs: int) -> Table:
    """Return how often a release is stopped that is no worse, or just as bad as allowed."""
    lines = [(share, name) for share in SHARES for name in _KEPT]
    with ProcessPoolExecutor() as processes:
        found = processes.map(partial(_stopped, runs), *zip(*lines, strict=True))
        rows = [
            [name, f"{share:.0%}", f"{wrong} of {runs:,}"]
            for (share, name), wrong in zip(lines, found, strict=True)
        ]
    note = f"{PEOPLE} people, all guards together; allowed are {ALPHA:.0%} over all steps."
    return Table("Releases stopped by mistake", ("canary", "share", "stopped"), rows, note)


def power(runs: int) -> Table:
    """Return the smallest regression of each metric that is found."""
    rows = []
    with ProcessPoolExecutor() as processes:
        for share in SHARES:
            look = partial(smallest_found, share=share, seeds=range(runs))
            for metric, (worse, rate) in zip(GUARDS, processes.map(look, GUARDS), strict=True):
                rows.append([metric, f"{share:.0%}", _told(metric, worse), f"{rate:.0%}"])
    columns = ("metric", "share", "smallest regression found", "found in")
    note = f"{PEOPLE} people, one step of {STEPS}, bounds by default."
    return Table("What 200 people show", columns, rows, note)


def _told(metric: str, worse: float | None) -> str:
    if worse is None:
        return "none"
    return f"{worse:g} times" if GUARDS[metric].is_ratio else f"+{worse * 100:.0f} in 100"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequential", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print(false_alarms(runs).as_text())
    print(power(max(10, runs // 5)).as_text())


if __name__ == "__main__":
    main()
