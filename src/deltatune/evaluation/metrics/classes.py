"""Metrics of predicted classes.

A new metric is one function with a decorator:

    @class_metric("errors", keys={"errors": False})
    def errors(predictions, labels, classes):
        pairs = zip(predictions, labels, strict=True)
        return Scores.per_example({"errors": [float(guess != label) for guess, label in pairs]})
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.generation import Generation
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score
from deltatune.evaluation.metrics.texts import squeeze
from deltatune.tasks.classes import METRICS as CLASS_METRICS

ClassFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], Scores]
"""(predictions, labels, all classes of the data) to scores."""


def class_metric(
    name: str, keys: Mapping[str, bool | None], corpus: Mapping[str, CorpusMetric] | None = None
) -> Callable[[ClassFunction], ClassFunction]:
    """Register a metric of predicted against true labels; generated texts are compared as labels."""

    def register(function: ClassFunction) -> ClassFunction:
        functions: dict[str, Callable[..., Scores]] = {"classes": function, "text": _on_text(function)}
        METRICS.add(name, Metric(keys, functions, corpus or {}))
        return function

    return register


def _on_text(function: ClassFunction) -> Callable[[Sequence[Generation], Sequence[str]], Scores]:
    def score(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
        labels = [squeeze(text) for text in references]
        return function([squeeze(g.text) for g in generations], labels, sorted(set(labels)))

    return score


def macro_f1_statistics(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Floats:
    """Per row and class: is it right, predicted, true; [rows, 3 x classes].

    Args:
        predictions: One a row.
        references: One a row.
        labels: All classes of the data; those of the references count anyway.
    """
    guesses, truths = ([" ".join(text.split()) for text in texts] for texts in (predictions, references))
    known = {*truths, *(" ".join(label.split()) for label in labels)}
    classes = {label: index for index, label in enumerate(sorted(known))}
    found = np.zeros((len(truths), 3, len(classes)))
    for row, (guess, truth) in enumerate(zip(guesses, truths, strict=True)):
        found[row, 2, classes[truth]] = 1
        if guess in classes:
            found[row, 1, classes[guess]] = 1
        if guess == truth:
            found[row, 0, classes[truth]] = 1
    return found.reshape(len(truths), -1)


def macro_f1_score(sums: Floats) -> Floats:
    """Unweighted mean of F1 over the classes that occur in the (resampled) references or predictions."""
    right, guessed, true = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    there = guessed + true > 0
    f1 = 2 * right / np.maximum(guessed + true, 1e-300)
    scores: Floats = np.where(there, f1, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return scores


@class_metric("accuracy", keys={"accuracy": True})
def accuracy(predictions: Sequence[str], labels: Sequence[str], _: Sequence[str]) -> Scores:
    """Share of rows with the right label. A generated text must be the label, but for whitespace."""
    pairs = zip(predictions, labels, strict=True)
    return Scores.per_example({"accuracy": [float(guess == label) for guess, label in pairs]})


@class_metric(
    "macro_f1",
    keys={"macro_f1": True},
    corpus={"macro_f1": CorpusMetric(macro_f1_statistics, macro_f1_score, 1.0)},
)
def macro_f1(predictions: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Scores:
    """Unweighted mean of F1 over all classes of the data, those without a row among the labels included.

    Predicting such a class is an F1 of 0 for it. A class that is neither among the labels nor predicted has
    no F1 and is left out, or the best possible predictions could not reach 1. A prediction that is no class
    (a generated text may be anything; of texts the classes are those of the labels) is a miss of the true
    one.
    Equals scikit-learn's `f1_score(labels, predictions, labels=classes, average="macro", zero_division=nan)`.
    """
    right = Counter(label for guess, label in zip(predictions, labels, strict=True) if guess == label)
    guessed, true = Counter(predictions), Counter(labels)
    there = [label for label in classes if guessed[label] or true[label]]
    scores = [2 * right[label] / (guessed[label] + true[label]) for label in there]
    return Scores({"macro_f1": sum(scores) / len(scores)})


def classification_metrics(
    predictions: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Scores:
    """Score predicted labels (names, one a row) against the true ones.

    Args:
        predictions: One a row.
        labels: The true ones.
        names: Names of metrics; by default all of classes.
        classes: All classes of the data; by default those among `labels`.

    Raises:
        ValueError: Unequal numbers of predictions and labels, or none.
    """
    return score("classes", names or CLASS_METRICS, predictions, labels, classes or sorted(set(labels)))
