"""Metrics of predicted numbers, in the data's units.

A new metric is one function with a decorator:

    @value_metric("worst", keys={"worst": False})
    def worst(predictions, references):
        return Scores({"worst": max(abs(x - y) for x, y in zip(predictions, references, strict=True))})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score
from deltatune.tasks.values import METRICS as VALUE_METRICS

ValueFunction = Callable[[Sequence[float], Sequence[float]], Scores]
"""(predictions, true numbers) to scores."""
_ROUNDING = 1e-13  # of a sum of squares: a variance that is a smaller share of it is none


def value_metric(
    name: str,
    keys: Mapping[str, bool | None],
    corpus: Mapping[str, CorpusMetric] | None = None,
    kinds: Sequence[str] = ("values",),
) -> Callable[[ValueFunction], ValueFunction]:
    """Register a metric of predicted against true numbers, in the data's units.

    Args:
        name: What a recipe calls it.
        keys: Its numbers, each with whether higher is better.
        corpus: How those that are no means over rows follow from sums over them.
        kinds: The kinds of answers that it is for.
    """

    def register(function: ValueFunction) -> ValueFunction:
        METRICS.add(name, Metric(keys, dict.fromkeys(kinds, function), corpus or {}))
        return function

    return register


def moments(predictions: Floats, references: Floats) -> Floats:
    """Per row 1, x, y, x^2, y^2 and xy of predicted numbers x and true ones y; [rows, 6].

    Both in standard deviations of the true ones from their mean: large numbers that differ little lose no
    digits, and rows of two models can be exchanged.
    """
    spread = references.std() or 1.0
    x, y = ((numbers - references.mean()) / spread for numbers in (predictions, references))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def rank_moments(predictions: Floats, references: Floats) -> Floats:
    """The `moments` of ranks; equal numbers share the mean of theirs."""
    return moments(ranks(predictions), ranks(references))


def ranks(numbers: Floats) -> Floats:
    """Ranks from the smallest number on, from 1; equal numbers share the mean of theirs."""
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    found: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return found


def correlation(sums: Floats) -> Floats:
    """Pearson's correlation; 0 where one side is the same number in all rows, which tells nothing."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    of_x, of_y = xx - x * x / count, yy - y * y / count
    varied = (of_x > _ROUNDING * xx) & (of_y > _ROUNDING * yy)
    below = np.sqrt(np.where(varied, of_x * of_y, 1.0))
    found: Floats = np.clip(np.where(varied, (xy - x * y / count) / below, 0.0), -1.0, 1.0)
    return found


def determination(sums: Floats) -> Floats:
    """R^2: 1 less squared errors by those of the true numbers' mean; where these are all the same, 1 or 0."""
    count, _, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    error, spread = np.maximum(xx - 2 * xy + yy, 0.0), yy - y * y / count
    varied = spread > _ROUNDING * yy
    exact = np.where(error <= _ROUNDING * (xx + yy), 1.0, 0.0)
    found: Floats = np.where(varied, 1.0 - error / np.where(varied, spread, 1.0), exact)
    return found


def _of_texts(rows: Callable[[Floats, Floats], Floats]) -> Callable[..., Floats]:
    """The same of numbers as they are written."""

    def statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
        guesses, truths = (np.array(list(map(float, texts))) for texts in (predictions, references))
        return rows(guesses, truths)

    return statistics


@value_metric("mse", keys={"mse": False})
def mse(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Mean squared error, in the square of the data's unit."""
    pairs = zip(predictions, references, strict=True)
    return Scores.per_example({"mse": [(guess - truth) ** 2 for guess, truth in pairs]})


@value_metric("mae", keys={"mae": False})
def mae(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Mean absolute error, in the data's unit."""
    pairs = zip(predictions, references, strict=True)
    return Scores.per_example({"mae": [abs(guess - truth) for guess, truth in pairs]})


@value_metric(
    "r2",
    keys={"r2": True},
    corpus={"r2": CorpusMetric(_of_texts(moments), determination, 1.0, -math.inf)},
)
def r2(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Share of the variance that is explained: 0 is as good as the rows' own mean, and 1 the best.

    Where all true numbers are the same it is 1 if each is met, and 0 else, as scikit-learn has it.
    """
    return Scores({"r2": float(determination(_sums(moments, predictions, references)))})


@value_metric(
    "pearson",
    keys={"pearson": True},
    corpus={"pearson": CorpusMetric(_of_texts(moments), correlation, 1.0, -1.0)},
    kinds=("values", "cosines"),
)
def pearson(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Pearson's correlation; 0 if one side is the same number in all rows."""
    return Scores({"pearson": float(correlation(_sums(moments, predictions, references)))})


@value_metric(
    "spearman",
    keys={"spearman": True},
    corpus={"spearman": CorpusMetric(_of_texts(rank_moments), correlation, 1.0, -1.0)},
    kinds=("values", "cosines"),
)
def spearman(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Spearman's correlation of ranks; 0 if one side is the same number in all rows."""
    return Scores({"spearman": float(correlation(_sums(rank_moments, predictions, references)))})


def _sums(
    rows: Callable[[Floats, Floats], Floats], predictions: Sequence[float], references: Sequence[float]
) -> Floats:
    sums: Floats = rows(np.array(predictions, dtype=float), np.array(references, dtype=float)).sum(axis=0)
    return sums


def value_metrics(
    predictions: Sequence[float], references: Sequence[float], names: Sequence[str] | None = None
) -> Scores:
    """Score predicted numbers (one a row) against the true ones.

    Args:
        predictions: One a row.
        references: The true ones.
        names: Names of metrics; by default all of numbers.

    Raises:
        ValueError: Unequal numbers of both, or none.
    """
    return score("values", names or VALUE_METRICS, predictions, references)
