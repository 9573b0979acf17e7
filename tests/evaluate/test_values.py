"""Metrics of numbers: equal to SciPy and scikit-learn, on all rows and on resampled ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from deltatune.comparison.scores import corpus_sample
from deltatune.comparison.statistics import intervals, pairwise
from deltatune.evaluation import value_metric, value_metrics
from deltatune.evaluation.metrics import METRICS, Scores, corpus_metric
from deltatune.evaluation.metrics.values import correlation, rank_moments
from deltatune.tasks.values import METRICS as NAMES

PAIRS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30)
SCALES = st.sampled_from([(1.0, 0.0), (1e-9, 0.0), (0.1, 1e6), (1e12, -3e15)])


@settings(max_examples=25, deadline=None)
@given(PAIRS, SCALES, st.randoms())
def test_they_are_those_of_scipy_and_scikit_learn(pairs, scale, random) -> None:
    factor, offset = scale
    guesses, truths = ([each[side] * factor + offset for each in pairs] for side in (0, 1))
    assume(min(map(len, map(set, (guesses, truths)))) > 1)
    found = value_metrics(guesses, truths)
    assert set(found.values) == set(NAMES)
    oracle = {
        "mse": mean_squared_error(truths, guesses),
        "mae": mean_absolute_error(truths, guesses),
        "r2": r2_score(truths, guesses),
        "pearson": pearsonr(guesses, truths).statistic,
        "spearman": spearmanr(guesses, truths).statistic,
    }
    assert found.values == pytest.approx(oracle, rel=1e-9, abs=1e-9)
    assert np.mean(found.examples["mae"]) == pytest.approx(oracle["mae"])
    drawn = [random.randrange(len(pairs)) for _ in pairs]
    again = [[repr(side[row]) for row in drawn] for side in (guesses, truths)]
    assume(min(map(len, map(set, again))) > 1)
    texts = [[repr(value) for value in side] for side in (guesses, truths)]
    for name, expected in (("pearson", pearsonr), ("r2", lambda x, y: r2_score(y, x))):
        metric = corpus_metric(name)
        value = metric.score(metric.statistics(*texts, ())[drawn].sum(axis=0))
        wanted = expected([guesses[row] for row in drawn], [truths[row] for row in drawn])
        assert value == pytest.approx(getattr(wanted, "statistic", wanted), rel=1e-9, abs=1e-9), name


def test_what_is_the_same_everywhere_has_no_correlation() -> None:
    values = value_metrics([1e6 + 0.1] * 9, [float(n) for n in range(9)]).values
    assert (values["pearson"], values["spearman"]) == (0.0, 0.0)
    assert value_metrics([4.0] * 9, [float(n) for n in range(9)]).values["r2"] == pytest.approx(0.0)
    assert value_metrics([2.0, 2.0], [2.0, 2.0]).values == {
        "mse": 0.0, "mae": 0.0, "r2": 1.0, "pearson": 0.0, "spearman": 0.0,
    }  # fmt: skip
    assert value_metrics([2.0, 3.0], [2.0, 2.0]).values["r2"] == 0.0
    assert value_metrics([2.0], [3.0]).values["mse"] == 1.0
    with pytest.raises(ValueError, match="one each is needed"):
        value_metrics([], [])


@pytest.mark.parametrize("true", [0.0, 0.5, 0.9])
def test_ranks_that_resamples_keep_give_the_spread_that_other_rows_would_have(true: float) -> None:
    draw, size = np.random.default_rng(0), 60
    found, resampled = [], []
    for trial in range(300):
        truths = draw.normal(size=size)
        numbers = rank_moments(true * truths + np.sqrt(1 - true**2) * draw.normal(size=size), truths)
        found.append(float(correlation(numbers.sum(axis=0))))
        if trial < 30:
            weights = draw.multinomial(size, np.full(size, 1 / size), size=200)
            resampled.append(np.std(correlation(weights @ numbers)))
    assert np.mean(resampled) == pytest.approx(np.std(found), rel=0.2)


@pytest.mark.parametrize("name", ["pearson", "spearman", "r2"])
def test_two_models_are_told_apart_by_rows(name: str) -> None:
    draw = np.random.default_rng(0)
    truths = draw.normal(50, 10, 200)
    texts = [[*map(repr, (truths + draw.normal(0, noise, 200)).tolist())] for noise in (2, 8, 8)]
    references = [*map(repr, truths.tolist())]
    samples = {
        label: corpus_sample(name, [guesses], references) for label, guesses in zip("abc", texts, strict=True)
    }
    bounds = intervals(samples)
    for label, sample in samples.items():
        assert bounds[label].low < sample.mean() < bounds[label].high <= 1.0
    ties = {(pair.a, pair.b): pair.tie for pair in pairwise(samples)}
    assert ties == {("a", "b"): False, ("a", "c"): False, ("b", "c"): True}


def test_a_metric_of_ones_own_is_one_function() -> None:
    @value_metric("largest_error", keys={"largest_error": False})
    def largest_error(predictions, references):
        pairs = zip(predictions, references, strict=True)
        return Scores({"largest_error": max(abs(guess - truth) for guess, truth in pairs)})

    try:
        assert value_metrics([1.0, 5.0], [2.0, 2.0], ["largest_error"]).values == {"largest_error": 3.0}
    finally:
        METRICS.remove("largest_error")
