"""Answers that are one of the data's classes each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, finite
from deltatune.evaluation.metrics import classification_metrics
from deltatune.evaluation.metrics.chances import MOST_CLASSES
from deltatune.tasks.classes import positive_last
from deltatune.tasks.task import Row


class Classes(Kind):
    """The most probable class; the loss is cross-entropy, in nats."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The most probable class of each row, and the probability of each."""
        return job.each(lambda _, batch: [_answer(job, scores) for scores in classify(job, batch)])

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Classify and score, in one pass."""
        labels = list(job.encoder.labels or [])

        def of_batch(numbers: Sequence[int], batch: dict[str, Tensor]) -> Iterator[tuple[Answer, float]]:
            for row, scores in zip(numbers, classify(job, batch), strict=True):
                yield _answer(job, scores), -float(scores[labels.index(rows[row].target)])

        told = job.each(of_batch)
        answers, losses = [answer for answer, _ in told], [loss for _, loss in told]
        references = [row.target for row in rows]
        scored = classification_metrics(
            [answer.text for answer in answers],
            references,
            scoring(keys),
            positive_last(labels, decoding.positive),
            [answer.probabilities or {} for answer in answers],
        )
        if "loss" not in keys:
            return Scored(answers, references, scored)
        of_rows = [RowLoss(loss, 1) for loss in losses]
        return Scored(answers, references, scored, of_rows, {"loss": _mean(losses)})

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss a row, and the `accuracy`."""

        def of_batch(_: Sequence[int], batch: dict[str, Tensor]) -> Iterator[tuple[float, bool]]:
            labels = batch["labels"].tolist()  # the encoder of labelled rows gives them
            for label, scores in zip(labels, classify(job, batch), strict=True):
                yield -float(scores[label]), int(scores.argmax()) == label

        told = job.each(of_batch)
        losses = [loss for loss, _ in told]
        accuracy = sum(right for _, right in told) / len(told)
        values = {"loss": _mean(losses), "accuracy": accuracy, "tokens": len(told)}
        return MeanLoss(values, [RowLoss(loss, 1) for loss in losses])


def classify(job: Job, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities of every class of a batch's rows, [rows, classes] in float32 on the CPU."""
    with evaluating(job.model):
        return F.log_softmax(job.model.class_logits(batch).float(), dim=-1).cpu()


def _mean(losses: Sequence[float]) -> float:
    return finite(torch.tensor(losses, dtype=torch.float64).mean().item())


def probabilities(labels: Sequence[str], log_probabilities: Tensor) -> dict[str, float]:
    """Probabilities by label, to six digits, in the order of the labels.

    Args:
        labels: Names of the classes.
        log_probabilities: [classes], as `classify` gives them.
    """
    kept = log_probabilities.topk(min(MOST_CLASSES, len(labels))).indices.sort().values
    values = log_probabilities[kept].exp().tolist()
    return {labels[index]: float(f"{value:.6g}") for index, value in zip(kept.tolist(), values, strict=True)}


def _answer(job: Job, scores: Tensor) -> Answer:
    labels = job.encoder.labels or []
    return Answer(labels[int(scores.argmax())], probabilities=probabilities(labels, scores))


KIND: Kind = Classes()
