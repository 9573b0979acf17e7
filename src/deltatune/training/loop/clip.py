"""The end of a step's backward pass: gradients are clipped, and what the step came to is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deltatune.errors import TrainingError


def clipped(
    losses: Sequence[Tensor], parameters: Sequence[Tensor], limit: float | None, *, step: int, lr: float
) -> tuple[float, float]:
    """Clip the gradients; give the step's loss and the norm that they had.

    Here the host waits for a GPU, once a step: for all these numbers together.

    Args:
        losses: Whose sum is the step's loss.
        parameters: With their gradients.
        limit: The largest norm of all gradients; None for no clipping.
        step: The number of the step that is made, from 1.
        lr: The learning rate, for the message.

    Raises:
        TrainingError: The loss or the norm is not finite.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)
    *numbers, of_gradients = torch.stack([*losses, norm.detach()]).tolist()
    loss = float(sum(numbers))
    for value in (loss, of_gradients):
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss or its gradient is {value} in step {step}.",
                field="train.lr",
                remedy=f"Lower the learning rate ({lr:g}), or use fp32 if the run is in bf16.",
            )
    return loss, of_gradients
