"""Answers that are one of the data's classes each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, Scored
from deltatune.evaluation.loss import RowLoss, finite
from deltatune.evaluation.metrics import classification_metrics
from deltatune.evaluation.metrics.chances import MOST_CLASSES
from deltatune.tasks.classes import positive_last
from deltatune.tasks.task import Row


class Classes(Kind):
    """The most probable class; the loss is cross-entropy, in nats."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The most probable class of each row, and the probability of each."""
        answers = [Answer("")] * len(job.encoded.lengths)
        for row, scores, _ in classify(job):
            answers[row] = _answer(job, scores)
        return answers

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Classify and score, in one pass."""
        labels, answers = list(job.encoder.labels or []), [Answer("")] * len(rows)
        losses = torch.zeros(len(rows), dtype=torch.float64)
        for row, scores, _ in classify(job):
            answers[row] = _answer(job, scores)
            losses[row] = -scores[labels.index(rows[row].target)]
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
        of_rows = [RowLoss(loss, 1) for loss in losses.tolist()]
        return Scored(answers, references, scored, of_rows, {"loss": finite(losses.mean().item())})

    def mean_loss(self, job: Job) -> dict[str, float]:
        """Loss a row, and the `accuracy`."""
        losses, correct = [], 0
        for _, scores, label in classify(job):
            assert label is not None  # the encoder of labelled rows gives labels
            losses.append(-scores[label])
            correct += int(scores.argmax()) == label
        loss = finite(torch.stack(losses).double().mean().item())
        return {"loss": loss, "accuracy": correct / len(losses), "tokens": len(losses)}


def classify(job: Job) -> Iterator[tuple[int, Tensor, int | None]]:
    """Score every class of every row.

    Yields:
        (row number, log-probabilities [classes] as float32 on the CPU, label id or None when the rows bear
        no labels), the longest rows first.
    """
    for rows, batch in job.batches():
        labels = batch.pop("labels").tolist() if "labels" in batch else [None] * len(rows)
        with evaluating(job.model):
            logits = job.model.class_logits(batch)
            scores = F.log_softmax(logits.float(), dim=-1).cpu()
        yield from zip(rows, scores, labels, strict=True)


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
