"""Intervals over people: what they always hold, and how often they are right."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.figures import intervals
from prompts.figures.intervals import Interval, Person, difference, mean, quantile, rate

shares = st.lists(
    st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=30
).map(lambda found: [Person(*one) for one in found])
amounts = st.lists(
    st.builds(Person, st.integers(1, 40), st.floats(0, 1e6)), min_size=5, max_size=30
)
values = st.lists(st.lists(st.integers(0, 10**6), max_size=9), max_size=30)


def wilson(happened: float, turns: float) -> Interval:
    """Return Wilson's interval as the textbook has it, each turn a sample of its own."""
    z, share = intervals.Z, happened / turns
    middle = (happened + z * z / 2) / (turns + z * z)
    margin = z / (turns + z * z) * math.sqrt(turns * share * (1 - share) + z * z / 4)
    return Interval(share, middle - margin, middle + margin)


@given(shares)
def test_a_rate_lies_in_its_interval_and_both_in_what_rates_can_be(people):
    found = rate(people)
    if found is None:
        assert sum(person.turns > 0 for person in people) < intervals.LEAST_PEOPLE
    else:
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high


@given(shares)
def test_a_rate_is_never_surer_than_if_each_turn_was_a_sample(people):
    if found := rate(people):
        turns = sum(person.turns for person in people)
        plain = wilson(sum(person.total for person in people), turns)
        assert found.high - found.low >= (plain.high - plain.low) * (1 - 1e-9)


@given(amounts, st.floats(0.001, 1000))
def test_a_mean_follows_its_unit(people, factor):
    found, scaled = mean(people), mean([Person(n, factor * total) for n, total in people])
    for name in ("value", "low", "high"):
        expected = factor * getattr(found, name)
        tolerance = 1e-6 * factor * (1 + found.high)
        assert getattr(scaled, name) == pytest.approx(expected, abs=tolerance)


@given(values, st.floats(0.01, 0.99))
def test_a_quantile_and_its_ends_are_values_that_occurred(people, share):
    found = quantile(people, share)
    if found is not None:
        occurred = {value for each in people for value in each}
        assert {found.value, found.low, found.high} <= occurred
        assert found.low <= found.value <= found.high


@given(shares, shares)
def test_a_difference_turned_around_is_the_same(some, others):
    a, b = rate(some), rate(others)
    if a and b:
        there, back = difference(a, b), difference(b, a)
        assert there.low == pytest.approx(-back.high)
        assert there.high == pytest.approx(-back.low)
        assert there.low <= there.value <= there.high


def test_turns_of_many_people_who_ask_once_are_wilsons():
    people = [Person(1, float(at < 30)) for at in range(3_000)]
    found, plain = rate(people), wilson(30, 3_000)
    assert found.low == pytest.approx(plain.low, rel=0.01)
    assert found.high == pytest.approx(plain.high, rel=0.01)


def test_a_person_who_asks_more_often_adds_little_when_they_fail_alike():
    once = rate([Person(1, float(at < 20)) for at in range(100)])
    often = rate([Person(50, 50.0 * (at < 20)) for at in range(100)])
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.05)


def test_what_never_happened_is_no_surer_than_there_are_people():
    assert rate([Person(100, 0) for _ in range(10)]).high > 0.25


@pytest.mark.parametrize(("degrees", "exact"), [(2, 4.303), (4, 2.776), (9, 2.262), (99, 1.984)])
def test_students_quantiles(degrees, exact):
    assert intervals._t(degrees) == pytest.approx(exact, rel=0.02)


# --- how often they are right -------------------------------------------------------------------

RUNS = 500
PEOPLE = 60


def _turns(chance: random.Random) -> int:
    """Most people ask a few times, a few ask a lot."""
    return 1 + int(chance.lognormvariate(1.2, 1.0))


def _people(chance: random.Random, share: float, alike: float) -> list[Person]:
    """People whose own rates scatter around `share`: beta-binomial."""
    a, b = share * (1 / alike - 1), (1 - share) * (1 / alike - 1)
    found = []
    for _ in range(PEOPLE):
        turns, own = _turns(chance), chance.betavariate(a, b)
        found.append(Person(turns, sum(chance.random() < own for _ in range(turns))))
    return found


def _covered(found: Interval | None, truth: float) -> bool:
    return found is not None and found.low <= truth <= found.high


def test_a_rate_of_turns_that_are_alike_is_covered_where_wilsons_own_is_not():
    chance, ours, plain = random.Random(11), 0, 0
    for _ in range(RUNS):
        people = _people(chance, 0.2, alike=0.3)
        ours += _covered(rate(people), 0.2)
        turns = sum(person.turns for person in people)
        plain += _covered(wilson(sum(person.total for person in people), turns), 0.2)
    assert ours / RUNS >= 0.93
    assert plain / RUNS < 0.8


def test_a_difference_of_two_rates_is_covered():
    chance, right = random.Random(12), 0
    for _ in range(RUNS):
        canary = rate(_people(chance, 0.2, alike=0.3))
        production = rate(_people(chance, 0.1, alike=0.3))
        right += _covered(difference(canary, production), 0.1)
    assert right / RUNS >= 0.93


def test_a_mean_of_costs_that_are_alike_is_covered():
    chance, right = random.Random(13), 0
    for _ in range(RUNS):
        people = []
        for _ in range(PEOPLE):
            turns, own = _turns(chance), chance.lognormvariate(0, 0.6)
            costs = (own * chance.lognormvariate(0, 0.4) for _ in range(turns))
            people.append(Person(turns, sum(costs)))
        right += _covered(mean(people), math.exp(0.36 / 2 + 0.16 / 2))
    assert right / RUNS >= 0.92


@pytest.mark.parametrize(
    ("share", "z", "people", "least"),
    [(0.5, 0.0, PEOPLE, 0.93), (0.95, 1.6448536, PEOPLE, 0.9), (0.95, 1.6448536, 200, 0.93)],
)
def test_a_quantile_of_times_that_are_alike_is_covered(share, z, people, least):
    chance, right = random.Random(14), 0
    truth = math.exp(z * math.hypot(0.5, 0.5))
    for _ in range(200):
        times = []
        for _ in range(people):
            own = chance.gauss(0, 0.5)
            times.append([math.exp(own + chance.gauss(0, 0.5)) for _ in range(_turns(chance))])
        right += _covered(quantile(times, share), truth)
    assert right / 200 >= least
