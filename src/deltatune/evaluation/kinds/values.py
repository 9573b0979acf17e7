"""Answers that are numbers, in the data's units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deltatune.core.loss import loss_of
from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, Scored
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

    def mean_loss(self, job: Job) -> dict[str, float]:
        """Loss a row."""
        losses = []
        for _, _, loss in measure(job):
            assert loss is not None  # the encoder of labelled rows gives labels
            losses.append(RowLoss(loss, 1))
        return {"loss": mean(losses), "tokens": len(losses)}


def measure(job: Job) -> Iterator[tuple[int, list[float], float | None]]:
    """Let the model tell the numbers of every row.

    Yields:
        (row number, the numbers as the model gives them, standardised; the row's loss, or None when the rows
        bear no numbers), the longest rows first.
    """
    for rows, batch in job.batches():
        labels = batch.pop("labels", None)
        with evaluating(job.model):
            outputs = job.model.class_logits(batch).float().cpu()
        losses: list[float | None] = [None] * len(rows)
        if labels is not None:
            pairs = zip(outputs.split(1), labels.cpu().split(1), strict=True)
            losses = [float(loss_of(job.encoder.task, *pair)) for pair in pairs]
        yield from zip(rows, outputs.tolist(), losses, strict=True)


def _told(job: Job) -> tuple[list[dict[str, float]], list[RowLoss]]:
    """Of each row the numbers in the data's units, and the loss, 0 of one without a target."""
    count = len(job.encoded.lengths)
    numbers: list[dict[str, float]] = [{}] * count
    losses = [RowLoss(0.0, 1)] * count
    for row, outputs, loss in measure(job):
        numbers[row], losses[row] = units_of(list(map(finite, outputs)), job.encoder), RowLoss(loss or 0.0, 1)
    return numbers, losses


KIND: Kind = Values()
