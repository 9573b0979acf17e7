"""Answers that are numbers, in the data's units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from deltatune.core.loss import loss_of
from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, finite, mean
from deltatune.evaluation.metrics.values import target_metrics
from deltatune.tasks.task import Row
from deltatune.tasks.values import numbers_of, units_of, written


class Values(Kind):
    """The number that the model tells, or several; the loss is the task's own, in standard deviations."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The numbers of each row, as they are written."""
        return [Answer(written(numbers)) for numbers in _told(job)[0]]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Tell numbers and score them as they are written, in one pass."""
        numbers, losses = _told(job)
        references = [row.target for row in rows]
        scores = target_metrics(numbers, list(map(numbers_of, references)), scoring(keys))
        answers = [Answer(written(of_row)) for of_row in numbers]
        if "loss" not in keys:
            return Scored(answers, references, scores)
        return Scored(answers, references, scores, losses, {"loss": mean(losses)})

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss a row."""
        losses = [RowLoss(loss or 0.0, 1) for _, loss in measure(job)]
        return MeanLoss({"loss": mean(losses), "tokens": len(losses)}, losses)


def measure(job: Job) -> list[tuple[list[float], float | None]]:
    """Let the model tell the numbers of every row.

    Returns:
        Of each row the numbers as the model gives them, standardised; and its loss, or None where the rows
        bear no numbers.
    """

    def of_batch(rows: Sequence[int], batch: dict[str, Tensor]) -> Iterable[tuple[list[float], float | None]]:
        labels = batch.pop("labels", None)
        with evaluating(job.model):
            outputs = job.model.class_logits(batch).float().cpu()
        losses: list[float | None] = [None] * len(rows)
        if labels is not None:
            pairs = zip(outputs.split(1), labels.cpu().split(1), strict=True)
            losses = [float(loss_of(job.encoder.task, *pair)) for pair in pairs]
        return zip(outputs.tolist(), losses, strict=True)

    return job.each(of_batch)


def _told(job: Job) -> tuple[list[dict[str, float]], list[RowLoss]]:
    """Of each row the numbers in the data's units, and the loss, 0 of one without a target."""
    told = measure(job)
    numbers = [units_of(list(map(finite, outputs)), job.encoder) for outputs, _ in told]
    return numbers, [RowLoss(loss or 0.0, 1) for _, loss in told]


KIND: Kind = Values()
