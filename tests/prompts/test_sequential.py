"""The test that may be looked at any time: its bound by enumeration, and what it finds."""

import json
import math
import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import sequential as simulation
from prompts.models import ReleaseGuard
from prompts.release.guards import ALPHA, MEASURES, Bounds
from prompts.release.sequential import (
    BETS,
    CANARY,
    PRODUCTION,
    SCALED_BY,
    USUAL_SCORE,
    Comparison,
    Scale,
    _Block,
    alpha_of,
    log_mean_exp,
    margin_of_ratio,
    ratio_of_scores,
    score_of_ratio,
    window_of,
    window_size,
)

scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
arms = st.sampled_from([CANARY, PRODUCTION])
margins = st.floats(0, 0.9)
odds = st.floats(0.05, 60)
people = st.lists(st.tuples(arms, scores), max_size=60)


def compared(margin, odds, people) -> Comparison:
    comparison = Comparison(margin, odds)
    for arm, score in people:
        comparison.see(arm, score)
    return comparison


# --- what it promises --------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    margins,
    people,
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_wealth_can_not_be_expected_to_grow_while_the_bound_is_kept(
    margin, before, production, badness, canaries, others
):
    canary = min(1.0, badness * (production + margin))  # at most production + margin
    expected = 0.0
    history = compared(margin, 1.0, before)
    # Nobody waits, and the block is settled by the last of production.
    stored = history.as_dict() | {"canary_waiting": [], "production_waiting": []}
    stored["odds"] = 2.0 * others / canaries
    start = log_mean_exp(stored["wealth_logs"])
    for outcome in product((0.0, 1.0), repeat=canaries + others):
        chance = math.prod(
            (mean if one else 1 - mean)
            for one, mean in zip(outcome, [canary] * canaries + [production] * others, strict=True)
        )
        after = Comparison(**json.loads(json.dumps(stored)))
        for at, score in enumerate(outcome):
            after.see(CANARY if at < canaries else PRODUCTION, score)
        assert not after.canary_waiting
        expected += chance * math.exp(log_mean_exp(after.wealth_logs) - start)
    assert expected <= 1 + 1e-9


@settings(max_examples=40)
@given(margins, st.floats(0, 1), st.integers(1, 3), st.integers(1, 4), st.sampled_from(BETS))
def test_no_bet_can_be_expected_to_win_whatever_production_is(
    margin, expected, canaries, others, bet
):
    returns = {
        (bad, worse): math.exp(
            _Block(
                [1.0] * bad + [0.0] * (canaries - bad), [1.0] * worse + [0.0] * (others - worse)
            ).log_return(bet, expected, margin)
        )
        for bad in range(canaries + 1)
        for worse in range(others + 1)
    }
    for step in range(21):
        production = (1 - margin) * step / 20
        canary = production + margin  # as bad as allowed: better ones win less
        won = sum(
            _chance(bad, canaries, canary) * _chance(worse, others, production) * factor
            for (bad, worse), factor in returns.items()
        )
        assert won <= 1 + 1e-9


def _chance(hits: int, of: int, probability: float) -> float:
    return math.comb(of, hits) * probability**hits * (1 - probability) ** (of - hits)


@given(margins, odds, people)
def test_any_scores_leave_a_wealth_that_is_a_number(margin, odds, people):
    comparison = compared(margin, odds, people)
    assert all(math.isfinite(log) for log in comparison.wealth_logs)
    assert 0 < comparison.p_value <= 1


@given(margins, odds, people, st.data())
def test_a_pause_in_between_changes_nothing(margin, odds, people, data):
    whole = compared(margin, odds, people)
    cut = data.draw(st.integers(0, len(people)))
    kept = json.loads(json.dumps(compared(margin, odds, people[:cut]).as_dict()))
    rest = Comparison(**kept)
    for arm, score in people[cut:]:
        rest.see(arm, score)
    assert rest == whole


@given(margins, st.lists(scores, min_size=1, max_size=9), st.lists(scores, min_size=2), st.data())
def test_it_does_not_matter_who_of_a_block_comes_first(margin, canary, production, data):
    def wealth(some, others):
        comparison = Comparison(margin, odds=2.0 * len(production) / len(canary))
        for score in some:
            comparison.see(CANARY, score)
        for score in others:
            comparison.see(PRODUCTION, score)
        return comparison.wealth_logs

    shuffled = data.draw(st.permutations(canary)), data.draw(st.permutations(production))
    assert wealth(*shuffled) == pytest.approx(wealth(canary, production))


