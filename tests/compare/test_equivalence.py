"""Equivalent within a margin, by two one-sided tests: their formula, and where bootstraps are fooled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from deltatune.comparison.resampling import Draws
from deltatune.comparison.scores import Sample
from deltatune.comparison.statistics import pairwise
from deltatune.comparison.warnings import too_much


def equivalence(a: Any, b: Any, margin: float, resamples: int = 4000) -> float:
    return Draws([Sample.of(a), Sample.of(b)], resamples, 0).equivalence((0, 1), margin)


@pytest.mark.parametrize("margin", [0.02, 0.03, 0.05])
def test_it_is_the_two_t_tests_where_differences_are_normal(margin: float) -> None:
    random = np.random.default_rng(3)
    base = random.normal(0.5, 0.2, 400)
    other = base + random.normal(0.005, 0.25, 400)
    difference = base - other
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(400)
    above, below = (stats.t.sf((margin - sign * mean) / error, 399) for sign in (1, -1))
    assert equivalence(base, other, margin) == pytest.approx(max(above, below), abs=0.012)


def test_a_worth_that_no_difference_reaches_is_told() -> None:
    shares, alike = [Sample.of([0.0, 1.0, 1.0]), Sample.of([0.0, 0.0, 1.0])], [Sample.of([0.5, 0.5])]
    [told] = too_much(1.0, shares, "accuracy")  # a point is meant, which is 0.01
    assert told.startswith("worth (1) is no less than the whole range of accuracy here, 0 to 1, so")
    for worth, samples in ((0.5, shares), (None, shares), (1.0, alike), (1.0, [])):
        assert not too_much(worth, samples, "accuracy")


def test_few_rows_that_differ_prove_little() -> None:
    same = np.ones(60)
    same[:20] = 0
    assert equivalence(same, same, 0.01) > 0.2, "a draw of rows that all agree does not spread at all"
    assert equivalence(same, same, 0.1) < 0.01
    assert equivalence(np.ones(1), np.ones(1), 0.5) == 1.0
    assert equivalence(np.ones(50), np.ones(50), 0.5) == 1.0, "how far rows can differ is not known"


@pytest.mark.parametrize("share", [0.0, 0.04])
def test_pairs_on_the_margin_are_called_equivalent_in_few_comparisons(share: float) -> None:
    """A margin apart in truth; besides, `share` of the rows are right in one or the other by chance."""
    random, wrong, trials, margin = np.random.default_rng(5), 0, 150, 0.03
    for _ in range(trials):
        place = random.random(300)
        a = (place < 0.7).astype(float)
        b = np.where((place >= 0.7 - margin) & (place < 0.7), 0.0, a)
        flipped = random.random(300) < share
        a, b = np.where(flipped & (place > 0.8), 1.0, a), np.where(flipped & (place > 0.9), 1.0, b)
        gap = margin + share * 0.1
        wrong += equivalence(a, b, gap, resamples=500) < 0.05
    assert wrong <= stats.binom.ppf(0.99, trials, 0.05)


def test_pairs_say_better_equivalent_or_not_known() -> None:
    random = np.random.default_rng(4)
    base = random.uniform(0, 1, 400)
    scores = {
        "lora": base,
        "adalora": base + random.normal(0, 0.05, 400),
        "prefix": base - 0.2 + random.normal(0, 0.1, 400),
        "prompt": base + random.normal(0.03, 0.6, 400),
        "bitfit": base - 0.004 + random.normal(0, 0.01, 400),
    }
    pairs = {(pair.a, pair.b): pair for pair in pairwise(scores, resamples=2000, worth=0.02)}
    assert (pairs["lora", "adalora"].tie, pairs["lora", "adalora"].equivalent) == (True, True)
    assert (pairs["lora", "prefix"].tie, pairs["lora", "prefix"].equivalent) == (False, False)
    assert (pairs["lora", "prompt"].tie, pairs["lora", "prompt"].equivalent) == (True, False)
    assert (pairs["lora", "bitfit"].tie, pairs["lora", "bitfit"].equivalent) == (False, True)
    assert pairs["lora", "adalora"].examples_needed is None
    needed = pairs["lora", "prompt"].examples_needed
    assert needed is not None
    assert needed > 400
    plain = {(pair.a, pair.b): pair for pair in pairwise(scores, resamples=2000)}
    assert plain["lora", "prompt"].equivalent is None
    assert [pair.p for pair in plain.values()] == [pair.p for pair in pairs.values()]


def test_rows_that_would_show_equivalence_are_said() -> None:
    """Two that differ by nothing: no number of rows would part them, and some would show that."""
    noise = np.random.default_rng(0).normal(0, 0.5, 100)
    noise -= noise.mean()
    scores = {"a": np.zeros(100), "b": noise}
    [plain] = pairwise(scores, resamples=1000)
    assert plain.examples_needed is None
    [pair] = pairwise(scores, resamples=1000, worth=0.05)
    assert pair.tie
    assert not pair.equivalent
    error = noise.std(ddof=1)
    by_formula = (error * (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) / 0.05) ** 2
    assert pair.examples_needed == pytest.approx(by_formula, rel=0.1)


def test_entries_that_agree_everywhere_need_rows_too() -> None:
    same = np.tile([0.0, 1.0], 20)
    [pair] = pairwise({"a": same, "b": same}, resamples=1000, worth=0.01)
    assert not pair.equivalent
    assert pair.examples_needed is not None
    assert pair.examples_needed > 100
    assert pairwise({"a": same, "b": same}, resamples=1000)[0].examples_needed is None
