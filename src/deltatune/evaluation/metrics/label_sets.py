"""Metrics of sets of labels.

A new metric is one function with a decorator:

    @label_set_metric("mean_size", keys={"mean_size": None})
    def mean_size(predictions, references, labels, chances):
        return Scores.per_example({"mean_size": [float(len(given)) for given in predictions]})
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.metrics.confusion import macro_f1 as macro_f1_score
from deltatune.evaluation.metrics.curves import CURVES, Curve
from deltatune.evaluation.metrics.registry import Scores, add_function, score
from deltatune.tasks.label_sets import METRICS as NAMES
from deltatune.tasks.label_sets import labels_of

Sets = Sequence[Collection[str]]
LabelSetFunction = Callable[[Sets, Sets, Sequence[str], Floats], Scores]
"""(predicted sets, true sets, all labels, probabilities [rows, labels]) to scores."""
Flags = NDArray[np.bool_]
KIND = "label_sets"
RANKED: Mapping[str, Curve] = {"average_precision": CURVES["average_precision"]}
"""Metrics of the order of rows, by key: no function of sums, so that resamples weigh the rows."""


def label_set_metric(
    name: str, keys: Mapping[str, bool | None], corpus: Mapping[str, CorpusMetric] | None = None
) -> Callable[[LabelSetFunction], LabelSetFunction]:
    """Register a metric of predicted against true sets of labels; other kinds may have one of its name."""

    def register(function: LabelSetFunction) -> LabelSetFunction:
        add_function(name, keys, KIND, function, corpus)
        return function

    return register


def counts(predictions: Sets, references: Sets, labels: Sequence[str]) -> Floats:
    """Per row and label: is it right, given, true; [rows, 3, labels].

    Labels that are true of a row and that no model knows come behind the others: they are missed.
    """
    strange = {label for truth in references for label in truth} - set(labels)
    places = {label: place for place, label in enumerate((*labels, *sorted(strange)))}
    found = np.zeros((len(references), 3, len(places)))
    for row, (given, truth) in enumerate(zip(predictions, references, strict=True)):
        found[row, 1, [places[label] for label in given]] = 1
        found[row, 2, [places[label] for label in truth]] = 1
    found[:, 0] = found[:, 1] * found[:, 2]
    return found


def by_label(references: Sets, chances: Floats, labels: Sequence[str]) -> tuple[Floats, Flags]:
    """How likely each label is, and whether it is true, [rows, labels] each.

    Labels that are true of a row and that no model knows come behind the others: they are impossible to it.
    """
    truths = counts([()] * len(references), references, labels)[:, 2] > 0
    strange = np.zeros((len(references), truths.shape[1] - len(labels)))
    return np.concatenate([chances, strange], axis=1), truths


def _micro_score(sums: Floats) -> Floats:
    """F1 of sums [..., 3]; 0 where no label is given or true, as scikit-learn has it."""
    right, given, true = np.moveaxis(sums, -1, 0)
    scores: Floats = 2 * right / np.maximum(given + true, 1e-300)
    return scores


def _of_texts(rows: Callable[[Floats], Floats]) -> Callable[..., Floats]:
    """Numbers of rows whose sets are written as predictions.jsonl has them."""

    def statistics(
        predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
    ) -> Floats:
        given, true = ([labels_of(text) for text in texts] for texts in (predictions, references))
        return rows(counts(given, true, labels))

    return statistics


def _over_labels(found: Floats) -> Floats:
    return found.sum(axis=2)


def _by_label(found: Floats) -> Floats:
    return found.reshape(len(found), -1)


@label_set_metric(
    "micro_f1",
    keys={"micro_f1": True},
    corpus={"micro_f1": CorpusMetric(_of_texts(_over_labels), _micro_score, 1.0)},
)
def micro_f1(predictions: Sets, references: Sets, labels: Sequence[str], _: Floats) -> Scores:
    """F1 of all labels of all rows together: frequent labels weigh more.

    Equals scikit-learn's `f1_score(references, predictions, average="micro", zero_division=0)`.
    """
    sums = _over_labels(counts(predictions, references, labels)).sum(axis=0)
    return Scores({"micro_f1": float(_micro_score(sums))})


@label_set_metric(
    "macro_f1",
    keys={"macro_f1": True},
    corpus={"macro_f1": CorpusMetric(_of_texts(_by_label), macro_f1_score, 1.0)},
)
def macro_f1(predictions: Sets, references: Sets, labels: Sequence[str], _: Floats) -> Scores:
    """Unweighted mean of F1 over labels; one that no row has and none is given is left out."""
    sums = _by_label(counts(predictions, references, labels)).sum(axis=0)
    return Scores({"macro_f1": float(macro_f1_score(sums))})


@label_set_metric("average_precision", keys={"average_precision": True})
def average_precision(_: Sets, references: Sets, labels: Sequence[str], chances: Floats) -> Scores:
    """Mean average precision (mAP): that of each label's order of the rows, over labels that a row has.

    Equals the mean of scikit-learn's `average_precision_score` over these labels. No threshold is in it.
    """
    value = RANKED["average_precision"].value(*by_label(references, chances, labels))
    return Scores({"average_precision": value}, signatures={"average_precision": "mean:labels"})


@label_set_metric("exact_match", keys={"exact_match": True})
def exact_match(predictions: Sets, references: Sets, labels: Sequence[str], _: Floats) -> Scores:
    """Share of rows whose labels are all given, and no other (subset accuracy)."""
    pairs = zip(predictions, references, strict=True)
    return Scores.per_example({"exact_match": [float(set(given) == set(true)) for given, true in pairs]})


def label_set_metrics(
    predictions: Sets,
    references: Sets,
    chances: Floats,
    labels: Sequence[str],
    names: Sequence[str] | None = None,
) -> Scores:
    """Score predicted sets of labels, one a row, against the true ones.

    Args:
        predictions: One a row.
        references: The true ones; they may hold labels that are not among `labels`.
        chances: Probability of each label, [rows, labels].
        labels: All that a model can give.
        names: Names of metrics; by default all of sets of labels.

    Raises:
        ValueError: Unequal numbers of predictions and references, or none.
    """
    return score(KIND, NAMES if names is None else names, predictions, references, labels, chances)
