"""How often guards stop a release that is no worse, and which regression they find: a simulation.

    python -m benchmarks.sequential              1,000 releases for each line, some minutes
    python -m benchmarks.sequential --runs 100   a quicker look

4,000 people use a prompt, and how much differs widely: the busiest tenth makes about half of all
turns. Whether a turn fails or is refused, how a reply is rated, how long it takes, what it costs:
all of it differs between people as well as between turns, so turns of one person are alike. Each
release draws 200 of these people, when they come and who gets the canary, in one step of five.
After every window of every person all guards look. Seeds are fixed.
"""

import argparse
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from benchmarks.report import Table
from prompts.release.sequential import (
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
POPULATION = 4_000
PEOPLE = 200
STEPS = 5
MOST_TURNS = 400
SHARES = (0.05, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Guard:
    """A metric as `prompts.release.guards` compares it, with the bound by default.

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


class Person(NamedTuple):
    """Somebody's habits: how probable a turn ends so, how long and dear their usual reply is."""

    turns: int
    fails: float
    refused: float
    dislikes: float
    rates: float
    seconds: float
    usd: float


@cache
def population() -> list[Person]:
    """Return those out of whom each release draws its people."""
    rng = random.Random("people")
    return [_somebody(rng) for _ in range(POPULATION)]


def _somebody(rng: random.Random) -> Person:
    return Person(
        turns=min(MOST_TURNS, max(1, int(rng.lognormvariate(1.8, 1.3)))),
        # Mean 3 %, 5 %, 20 %: most people hardly ever, some often.
        fails=rng.betavariate(0.15, 4.85),
        refused=rng.betavariate(0.3, 5.7),
        dislikes=rng.betavariate(0.5, 2.0),
        rates=rng.betavariate(0.3, 1.5),
        seconds=rng.lognormvariate(1.0, 0.4),
        usd=rng.lognormvariate(-5.0, 0.7),
    )


def _worsened(person: Person, worse: Mapping[str, float]) -> Person:
    """Return what becomes of somebody's turns where the version is `worse` by so much."""
    return Person(
        person.turns,
        person.fails + worse.get("errors", 0),
        person.refused + worse.get("refusals", 0),
        person.dislikes + worse.get("thumbs_down", 0),
        person.rates,
        person.seconds * worse.get("duration", 1),
        person.usd * worse.get("cost", 1),
    )


class Final(NamedTuple):
    """A window of a person that became final, so long after they came (of a time of about 3)."""

    after: float
    metric: str
    window: int
    value: float


@cache
def _histories(worse: tuple[tuple[str, float], ...], only: str) -> list[list[Final]]:
    """Return what the windows of each of the population come to; `only`: those of a metric."""
    rng = random.Random(f"histories {worse}")
    drawn = (_windows(rng, _worsened(person, dict(worse))) for person in population())
    return [[one for one in final if only in {"", one.metric}] for final in drawn]


def _windows(rng: random.Random, person: Person) -> Iterator[Final]:
    """Yield what each window of a person's turns comes to, and each of their ratings."""
    ratings = 0
    for number, turns in _filled(person.turns):
        after = 0.5 * (number + rng.random())
        failed = _times(rng, turns, person.fails)
        yield Final(after, "errors", number, failed / turns)
        refused = _times(rng, turns - failed, person.refused)
        yield Final(after, "refusals", number, refused / turns)
        if completed := turns - failed - refused:
            spread = 1 / math.sqrt(completed)
            seconds = person.seconds * rng.lognormvariate(0, 0.5 * spread)
            yield Final(after, "duration", number, seconds)
            usd = person.usd * rng.lognormvariate(0, 0.7 * spread)
            yield Final(after, "cost", number, usd)
        ratings += _times(rng, turns, person.rates)
    for number, count in _filled(ratings):
        down = _times(rng, count, person.dislikes) / count
        yield Final(0.5 * (number + 1), "thumbs_down", number, down)


Seen = tuple[float, str, int, Side, float]
"""When a window became final, of which metric, the window, the arm and what it comes to."""


def release(seed: int, share: float, worse: Mapping[str, float], only: str = "") -> list[Seen]:
    """Return what guards see of a release, in order; the canary is `worse` by so much."""
    rng = random.Random(seed)
    canary = _histories(tuple(worse.items()), only)
    production = _histories((), only)
    seen: list[Seen] = []
    for number in rng.sample(range(POPULATION), PEOPLE):
        arm: Side = CANARY if rng.random() < share else PRODUCTION
        history = (canary if arm == CANARY else production)[number]
        came = rng.random()
        seen += [(came + after, metric, at, arm, value) for after, metric, at, value in history]
    seen.sort()
    return seen


def _filled(count: int) -> Iterator[tuple[int, int]]:
    """Yield the windows that so many turns fill, and how many each has."""
    number = 0
    while count > 0:
        size = min(count, window_size(number))
        yield number, size
        count, number = count - size, number + 1


def _times(rng: random.Random, count: int, probability: float) -> int:
    """Return how many of so many turns come out so: drawn from hit to hit, not turn by turn.

    Devroye: Non-Uniform Random Variate Generation (1986), X.4.3, first waiting time algorithm.
    """
    if probability > 0.5:
        return count - _times(rng, count, 1.0 - probability)
    if probability < 1e-9:
        return 0
    if count == 1:
        return int(rng.random() < probability)
    scale, hits = 1.0 / math.log1p(-probability), 0
    at = int(math.log(1.0 - rng.random()) * scale) + 1
    while at <= count:
        hits += 1
        at += int(math.log(1.0 - rng.random()) * scale) + 1
    return hits


# --- guards ------------------------------------------------------------------------------------


def is_stopped(seen: Iterable[Seen], share: float) -> bool:
    """Say whether guards that look after every window stop the release.

    They are asked at the end: what was evidence enough at any time stays so.
    """
    compared: dict[tuple[str, int], tuple[Comparison, Scale]] = {}
    for _, metric, window, arm, value in seen:
        guard, key = GUARDS[metric], (metric, window)
        if key not in compared:
            compared[key] = Comparison(guard.margin, (1 - share) / share, guard.guess), Scale()
        comparison, scale = compared[key]
        if not guard.is_ratio:
            comparison.see(arm, value)
            continue
        for of_side, score in scale.scores(arm, value):
            comparison.see(of_side, score)
    return any(
        comparison.is_worse(alpha_of(ALPHA, len(GUARDS), STEPS, window))
        for (_, window), (comparison, _) in compared.items()
    )


def stopped(seeds: range, share: float, worse: Mapping[str, float], only: str = "") -> int:
    """Return how many of the releases with these seeds are stopped.

    `only`: by this guard, with its part of ALPHA.
    """
    return sum(is_stopped(release(seed, share, worse, only), share) for seed in seeds)


def smallest_found(metric: str, share: float, seeds: range) -> tuple[float | None, float]:
    """Return the smallest regression that is found in 80 % of releases, and how often.

    None where no regression that is tried is found so often.
    """
    rate = 0.0
    for worse in GUARDS[metric].regressions:
        rate = stopped(seeds, share, {metric: worse}, only=metric) / len(seeds)
        if rate >= 0.8:
            return worse, rate
    return None, rate


# --- tables ------------------------------------------------------------------------------------


_KEPT: Mapping[str, Mapping[str, float]] = {"as production": {}, "as bad as allowed": BOUNDS}


def _stopped(runs: int, share: float, name: str) -> int:
    return stopped(range(runs), share, _KEPT[name])


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
