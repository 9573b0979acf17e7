"""Metrics of tagged words: entities that are found as a whole, and words with the right tag.

Which entities tags mean, also ill-formed ones, is seqeval's default (`deltatune.tasks.tags`). Scores follow
from sums over rows, so that resampled rows can be scored; seqeval gives none, so it is what tests compare
with.

A new metric is one function with a decorator:

    @tag_metric("sentences", keys={"sentences": True})
    def sentences(predictions, references, labels):
        pairs = zip(predictions, references, strict=True)
        return Scores.per_example({"sentences": [float(guess == truth) for guess, truth in pairs]})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score
from deltatune.tasks.tags import Tagging

TagFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], Scores]
"""(predicted tags of each row, true ones, all tags of the data) to scores; blanks stand between tags."""
SIGNATURE = "average:micro|mode:default"
"""What seqeval calls it."""


def tag_metric(
    name: str, keys: Mapping[str, bool | None], corpus: Mapping[str, CorpusMetric] | None = None
) -> Callable[[TagFunction], TagFunction]:
    """Register a metric of predicted against true tags."""

    def register(function: TagFunction) -> TagFunction:
        METRICS.add(name, Metric(keys, {"tags": function}, corpus or {}))
        return function

    return register


def entity_counts(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Floats:
    """Per row and class of entities: how many are right, predicted, true; [rows, 3, classes + 1].

    Args:
        predictions: The tags of each row, with blanks between.
        references: The true ones.
        labels: All tags of the data; those of the references count anyway. What is predicted beyond them is
            of the last class.
    """
    truths = [text.split() for text in references]
    known = {*labels, *(tag for tags in truths for tag in tags)}
    tagging = Tagging.of(labels or known)
    classes = {label: index for index, label in enumerate(tagging.classes(known))}
    counts = np.zeros((len(truths), 3, len(classes) + 1))
    for row, (text, truth) in enumerate(zip(predictions, truths, strict=True)):
        for label, of_class in tagging.counts(text.split(), truth).items():
            counts[row, :, classes.get(label, len(classes))] += of_class
    return counts


def micro_statistics(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Floats:
    """Per row: entities that are right, predicted, true; [rows, 3]."""
    counts: Floats = entity_counts(predictions, references, labels).sum(axis=-1)
    return counts


def macro_statistics(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Floats:
    """The same for each class; [rows, 3 x (classes + 1)]."""
    return entity_counts(predictions, references, labels).reshape(len(references), -1)


def precision_score(sums: Floats) -> Floats:
    """Share of the predicted entities that are right; 0 if none is predicted."""
    return _share(sums[..., 0], sums[..., 1])


def recall_score(sums: Floats) -> Floats:
    """Share of the true entities that are found; 0 if there are none."""
    return _share(sums[..., 0], sums[..., 2])


def f1_score(sums: Floats) -> Floats:
    """The harmonic mean of both; 0 if there is no entity at all."""
    return _share(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def macro_f1_score(sums: Floats) -> Floats:
    """Unweighted mean of F1 over the classes that occur in the (resampled) references or predictions."""
    by_class = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, -1)
    there = by_class[..., 1] + by_class[..., 2] > 0
    mean: Floats = np.where(there, f1_score(by_class), 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return mean


def word_statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
    """Per row: words with the right tag, and words; [rows, 2]."""
    pairs = [(text.split(), truth.split()) for text, truth in zip(predictions, references, strict=True)]
    right = [sum(map(str.__eq__, guessed, true)) for guessed, true in pairs]
    return np.array([right, [len(true) for _, true in pairs]], dtype=np.float64).T


def accuracy_score(sums: Floats) -> Floats:
    """Share of the words with the right tag."""
    return _share(sums[..., 0], sums[..., 1])


def _share(part: Floats, of: Floats) -> Floats:
    share: Floats = np.where(of > 0, part / np.where(of > 0, of, 1.0), 0.0)
    return share


ENTITY = {
    "entity_f1": CorpusMetric(micro_statistics, f1_score, 1.0),
    "entity_precision": CorpusMetric(micro_statistics, precision_score, 1.0),
    "entity_recall": CorpusMetric(micro_statistics, recall_score, 1.0),
    "entity_macro_f1": CorpusMetric(macro_statistics, macro_f1_score, 1.0),
}
WORD = {"token_accuracy": CorpusMetric(word_statistics, accuracy_score, 1.0)}


@tag_metric("entity", keys=dict.fromkeys(ENTITY, True), corpus=ENTITY)
def entity(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Scores:
    """Entities whose class, first and last word are right: precision, recall and F1 over all of them.

    `entity_macro_f1` is the unweighted mean of the F1 of each class that is there or predicted. They equal
    seqeval's `precision_score`, `recall_score` and `f1_score` in its default mode.
    """
    counts = entity_counts(predictions, references, labels).sum(axis=0)
    of_all = counts.sum(axis=-1)
    return Scores(
        {
            "entity_f1": float(f1_score(of_all)),
            "entity_precision": float(precision_score(of_all)),
            "entity_recall": float(recall_score(of_all)),
            "entity_macro_f1": float(macro_f1_score(counts.reshape(-1))),
        },
        signatures={"entity": SIGNATURE},
    )


@tag_metric("token_accuracy", keys={"token_accuracy": True}, corpus=WORD)
def token_accuracy(predictions: Sequence[str], references: Sequence[str], _: Sequence[str]) -> Scores:
    """Share of all words with the right tag, O included: high where few words are in entities."""
    sums = word_statistics(predictions, references).sum(axis=0)
    return Scores({"token_accuracy": float(accuracy_score(sums))})


def tag_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Scores:
    """Score predicted tags against the true ones.

    Args:
        predictions: The tags of each row, with blanks between.
        references: The true ones.
        names: Names of metrics; by default all of tags.
        labels: All tags of the data; by default those of both sides.

    Raises:
        ValueError: Unequal numbers of rows, or none.
    """
    known = sorted({tag for text in (*predictions, *references) for tag in text.split()})
    return score("tags", names or ("entity", "token_accuracy"), predictions, references, labels or known)
