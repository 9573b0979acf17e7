"""Answers that are numbers, in the data's units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deltatune.core.loss import loss_of
from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, Scored
from deltatune.evaluation.loss import RowLoss, finite, mean
from deltatune.evaluation.metrics import value_metrics
from deltatune.tasks.task import Row
from deltatune.tasks.values import as_text, scale_of


class Values(Kind):
    """The number that the model tells; the loss is the task's own, in standard deviations."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The number of each row, as it is written."""
        return [Answer(as_text(value)) for value in _told(job)[0]]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Tell numbers and score them as they are written, in one pass."""
        numbers, losses = _told(job)
        references = [row.target for row in rows]
        scores = value_metrics(numbers, [float(reference) for reference in references], scoring(keys))
        answers = [Answer(as_text(value)) for value in numbers]
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


def measure(job: Job) -> Iterator[tuple[int, float, float | None]]:
    """Let the model tell the number of every row.

    Yields:
        (row number, the number as the model gives it, standardised; the row's loss, or None when the rows
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
        yield from zip(rows, outputs[:, 0].tolist(), losses, strict=True)


def _told(job: Job) -> tuple[list[float], list[RowLoss]]:
    """Of each row the number in the data's units, and the loss, 0 of one without a target."""
    count = len(job.encoded.lengths)
    scale, numbers, losses = scale_of(job.encoder), [0.0] * count, [RowLoss(0.0, 1)] * count
    for row, output, loss in measure(job):
        numbers[row], losses[row] = scale.outside(finite(output)), RowLoss(loss or 0.0, 1)
    return numbers, losses


KIND: Kind = Values()
