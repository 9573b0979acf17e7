"""Metrics of classes that follow from counts: how often each is predicted, is true, and both.

Counts add up over rows, so that resampled test sets can be scored. Of two classes the second is the positive
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deltatune.tasks.classes import BINARY

Floats = NDArray[np.float64]


def class_counts(
    predictions: Sequence[str], references: Sequence[str], classes: Sequence[str] = ()
) -> Floats:
    """Per row and class: is it right, predicted, true; [rows, 3 x classes].

    Args:
        predictions: One a row.
        references: One a row.
        classes: All classes of the data in order. None of texts, whose classes are those of the references;
            runs of whitespace in them count as one space.
    """
    if not classes:
        predictions, references = (
            [" ".join(text.split()) for text in texts] for texts in (predictions, references)
        )
    places = {label: place for place, label in enumerate(classes or sorted(set(references)))}
    found = np.zeros((len(references), 3, len(places)))
    for row, (guess, truth) in enumerate(zip(predictions, references, strict=True)):
        if truth in places:
            found[row, 2, places[truth]] = 1
            found[row, 0, places[truth]] = guess == truth
        if guess in places:
            found[row, 1, places[guess]] = 1
    return found.reshape(len(references), -1)


def macro_f1(sums: Floats) -> Floats:
    """Unweighted mean of F1 over the classes that occur in the (resampled) references or predictions."""
    right, guessed, true = _counts(sums)
    there = guessed + true > 0
    return _macro(2 * right / np.maximum(guessed + true, 1e-300), there)


def _counts(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Rows that are rightly predicted, predicted, and true of each class, [..., classes] each."""
    right, guessed, true = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return right, guessed, true


def matthews(sums: Floats) -> Floats:
    """Matthews' correlation of predicted and true classes (Gorodkin 2004 for more than two); -1 to 1.

    0 where all rows are of one class, or predicted to be. Answers that are no class count as one more.
    """
    right, guessed, true = _counts(sums)
    rows = true.sum(axis=-1)
    others = rows - guessed.sum(axis=-1)
    both = right.sum(axis=-1) * rows - (guessed * true).sum(axis=-1)
    of_guesses = rows**2 - (guessed**2).sum(axis=-1) - others**2
    of_truths = rows**2 - (true**2).sum(axis=-1)
    varied = (of_guesses > 0) & (of_truths > 0)
    below = np.sqrt(np.where(varied, of_guesses * of_truths, 1.0))
    found: Floats = np.clip(np.where(varied, both / below, 0.0), -1.0, 1.0)
    return found


def recalls(sums: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of each class's rows that are predicted to be of it, and whether it has rows, [..., classes]."""
    right, _, true = _counts(sums)
    return right / np.where(true > 0, true, 1.0), true > 0


def rejections(sums: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of other classes' rows that are not predicted to be of each, and whether there are such rows."""
    right, guessed, true = _counts(sums)
    others = true.sum(axis=-1, keepdims=True) - true
    wrong = guessed - right
    return 1 - wrong / np.where(others > 0, others, 1.0), others > 0


def balanced_accuracy(sums: Floats) -> Floats:
    """Mean over the classes that have rows of the share of their rows that is right."""
    return _macro(*recalls(sums))


def sensitivity(sums: Floats) -> Floats:
    """Recall of the positive class of two; of more the mean over classes, which is balanced accuracy."""
    return _of_positive(*recalls(sums))


def specificity(sums: Floats) -> Floats:
    """Share of the negative class that is right; of more than two, of all other classes, averaged."""
    return _of_positive(*rejections(sums))


def _of_positive(shares: Floats, there: NDArray[np.bool_]) -> Floats:
    if shares.shape[-1] != BINARY:
        return _macro(shares, there)
    return _macro(shares[..., 1:], there[..., 1:])


def _macro(shares: Floats, there: NDArray[np.bool_]) -> Floats:
    """Mean of the shares that there are; 0 if there are none."""
    found: Floats = np.where(there, shares, 0.0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return found
