"""Loss and class scores, streamed: no more than one batch of logits is alive at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.errors import TrainingError
from deltatune.evaluate.interfaces import (
    BatchEncoder,
    EncodedRows,
    Model,
    Progress,
    evaluating,
    longest_first,
    to_device,
)

CLASSIFICATION = ("text-classification", "image-classification")
_LARGEST_EXPONENT = 700.0  # exp() of more is infinite in float64, and infinity is not JSON


def loss_on(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean cross-entropy, every labelled token (or row, in classification) weighing the same.

    Returns:
        `loss` in nats and `tokens`, the number of labels it is the mean of; with `perplexity` = exp(loss)
        for text tasks and `accuracy` for classification.

    Raises:
        TrainingError: The loss is not finite.
    """
    if encoder.task in CLASSIFICATION:
        return _classification_loss(model, encoded, encoder, batch_size, progress)
    total, count, done = 0.0, 0, 0
    for rows in longest_first(encoded.lengths, batch_size):
        batch = to_device(encoder.collate([encoded.features[row] for row in rows]), model.device)
        with evaluating(model):
            logits, targets = model.labelled_logits(batch)
            total += F.cross_entropy(logits.float(), targets, reduction="sum").item()
        count += targets.numel()
        done += len(rows)
        if progress:
            progress(done, len(encoded.lengths))
    loss = finite(total / count)
    return {"loss": loss, "perplexity": math.exp(min(loss, _LARGEST_EXPONENT)), "tokens": count}


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
            logits = model(**to_device(batch, model.device)).logits
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


def finite(loss: float) -> float:
    """Return `loss`, or raise a `TrainingError` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The evaluation loss is {loss}, not a finite number.",
            remedy="Lower the learning rate (train.lr), or set train.precision to fp32.",
        )
    return loss