@given(margins, st.lists(scores, min_size=1, max_size=9), st.lists(scores, min_size=1), st.data())
def test_worse_scores_of_the_canary_are_never_weaker_evidence(margin, canary, production, data):
    def wealth(some):
        comparison = Comparison(margin, odds=2.0 * len(production) / len(canary))
        for score in some:
            comparison.see(CANARY, score)
        for score in production:
            comparison.see(PRODUCTION, score)
        return log_mean_exp(comparison.wealth_logs)

    worse = [data.draw(st.floats(score, 1)) for score in canary]
    assert wealth(worse) >= wealth(canary) - 1e-9


def test_what_was_found_stays_found():
    comparison = compared(0.02, 1, [(CANARY, 1.0), (PRODUCTION, 0.0)] * 15)
    assert comparison.is_worse(0.001)
    for _ in range(200):
        comparison.see(CANARY, 0.0)
        comparison.see(PRODUCTION, 0.0)
    assert comparison.is_worse(0.001)


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan])
def test_a_score_outside_its_range_is_refused(score):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Comparison(0.1, 1).see(CANARY, score)


def test_nobody_is_bet_on_alone():
    comparison = compared(0.02, 9, [(CANARY, 1.0)] * 300)
    assert comparison.p_value == 1
    assert comparison.canary_mean is None


def test_a_canary_of_more_people_than_expected_is_compared_all_the_same():
    few_others = [(PRODUCTION, 0.0)] * 3 + [(CANARY, 1.0)] * 10
    assert compared(0.02, 19, few_others[:-1]).canary_people == 0
    assert compared(0.02, 19, few_others).canary_people == 10


def test_means_and_people_are_those_who_were_compared():
    comparison = compared(0.02, 1, [(CANARY, 1.0), (PRODUCTION, 0.5), (CANARY, 0.0)])
    assert (comparison.canary_people, comparison.canary_mean) == (1, 1.0)
    assert (comparison.production_people, comparison.production_mean) == (1, 0.5)


# --- windows, alpha, quantities ----------------------------------------------------------------


def test_windows_follow_each_other_as_large_as_they_say():
    windows = [window_of(turns) for turns in range(700)]
    assert windows == sorted(windows)
    for window in range(4):
        assert windows.count(window) == window_size(window)


@given(st.floats(0.001, 0.5), st.integers(1, 9), st.integers(1, 20))
def test_all_comparisons_together_spend_alpha_at_most(alpha, guards, steps):
    spent = sum(alpha_of(alpha, guards, steps, window) for window in range(60)) * guards * steps
    assert spent <= alpha * (1 + 1e-9)


def test_scores_of_a_quantity_grow_with_its_logarithm():
    found = [score_of_ratio(value, 8.0) for value in (0, 1, 4, 8, 16, 32, 900)]
    assert found == pytest.approx([0, 0, 0, USUAL_SCORE, 2 / 3, 1, 1])
    assert score_of_ratio(0, 0) == USUAL_SCORE
    assert score_of_ratio(0.01, 0) == 1


