"""Metrics of the probabilities that a classifier gives: how well they order rows, and whether they hold.

They are computed of probabilities as predictions.jsonl has them: to six digits, of the 100 most probable
classes (`MOST_CLASSES`). A class that is not among these counts as impossible in that row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from deltatune.evaluation.metrics.curves import CURVES, Curve
from deltatune.tasks.classes import BINARY

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Table = TypeVar("Table", Floats, Flags)
MOST_CLASSES = 100
"""So many probabilities of a row are kept: a line stays readable with a thousand classes."""
BINS = 15
"""Of equal width, as Guo et al. 2017."""


class ClassChances(NamedTuple):
    """What a run gave for rows."""

    table: Floats
    """Probabilities, [rows, classes]."""
    truths: Flags
    """Which class each row is of, [rows, classes]; none of them if its label is no class."""
    right: Floats
    """1 where the answer is right, else 0, [rows]."""

    @classmethod
    def of(
        cls,
        probabilities: Sequence[Mapping[str, float]],
        predictions: Sequence[str],
        references: Sequence[str],
        classes: Sequence[str],
    ) -> ClassChances:
        """Of rows as predictions.jsonl has them.

        Args:
            probabilities: By class, of each row.
            predictions: The answers.
            references: The true classes.
            classes: All classes in order, of two the positive one behind.
        """
        places = {label: place for place, label in enumerate(classes)}
        table = np.zeros((len(references), len(classes)))
        truths = np.zeros(table.shape, dtype=bool)
        for row, (of_row, reference) in enumerate(zip(probabilities, references, strict=True)):
            for label, probability in of_row.items():
                if label in places:
                    table[row, places[label]] = probability
            if reference in places:
                truths[row, places[reference]] = True
        right = [float(guess == truth) for guess, truth in zip(predictions, references, strict=True)]
        return cls(table, truths, np.array(right))


def ranked_classes(table: Table) -> Table:
    """The columns that are held against the rest: of two classes the second, the positive one, alone."""
    return table[:, 1:] if table.shape[1] == BINARY else table


def odds(probabilities: Floats) -> Floats:
    """What orders rows as the probabilities [rows, classes] do, but tells those near 1 apart as well.

    To six digits a probability is soon 1, while that of the other classes still tells. Ratios are rounded to
    those of float32, lest the order in which they were added up break ties.
    """
    upward, downward = np.zeros_like(probabilities), np.zeros_like(probabilities)
    np.cumsum(probabilities[:, :-1], axis=1, out=upward[:, 1:])
    np.cumsum(probabilities[:, :0:-1], axis=1, out=downward[:, -2::-1])
    others = upward + downward  # without a difference, which would lose the digits of small ones
    if probabilities.shape[1] > MOST_CLASSES:  # and what is left to classes that are not written
        others += np.maximum(1 - probabilities.sum(axis=1, keepdims=True), 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratios = np.where(probabilities > 0, probabilities / others, 0.0).astype(np.float32)
    return ratios.astype(np.float64)


def brier_counts(given: ClassChances) -> Floats:
    """Squared differences of a row's probabilities from 1 for its class and 0 for others; and 1. [rows, 2].

    Summed over the classes, 0 to 2 (Brier 1950); of two classes half of that, which is the squared error of
    the positive one's probability. As scikit-learn has it.
    """
    scores = ((given.table - given.truths) ** 2).sum(axis=1)
    scores = scores / 2 if given.table.shape[1] == BINARY else scores
    return np.stack([scores, np.ones_like(scores)], axis=1)


def mean_of(sums: Floats) -> Floats:
    """Sums of scores and of their number to the mean."""
    found: Floats = sums[..., 0] / sums[..., 1]
    return found


def bins_of(confidence: Floats) -> NDArray[np.intp]:
    """The bin of each confidence; bins have their upper ends, 1/15, 2/15, ..., in them."""
    return np.searchsorted(np.arange(1, BINS) / BINS, confidence, side="left")


def calibration_gaps(given: ClassChances) -> Floats:
    """By bin of the highest probability: whether the answer is right, less that probability; and 1.

    Returns:
        [rows, bins + 1], of which sums are taken.
    """
    confidence = given.table.max(axis=1)
    found = np.zeros((len(confidence), BINS + 1))
    found[np.arange(len(confidence)), bins_of(confidence)] = given.right - confidence
    found[:, BINS] = 1
    return found


def calibration_error(sums: Floats) -> Floats:
    """Expected calibration error: how far accuracy is from confidence in a bin, averaged over rows; 0 to 1.

    Guo et al. 2017, "On calibration of modern neural networks". It is biased: with few rows to a bin even a
    calibrated model has one above 0, and the more so the fewer rows there are (Roelofs et al. 2022). So it is
    compared among models on the same rows.
    """
    found: Floats = np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]
    return found


@dataclass(frozen=True)
class ByRank:
    """What the order of the rows comes to."""

    curve: Curve
    higher: bool = True
    """Whether higher is better."""

    def scores(self, given: ClassChances) -> tuple[Floats, Flags]:
        """How likely each row is of each class that counts, and whether it is of it, [rows, classes] each."""
        return ranked_classes(odds(given.table)), ranked_classes(given.truths)

    def value(self, given: ClassChances) -> float:
        """The metric of all rows."""
        return self.curve.value(*self.scores(given))


@dataclass(frozen=True)
class BySums:
    """What follows from sums over rows."""

    statistics: Callable[[ClassChances], Floats]
    """The numbers that are summed, [rows, numbers]."""
    score: Callable[[Floats], Floats]
    """Sums [..., numbers] to scores [...]."""
    high: float = 1.0
    """The worst possible score; the best is 0."""
    biased: bool = False
    """Whether it leans to one side with few rows."""
    higher: bool = False
    """Whether higher is better."""

    def value(self, given: ClassChances) -> float:
        """The metric of all rows."""
        return float(self.score(self.statistics(given).sum(axis=0)))


ChanceMetric = ByRank | BySums
CHANCES: dict[str, ChanceMetric] = {
    "roc_auc": ByRank(CURVES["roc_auc"]),
    "average_precision": ByRank(CURVES["average_precision"]),
    "ece": BySums(calibration_gaps, calibration_error, biased=True),
    "brier": BySums(brier_counts, mean_of, high=2.0),
}
"""By metric key.

`roc_auc`: the share of pairs of a row of the class and one of another in which the first has the higher
probability, equal ones counting half; of more than two classes of each against the rest, averaged over those
that have rows on both sides (0.5 if none has). `average_precision`: precision at the probability of each row
of the class, on average, without interpolation; of two classes of the positive one, of more the mean over
those that have rows (0 if none has). All as scikit-learn has them.
"""
