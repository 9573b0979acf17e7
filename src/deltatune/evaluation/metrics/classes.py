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
from typing import Any

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.generation import Generation
from deltatune.evaluation.metrics import confusion
from deltatune.evaluation.metrics.chances import BINS, CHANCES, ChanceMetric, ClassChances
from deltatune.evaluation.metrics.confusion import class_counts
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score
from deltatune.evaluation.metrics.texts import squeeze
from deltatune.tasks.classes import BINARY
from deltatune.tasks.classes import METRICS as CLASS_METRICS

ClassFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], Scores]
"""(predictions, labels, all classes of the data) to scores."""


def class_metric(
    name: str, keys: Mapping[str, bool | None], corpus: Mapping[str, CorpusMetric] | None = None
) -> Callable[[ClassFunction], ClassFunction]:
    """Register a metric of predicted against true labels; generated texts are compared as labels."""

    def register(function: ClassFunction) -> ClassFunction:
        def of_labels(
            predictions: Sequence[str], labels: Sequence[str], classes: Sequence[str], _: Any
        ) -> Scores:
            return function(predictions, labels, classes)

        functions: dict[str, Callable[..., Scores]] = {"classes": of_labels, "text": _on_text(function)}
        METRICS.add(name, Metric(keys, functions, corpus or {}))
        return function

    return register


def _on_text(function: ClassFunction) -> Callable[[Sequence[Generation], Sequence[str]], Scores]:
    def score(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
        labels = [squeeze(text) for text in references]
        return function([squeeze(g.text) for g in generations], labels, sorted(set(labels)))

    return score


@class_metric("accuracy", keys={"accuracy": True})
def accuracy(predictions: Sequence[str], labels: Sequence[str], _: Sequence[str]) -> Scores:
    """Share of rows with the right label. A generated text must be the label, but for whitespace."""
    pairs = zip(predictions, labels, strict=True)
    return Scores.per_example({"accuracy": [float(guess == label) for guess, label in pairs]})


@class_metric(
    "macro_f1",
    keys={"macro_f1": True},
    corpus={"macro_f1": CorpusMetric(class_counts, confusion.macro_f1, 1.0)},
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


def _count_metric(key: str, score: Callable[[Floats], Floats], low: float = 0.0) -> None:
    """Register a metric that follows from sums of `class_counts`, and is between `low` and 1."""

    def function(predictions: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Scores:
        value = float(score(class_counts(predictions, labels, classes).sum(axis=0)))
        return Scores({key: value}, signatures=_signed(key, classes))

    class_metric(key, {key: True}, {key: CorpusMetric(class_counts, score, 1.0, low)})(function)


def _chance_metric(key: str, metric: ChanceMetric, *, higher: bool) -> None:
    """Register a metric of the probabilities of classes."""

    def function(
        predictions: Sequence[str],
        labels: Sequence[str],
        classes: Sequence[str],
        probabilities: Sequence[Mapping[str, float]] | None,
    ) -> Scores:
        if probabilities is None:
            raise ValueError(f"{key} needs the probabilities of the classes.")
        value = metric.value(ClassChances.of(probabilities, predictions, labels, classes))
        return Scores({key: value}, signatures=_signed(key, classes))

    METRICS.add(key, Metric({key: higher}, {"classes": function}, chances={key: metric}))


def _signed(key: str, classes: Sequence[str]) -> dict[str, str]:
    """What must be known to compare the numbers with others'."""
    binary = len(classes) == BINARY
    side = f"positive:{classes[1]}" if binary else "mean:classes"
    signatures = {
        "sensitivity": side,
        "specificity": side,
        "average_precision": side,
        "roc_auc": "classes:2" if binary else "each:against-rest|mean:classes",
        "ece": f"bins:{BINS}|width:equal|of:highest",
        "brier": "of:positive" if binary else "sum:classes",
    }
    return {key: signatures[key]} if key in signatures else {}


_count_metric("mcc", confusion.matthews, -1.0)
_count_metric("balanced_accuracy", confusion.balanced_accuracy)
_count_metric("sensitivity", confusion.sensitivity)
_count_metric("specificity", confusion.specificity)
for _key, _metric in CHANCES.items():
    _chance_metric(_key, _metric, higher=_metric.higher)


def classification_metrics(
    predictions: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    probabilities: Sequence[Mapping[str, float]] | None = None,
) -> Scores:
    """Score predicted labels (names, one a row) against the true ones.

    Args:
        predictions: One a row.
        labels: The true ones.
        names: Names of metrics; by default all of classes.
        classes: All classes of the data, of two the positive one behind; by default those among `labels`.
        probabilities: Of each row by class, for metrics of these.

    Raises:
        ValueError: Unequal numbers of predictions and labels, or none; or a metric lacks probabilities.
    """
    known = classes or sorted(set(labels))
    return score("classes", names or CLASS_METRICS, predictions, labels, known, probabilities)
