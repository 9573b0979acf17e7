"""Loss, class scores and numbers, streamed: no more than one batch of logits is alive at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.core.loss import loss_of
from deltatune.errors import TrainingError
from deltatune.evaluation.corpus import LARGEST_EXPONENT
from deltatune.evaluation.interfaces import (
    BatchEncoder,
    EncodedRows,
    Model,
    Progress,
    evaluating,
    longest_first,
    to_device,
)
from deltatune.tasks import TASKS


@dataclass(frozen=True)
class RowLoss:
    """What a row adds to the loss of a corpus."""

    nll: float
    """Negative log-likelihood of its labels, in nats, summed; of a number the loss of the task."""
    tokens: int
    """Number of its labels: tokens of the reference, or 1 of a class or number."""


def loss_on(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean loss, every labelled token (or row, of classes and numbers) weighing the same.

    Returns:
        `loss` (in nats; of numbers the task's own) and `tokens`, the number of labels it is the mean of; with
        `perplexity` = exp(loss) for text tasks and `accuracy` for classification.

    Raises:
        TrainingError: The loss is not finite.
    """
    kind = TASKS.get(encoder.task).scored_as
    return _LOSS_ON[kind](model, encoded, encoder, batch_size, progress)


def _text_loss(
    model: Model, encoded: EncodedRows, encoder: BatchEncoder, batch_size: int, progress: Progress | None
) -> dict[str, float]:
    return summed(row_losses(model, encoded, encoder, batch_size, progress))


def row_losses(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[RowLoss]:
    """What each row of a text task adds to the loss, in the order of the rows."""
    found = [RowLoss(0.0, 0)] * len(encoded.lengths)
    done = 0
    for rows in longest_first(encoded.lengths, batch_size):
        for row, loss in zip(rows, batch_losses(model, encoded, encoder, rows), strict=True):
            found[row] = loss
        done += len(rows)
        if progress:
            progress(done, len(encoded.lengths))
    return found


def batch_losses(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    rows: Sequence[int],
    states: Tensor | None = None,
) -> list[RowLoss]:
    """The losses of `rows` as one batch.

    Args:
        model: Model with its active deltas.
        encoded: The encoded rows.
        encoder: The encoder that made them.
        rows: Row numbers.
        states: What the model's encoder made of the same batch, if that is known.
    """
    batch = to_device(encoder.collate([encoded.features[row] for row in rows]), model.device)
    with evaluating(model):
        logits, targets = model.labelled_logits(batch, states)
        losses = F.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
    counts = TASKS.get(encoder.task).count(batch["labels"]).tolist()  # row after row
    return [RowLoss(own.sum().item(), len(own)) for own in losses.split(counts)]


def summed(rows: Sequence[RowLoss]) -> dict[str, float]:
    """Loss, perplexity and number of tokens of a corpus, as `loss_on` gives them.

    Raises:
        TrainingError: The loss is not finite.
    """
    tokens = sum(row.tokens for row in rows)
    loss = finite(math.fsum(row.nll for row in rows) / tokens)
    return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_EXPONENT)), "tokens": tokens}


def classify(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Tensor, int | None]]:
    """Score every class of every row.

    Yields:
        (row number, log-probabilities [classes] as float32 on the CPU, label id or None when the rows bear
        no labels), the longest rows first.
    """
    done = 0
    for rows in longest_first(encoded.lengths, batch_size):
        batch = encoder.collate([encoded.features[row] for row in rows])
        labels = batch.pop("labels").tolist() if "labels" in batch else [None] * len(rows)
        with evaluating(model):
            logits = model.class_logits(to_device(batch, model.device))
            scores = F.log_softmax(logits.float(), dim=-1).cpu()
        yield from zip(rows, scores, labels, strict=True)
        done += len(rows)
        if progress:
            progress(done, len(encoded.lengths))


def _classification_loss(
    model: Model, encoded: EncodedRows, encoder: BatchEncoder, batch_size: int, progress: Progress | None
) -> dict[str, float]:
    losses, correct = [], 0
    for _, scores, label in classify(model, encoded, encoder, batch_size=batch_size, progress=progress):
        assert label is not None  # the encoder of labelled rows gives labels
        losses.append(-scores[label])
        correct += int(scores.argmax()) == label
    loss = finite(torch.stack(losses).double().mean().item())
    return {"loss": loss, "accuracy": correct / len(losses), "tokens": len(losses)}


def measure(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Iterator[tuple[int, float, float | None]]:
    """Let the model tell the number of every row.

    Yields:
        (row number, the number as the model gives it, standardised; the row's loss, or None when the rows
        bear no numbers), the longest rows first.
    """
    done = 0
    for rows in longest_first(encoded.lengths, batch_size):
        batch = encoder.collate([encoded.features[row] for row in rows])
        labels = batch.pop("labels", None)
        with evaluating(model):
            outputs = model.class_logits(to_device(batch, model.device)).float().cpu()
        losses: list[float | None] = [None] * len(rows)
        if labels is not None:
            pairs = zip(outputs.split(1), labels.split(1), strict=True)
            losses = [float(loss_of(encoder.task, *pair)) for pair in pairs]
        yield from zip(rows, outputs[:, 0].tolist(), losses, strict=True)
        done += len(rows)
        if progress:
            progress(done, len(encoded.lengths))


def _value_loss(
    model: Model, encoded: EncodedRows, encoder: BatchEncoder, batch_size: int, progress: Progress | None
) -> dict[str, float]:
    losses = []
    for _, _, loss in measure(model, encoded, encoder, batch_size=batch_size, progress=progress):
        assert loss is not None  # the encoder of labelled rows gives labels
        losses.append(loss)
    return {"loss": finite(math.fsum(losses) / len(losses)), "tokens": len(losses)}


_LOSS_ON: dict[str, Callable[..., dict[str, float]]] = {
    "text": _text_loss,
    "classes": _classification_loss,
    "values": _value_loss,
}
"""By what a task is scored as."""


def finite(loss: float) -> float:
    """Return `loss`, or raise a `TrainingError` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The evaluation loss is {loss}, not a finite number.",
            remedy="Lower the learning rate (train.lr), or set train.precision to fp32.",
        )
    return loss
