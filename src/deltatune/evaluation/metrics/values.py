"""Metrics of predicted numbers, in the data's units.

A new metric is one function with a decorator:

    @value_metric("worst", keys={"worst": False})
    def worst(predictions, references):
        return Scores({"worst": max(abs(x - y) for x, y in zip(predictions, references, strict=True))})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score
from deltatune.tasks.values import METRICS as VALUE_METRICS
from deltatune.tasks.values import numbers_of

ValueFunction = Callable[[Sequence[float], Sequence[float]], Scores]
"""(predictions, true numbers) to scores."""
_MOMENTS = 6
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
    """The same of numbers as they are written; of several, those of each target side by side."""

    def statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
        guesses, truths = (
            np.array([list(numbers_of(text).values()) for text in texts]).T
            for texts in (predictions, references)
        )
        return np.concatenate([rows(*pair) for pair in zip(guesses, truths, strict=True)], axis=1)

    return statistics


def _over_targets(score: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """The mean of a score of `moments` over targets, whose sums stand side by side."""

    def mean(sums: Floats) -> Floats:
        of_targets: Floats = score(sums.reshape(*sums.shape[:-1], -1, _MOMENTS)).mean(axis=-1)
        return of_targets

    return mean


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
    corpus={"r2": CorpusMetric(_of_texts(moments), _over_targets(determination), 1.0, -math.inf)},
)
def r2(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Share of the variance that is explained: 0 is as good as the rows' own mean, and 1 the best.

    Where all true numbers are the same it is 1 if each is met, and 0 else, as scikit-learn has it.
    """
    return Scores({"r2": float(determination(_sums(moments, predictions, references)))})


@value_metric(
    "pearson",
    keys={"pearson": True},
    corpus={"pearson": CorpusMetric(_of_texts(moments), _over_targets(correlation), 1.0, -1.0)},
    kinds=("values", "cosines"),
)
def pearson(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Pearson's correlation; 0 if one side is the same number in all rows."""
    return Scores({"pearson": float(correlation(_sums(moments, predictions, references)))})


@value_metric(
    "spearman",
    keys={"spearman": True},
    corpus={"spearman": CorpusMetric(_of_texts(rank_moments), _over_targets(correlation), 1.0, -1.0)},
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


def target_metrics(
    predictions: Sequence[Mapping[str, float]],
    references: Sequence[Mapping[str, float]],
    names: Sequence[str] | None = None,
) -> Scores:
    """Score the numbers of rows by target (`deltatune.tasks.values.numbers_of`).

    Of several targets a metric is the mean over them, each in its own units, as scikit-learn's
    `uniform_average`; and besides, under `mae[price]`, that of each.

    Args:
        predictions: By target, one mapping a row.
        references: The true ones.
        names: Names of metrics; by default all of numbers.

    Raises:
        ValueError: Unequal numbers of both, or none.
    """
    if len(predictions) != len(references) or not references:
        return value_metrics([], [], names)  # which says so
    each = {
        target: value_metrics(_column(predictions, target), _column(references, target), names)
        for target in references[0]
    }
    if "" in each:
        return each[""]
    first, scores = next(iter(each.values())), list(each.values())
    values = {key: fmean(of.values[key] for of in scores) for key in first.values}
    for key in first.values:
        values |= {f"{key}[{target}]": of.values[key] for target, of in each.items()}
    examples = {
        key: [fmean(row) for row in zip(*(of.examples[key] for of in scores), strict=True)]
        for key in first.examples
    }
    return Scores(values, examples, first.signatures)


def _column(rows: Sequence[Mapping[str, float]], target: str) -> list[float]:
    return [row[target] for row in rows]
