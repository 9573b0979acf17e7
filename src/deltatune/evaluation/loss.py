"""What rows add to the loss of a corpus, and its mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deltatune.errors import TrainingError


@dataclass(frozen=True)
class RowLoss:
    """What a row adds to the loss of a corpus."""

    nll: float
    """Negative log-likelihood of its labels, in nats, summed; of a number the loss of the task."""
    tokens: int
    """Number of its labels: tokens of its references, or 1 of a class or number."""


def mean(rows: Sequence[RowLoss]) -> float:
    """The loss of a corpus: every label weighs the same.

    Raises:
        TrainingError: It is not finite.
    """
    return finite(math.fsum(row.nll for row in rows) / sum(row.tokens for row in rows))


def finite(loss: float) -> float:
    """Return `loss`, or raise a `TrainingError` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The evaluation loss is {loss}, not a finite number.",
            remedy="Lower the learning rate (train.lr), or set train.precision to fp32.",
        )
    return loss