@given(st.floats(1, 4), st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_quantity_within_its_factor_keeps_its_margin(factor, value, usual):
    apart = score_of_ratio(value * factor, usual) - score_of_ratio(value, usual)
    assert apart <= margin_of_ratio(factor) + 1e-9
    assert ratio_of_scores(margin_of_ratio(factor), 0) == pytest.approx(factor)


def test_the_first_of_production_say_what_is_usual_and_the_canary_waits():
    scale = Scale()
    assert scale.scores(CANARY, 20.0) == []
    for value in (5.0, 10.0, 10.0, 10.0)[: SCALED_BY - 1]:
        assert scale.scores(PRODUCTION, value) == []
    scale = Scale(**json.loads(json.dumps(scale.as_dict())))
    assert scale.scores(PRODUCTION, 900.0) == [(CANARY, pytest.approx(2 / 3))]
    assert scale.usual == 10.0
    assert scale.scores(PRODUCTION, 10.0) == [(PRODUCTION, USUAL_SCORE)]


# --- what it does to releases ------------------------------------------------------------------


def test_the_simulation_has_the_guards_as_they_are():
    guard = ReleaseGuard()
    assert simulation.ALPHA == ALPHA
    assert {metric.value for metric in MEASURES} == set(simulation.GUARDS)
    for metric, measure in MEASURES.items():
        simulated = simulation.GUARDS[metric.value]
        assert simulated.margin == measure.margin(guard)
        assert simulated.guess == measure.guess
        assert simulation.BOUNDS[metric.value] == getattr(Bounds(), measure.bound)


RUNS = range(1_000)


def share_of(seed: int) -> float:
    return simulation.SHARES[seed % len(simulation.SHARES)]


def stopped(runs: range, worse) -> int:
    by_share = [runs[first :: len(simulation.SHARES)] for first in range(len(simulation.SHARES))]
    return sum(simulation.stopped(seeds, share_of(seeds[0]), worse) for seeds in by_share)


def test_of_a_thousand_releases_without_a_difference_one_in_twenty_is_stopped_at_most():
    assert stopped(RUNS, {}) <= 0.05 * len(RUNS)


def test_a_release_that_is_as_bad_as_its_bounds_allow_is_not_stopped_more_often():
    runs = RUNS[:200]
    assert stopped(runs, simulation.BOUNDS) <= 0.05 * len(runs)


def test_the_same_releases_would_be_stopped_by_a_test_that_counts_turns():
    runs = RUNS[:60]
    found = sum(differs_by_turns(simulation.release(seed, share_of(seed), {})) for seed in runs)
    assert found > 0.3 * len(runs)


def differs_by_turns(seen: list[simulation.Seen]) -> bool:
    """As a z-test for two shares finds it, which takes turns for independent, at every look."""
    failed, turns = dict.fromkeys([CANARY, PRODUCTION], 0.0), dict.fromkeys([CANARY, PRODUCTION], 0)
    for _, metric, window, arm, value in seen:
        if metric != "errors":
            continue
        turns[arm] += window_size(window)
        failed[arm] += value * window_size(window)
        if min(turns.values()) < 20:
            continue
        rates = {arm: failed[arm] / turns[arm] for arm in turns}
        spread = math.sqrt(sum(rates[arm] * (1 - rates[arm]) / turns[arm] for arm in turns))
        if rates[CANARY] - rates[PRODUCTION] > 1.645 * spread:
            return True
    return False


def told_in_the_docs() -> list[tuple[str, float, float]]:
    """Metric, share of the canary, smallest regression: as docs/prompts.md has them."""
    text = Path(__file__).parents[2].joinpath("docs/prompts.md").read_text()
    _, table = text.split("this is the smallest regression that was found in at least 80 %")
    head, _, *rows = re.findall(r"^\|(.*)\|$", table, re.MULTILINE)[: 2 + len(simulation.GUARDS)]
    shares = [float(share) / 100 for share in re.findall(r"(\d+) %", head)]
    told = []
    for metric, row in zip(simulation.GUARDS, rows, strict=True):
        for share, cell in zip(shares, row.split("|")[1:], strict=True):
            if found := re.fullmatch(r"([\d.]+) (more in 100|times)", cell.strip()):
                unit = 1 if found[2] == "times" else 100
                told.append((metric, share, float(found[1]) / unit))
    return told


@pytest.mark.parametrize(("metric", "share", "worse"), told_in_the_docs())
def test_the_smallest_regression_that_the_docs_name_is_found(metric, share, worse):
    runs = RUNS[:200]
    found = simulation.stopped(runs, share, {metric: worse}, only=metric)
    assert found >= 0.8 * len(runs)


def test_the_docs_name_a_regression_of_each_metric():
    assert {metric for metric, *_ in told_in_the_docs()} == set(simulation.GUARDS)


def test_half_of_the_turns_are_those_of_the_busiest_tenth():
    turns = sorted((person.turns for person in simulation.population()), reverse=True)
    assert 0.4 < sum(turns[: len(turns) // 10]) / sum(turns) < 0.6


@given(st.integers(1, 40), st.floats(0, 1))
def test_hits_are_drawn_as_often_as_turn_by_turn(count, probability):
    rng = simulation.random.Random(0)
    drawn = [simulation._times(rng, count, probability) for _ in range(400)]
    assert all(0 <= hits <= count for hits in drawn)
    spread = math.sqrt(count * probability * (1 - probability) / len(drawn))
    assert abs(sum(drawn) / len(drawn) - count * probability) <= 6 * spread + 1e-6
