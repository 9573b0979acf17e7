"""Answers that are sets of labels: those whose probabilities reach a threshold.

One threshold holds for all labels. It is the one with the highest F1 over all labels of the validation rows.
One for each label is better where outputs are badly calibrated against each other and there are hundreds of
validation rows; elsewhere it is worse, for a label may have five of them (`benchmarks/thresholds.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deltatune.evaluation.corpus import Floats
from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, mean
from deltatune.evaluation.metrics.label_sets import label_set_metrics
from deltatune.tasks.label_sets import HALF, as_text, labels_of, losses_of_rows
from deltatune.tasks.task import Row

Flags = NDArray[np.bool_]
DIGITS = 6
"""Of a probability, or of what it lacks to 1, as it is written."""
_SMALLEST = 1e-12


class LabelSets(Kind):
    """The labels of each row; the loss is binary cross-entropy, the mean over labels, in nats."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The labels of each row, and the probability of each."""
        labels = _labels(job)
        chances, _ = judge(job)
        given = _given(chances, _threshold(job), labels)
        return [_answer(names, row, labels) for names, row in zip(given, chances, strict=True)]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Give labels and score them, in one pass."""
        labels = _labels(job)
        chances, losses = judge(job)
        given = _given(chances, _threshold(job), labels)
        true = [_in_order(labels_of(row.target), labels) for row in rows]
        return Scored(
            [_answer(names, row, labels) for names, row in zip(given, chances, strict=True)],
            [as_text(names) for names in true],
            label_set_metrics(given, true, chances, labels, scoring(keys)),
            losses if "loss" in keys else (),
            {"loss": mean(losses)} if "loss" in keys else None,
        )

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss a row, and the metrics of these rows with the threshold that is best for them."""
        labels = _labels(job)
        chances, losses = judge(job)
        truth = _truth(job)
        given = _given(chances, best_threshold(chances, truth), labels)
        scores = label_set_metrics(given, _names(truth, labels), chances, labels)
        return MeanLoss({"loss": mean(losses), **scores.values, "tokens": len(losses)}, losses)

    def threshold(self, job: Job) -> float:
        """The one with the highest F1 over all labels of these rows."""
        return best_threshold(judge(job)[0], _truth(job))


def judge(job: Job) -> tuple[Floats, list[RowLoss]]:
    """Let the model tell how likely each label is of each row.

    Returns:
        Probabilities [rows, labels] as they are written, and the loss of each row, 0 of one without a target.
    """

    def of_batch(numbers: Sequence[int], batch: dict[str, Tensor]) -> Iterable[tuple[Floats, float]]:
        wanted = batch.pop("labels", None)
        with evaluating(job.model):
            outputs = job.model.class_logits(batch).cpu()
        chances: Floats = outputs.double().sigmoid().numpy()
        losses = [0.0] * len(numbers) if wanted is None else losses_of_rows(outputs, wanted).tolist()
        return zip(chances, losses, strict=True)

    told = job.each(of_batch)
    chances = np.array([chances for chances, _ in told]).reshape(len(told), len(_labels(job)))
    return written(chances), [RowLoss(loss, 1) for _, loss in told]


def written(chances: Floats) -> Floats:
    """Probabilities to six digits, or to six of what they lack to 1: those near 1 keep their order."""
    tail = np.maximum(np.minimum(chances, 1 - chances), _SMALLEST)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(tail)))
    rounded: Floats = np.round(chances * scale) / scale
    return rounded


def best_threshold(chances: Floats, truth: Flags) -> float:
    """The threshold with the highest F1 over all cells, half way to the next lower probability.

    Args:
        chances: Probabilities [rows, labels].
        truth: Which labels hold, [rows, labels].

    Returns:
        Of thresholds that are equally good the highest; `HALF` where no label holds.
    """
    order = np.argsort(-chances, axis=None, kind="stable")
    falling, true = chances.ravel()[order], truth.ravel()[order]
    if not true.any():
        return HALF
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # equal ones are given together
    f1 = 2 * np.cumsum(true)[ends] / (ends + 1 + true.sum())
    last = int(f1.argmax())
    below = falling[ends[last] + 1] if last + 1 < len(ends) else 0.0
    return float((falling[ends[last]] + below) / 2)


def _labels(job: Job) -> list[str]:
    return list(job.encoder.labels or [])


def _threshold(job: Job) -> float:
    return HALF if job.threshold is None else job.threshold


def _truth(job: Job) -> Flags:
    truth = np.zeros((len(job.encoded.features), len(_labels(job))), dtype=bool)
    for row, feature in zip(truth, job.encoded.features, strict=True):
        row[feature["label_set"]] = True
    return truth


def _given(chances: Floats, threshold: float, labels: Sequence[str]) -> list[list[str]]:
    return _names(chances >= threshold, labels)


def _names(flags: Flags, labels: Sequence[str]) -> list[list[str]]:
    return [[labels[place] for place in np.flatnonzero(row).tolist()] for row in flags]


def _in_order(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Names in the order of the head's outputs, those that it has not behind them."""
    places = {label: place for place, label in enumerate(labels)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def _answer(names: Sequence[str], chances: Floats, labels: Sequence[str]) -> Answer:
    return Answer(as_text(names), probabilities=dict(zip(labels, chances.tolist(), strict=True)))


KIND: Kind = LabelSets()
