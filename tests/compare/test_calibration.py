"""Simulated comparisons: no more false alarms than promised, intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.statistics_simulation import (
    STUDIES,
    Outcome,
    simulate,
    simulate_entries,
    simulate_groups,
    simulate_seeds,
)
from scipy import stats

from deltatune.comparison.statistics import bootstrap_interval, paired_bootstrap, pairwise


def coverage(trials: int, examples: int, resamples: int) -> float:
    """Share of 95 % intervals that hold the true mean of skewed scores in 0..1."""
    random = np.random.default_rng(11)
    hits = 0
    for trial in range(trials):
        interval = bootstrap_interval(random.beta(0.5, 0.8, examples), resamples=resamples, seed=trial)
        hits += interval.low <= 0.5 / 1.3 <= interval.high
    return hits / trials


def test_intervals_hold_the_truth():
    assert 0.90 <= coverage(trials=300, examples=80, resamples=600) <= 0.985


@pytest.mark.slow
def test_intervals_hold_the_truth_closely():
    assert 0.94 <= coverage(trials=4000, examples=100, resamples=2000) <= 0.96


def test_false_alarms_are_as_rare_as_promised():
    random = np.random.default_rng(12)
    alarms = sum(
        any(not pair.tie for pair in pairwise(dict(zip("abcd", random.normal(size=(4, 60)), strict=True)),
                                              resamples=800))
        for _ in range(80)
    )  # fmt: skip
    assert alarms / 80 < 0.12


def bounds(trials: int, share: float) -> tuple[int, int]:
    """Counts that a binomial of this share leaves in one of a thousand cases only, on each side."""
    return int(stats.binom.ppf(0.001, trials, share)), int(stats.binom.ppf(0.999, trials, share))


def check(outcome: Outcome) -> None:
    """At most 5 % false alarms, and intervals that hold the truth in 93.5 to 97 % of all cases.

    Percentile intervals of a few hundred examples are known to be off by about a percent; the counts may
    leave these shares by chance in one case of a thousand each.
    """
    trials = outcome.trials
    assert outcome.false_alarms * trials <= bounds(trials, 0.05)[1], outcome
    for share in (outcome.coverage, outcome.coverage_of_difference):
        assert bounds(trials, 0.935)[0] <= share * trials <= bounds(trials, 0.97)[1], outcome


@pytest.mark.parametrize("study", ["scores in 0..1", "BLEU", "macro F1"])
def test_simulated_comparisons_raise_no_more_alarms_than_promised(study):
    check(simulate(study, examples=150, trials=120, resamples=500))


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_many_simulated_comparisons_raise_no_more_alarms_than_promised(study):
    check(simulate(study, examples=200, trials=1500, resamples=1000))


def seeds_are_safe(trials: int) -> None:
    """Never more alarms than promised, and never less coverage; more caution is the price of few seeds."""
    for spread in (0.0, 0.1):
        outcome = simulate_seeds(3, spread, examples=100, trials=trials, resamples=500)
        assert outcome.false_alarms * trials <= bounds(trials, 0.05)[1], outcome
        assert outcome.coverage * trials >= bounds(trials, 0.95)[0], outcome
        assert outcome.coverage_of_difference * trials >= bounds(trials, 0.95)[0], outcome


def test_simulated_seeds_raise_no_more_alarms_than_promised():
    seeds_are_safe(100)


@pytest.mark.slow
def test_many_simulated_seeds_raise_no_more_alarms_than_promised():
    seeds_are_safe(1500)


def test_examples_needed_give_the_power_they_promise():
    """A tie says how many examples it wants; with so many, equally large differences are found in 80 %."""
    random = np.random.default_rng(7)
    shift, spread = 0.05, 0.5
    a = random.normal(0, spread, 100)
    a += shift - a.mean()  # the observed difference is the true one
    (pair,) = pairwise({"a": a, "b": np.zeros(100)}, resamples=4000)
    assert pair.tie
    assert pair.seeds_needed is None
    assert pair.examples_needed == pytest.approx((a.std() * (1.96 + 0.8416) / shift) ** 2, rel=0.06)
    found = sum(
        paired_bootstrap(random.normal(shift, spread, pair.examples_needed),
                         np.zeros(pair.examples_needed), resamples=400, seed=trial).p < 0.05
        for trial in range(150)
    )  # fmt: skip
    assert bounds(150, 0.74)[0] <= found <= bounds(150, 0.86)[1]


def test_simulated_entries_and_groups_raise_no_more_alarms_than_promised():
    trials = 60
    for spreads in ([0.05] * 4, [0.03, 0.1] * 2):
        _, pooled = simulate_entries(2, spreads, examples=60, trials=trials, resamples=400)
        assert pooled.false_alarms * trials <= bounds(trials, 0.05)[1], pooled
        assert pooled.coverage_of_difference >= 0.92, pooled
    _, by_input = simulate_groups(300, 40, trials=trials, resamples=300)
    assert by_input.false_alarms * trials <= bounds(trials, 0.05)[1], by_input


@pytest.mark.slow
@pytest.mark.parametrize("spreads", [[0.05] * 4, [0.03, 0.1] * 2])
def test_pooled_seeds_keep_the_level_and_find_more(spreads):
    alone, pooled = simulate_entries(2, spreads, examples=100, trials=400, resamples=800)
    assert pooled.false_alarms * 400 <= bounds(400, 0.05)[1], pooled
    assert pooled.coverage * 400 >= bounds(400, 0.95)[0], pooled
    assert pooled.coverage_of_difference * 400 >= bounds(400, 0.95)[0], pooled
    assert pooled.found > 2 * alone.found, (alone, pooled)


@pytest.mark.slow
def test_rows_of_one_input_are_independent_only_by_input():
    alone, by_input = simulate_groups(893, 120, trials=300, resamples=500)
    assert alone.false_alarms * 300 > bounds(300, 0.05)[1], alone
    assert by_input.false_alarms * 300 <= bounds(300, 0.05)[1], by_input
    assert by_input.coverage_of_difference * 300 >= bounds(300, 0.95)[0], by_input
