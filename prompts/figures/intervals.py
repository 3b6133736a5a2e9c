"""How sure a figure is when turns of one person are alike: intervals over people. Pure.

    rate(people)                 a share of turns, Wilson's with the effective sample size
    mean(people)                 a mean per turn, by the ratio estimator
    quantile(people, 0.95)       a quantile, by the rates of what lies below
    difference(canary, production)    from two of the above, by MOVER

Ten turns of one person say less than ten turns of ten people. Who takes each turn as a sample of
its own gets intervals that are too short. Here the person is the sample, the turns are theirs.
The quantiles of the normal distribution give way to those of Student's t, whose degrees of freedom
are the people who count: few heavy users are few, however many others asked once.

Sources: Wilson, JASA 22 (1927) 209. Kish, Survey Sampling (1965), on ratio estimators and the
effective number of samples. Korn and Graubard, Survey Methodology 24 (1998) 193, on intervals with
an effective sample size. Efron and Stein, Annals of Statistics 9 (1981) 586, on the jackknife.
Woodruff, JASA 47 (1952) 635, and Francisco and Fuller, Annals of Statistics 19 (1991) 454, on
quantiles. Zou and Donner, Statistics in Medicine 27 (2008) 1693, on MOVER. Abramowitz and Stegun,
26.7.5, on the quantiles of t.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CONFIDENCE = 0.95
Z = 1.959963984540054
"""The quantile of the normal distribution that leaves 2.5 % above it."""

LEAST_PEOPLE = 5
"""Of fewer people nothing is said."""


class Person(NamedTuple):
    """What one person's turns came to: how many there were, and their sum."""

    turns: float
    total: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it may lie, with a probability of CONFIDENCE."""

    value: float
    low: float
    high: float

    @property
    def leaves_zero_out(self) -> bool:
        """Whether it is beyond chance that the figure isn't zero."""
        return self.low > 0 or self.high < 0


def rate(people: Sequence[Person]) -> Interval | None:
    """Return the share of turns in which something happened; None for too few people.

    `total` is in how many of the person's turns it did. Where it never happened, or always, turns
    of a person are taken to be wholly alike, because nothing shows that they aren't.
    """
    people = _who_asked(people)
    return _rate(people) if len(people) >= LEAST_PEOPLE else None


def mean(people: Sequence[Person]) -> Interval | None:
    """Return the mean per turn of what is never negative; None for too few people."""
    people = _who_asked(people)
    if len(people) < LEAST_PEOPLE:
        return None
    value = _ratio(people)
    margin = _t(_degrees(people)) * math.sqrt(_variance(people, value))
    return Interval(value, max(0.0, value - margin), value + margin)


def quantile(people: Sequence[Sequence[float]], share: float) -> Interval | None:
    """Return the value below which this share of turns lies; None for too few people.

    `people` are the values of each person's turns. The interval holds the values of which it might
    be true that this share lies below them, as `rate` has it for each.
    """
    ordered_each = [sorted(values) for values in people if values]
    if len(ordered_each) < LEAST_PEOPLE:
        return None
    ordered = sorted(value for values in ordered_each for value in values)

    def below(value: float) -> Interval:
        return _rate([Person(len(each), bisect_right(each, value)) for each in ordered_each])

    value = ordered[math.ceil(share * len(ordered) - 1e-9) - 1]
    low = _first(ordered, lambda one: below(one).high >= share)
    high = _first(ordered, lambda one: below(one).low >= share)
    return Interval(value, min(value, low), max(value, high))


def difference(canary: Interval, production: Interval) -> Interval:
    """Return canary minus production, of groups that know nothing of each other."""
    value = canary.value - production.value
    below = math.hypot(canary.value - canary.low, production.high - production.value)
    above = math.hypot(canary.high - canary.value, production.value - production.low)
    return Interval(value, value - below, value + above)


def _rate(people: Sequence[Person]) -> Interval:
    turns, share = _sum_of_turns(people), _ratio(people)
    return _wilson(share, _effective_size(people, share, turns))


def _who_asked(people: Sequence[Person]) -> list[Person]:
    return [person for person in people if person.turns > 0]


def _sum_of_turns(people: Sequence[Person]) -> float:
    return math.fsum(person.turns for person in people)


def _ratio(people: Sequence[Person]) -> float:
    return math.fsum(person.total for person in people) / _sum_of_turns(people)


def _variance(people: Sequence[Person], value: float) -> float:
    """Return the variance of the ratio estimator: the jackknife's, each person left out once."""
    turns, count = _sum_of_turns(people), len(people)
    residuals = math.fsum(
        ((person.total - value * person.turns) / (turns - person.turns)) ** 2 for person in people
    )
    return (count - 1) / count * residuals


def _people_who_count(people: Sequence[Person]) -> float:
    """Return as how many people, all alike, these are, after how much each of them asked."""
    return _sum_of_turns(people) ** 2 / math.fsum(person.turns**2 for person in people)


def _degrees(people: Sequence[Person]) -> float:
    return max(1.0, _people_who_count(people) - 1)


def _effective_size(people: Sequence[Person], share: float, turns: float) -> float:
    """Return as how many independent turns these are; never more than there were."""
    independent = share * (1 - share) / turns
    least = _people_who_count(people)
    if independent <= 0:
        size = least
    else:
        design_effect = max(1.0, _variance(people, share) / independent)
        size = turns / design_effect
    return size * (Z / _t(_degrees(people))) ** 2


def _wilson(share: float, size: float) -> Interval:
    squared = Z * Z / size
    middle = (share + squared / 2) / (1 + squared)
    margin = Z / (1 + squared) * math.sqrt(share * (1 - share) / size + squared / (4 * size))
    return Interval(
        share, max(0.0, min(share, middle - margin)), min(1.0, max(share, middle + margin))
    )


def _first(ordered: Sequence[float], holds: Callable[[float], bool]) -> float:
    """Return the first value that holds, where all behind it do as well; else the last."""
    return ordered[bisect_left(ordered, True, hi=len(ordered) - 1, key=holds)]


_TERMS = (
    (4, (0, 1, 0, 1)),
    (96, (0, 3, 0, 16, 0, 5)),
    (384, (0, -15, 0, 17, 0, 19, 0, 3)),
    (92_160, (0, -945, 0, -1920, 0, 1482, 0, 776, 0, 79)),
)


def _t(degrees: float) -> float:
    """Return the quantile of Student's t that leaves 2.5 % above it, within 2 % from two on."""
    return Z + math.fsum(
        math.fsum(factor * Z**power for power, factor in enumerate(factors))
        / (divisor * degrees**order)
        for order, (divisor, factors) in enumerate(_TERMS, 1)
    )
