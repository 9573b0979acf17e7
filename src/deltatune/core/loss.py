"""The loss of a batch, as training takes it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from deltatune.core.model import AdaptedModel

CLASSIFICATION = ("text-classification", "image-classification")


def summed_loss(
    model: AdaptedModel, batch: dict[str, Tensor], task: str, *, autocast: bool = False
) -> Tensor:
    """Cross-entropy summed over the targets of a collated batch, in float32; arguments as of `logits_for`."""
    logits, targets = logits_for(model, batch, task, autocast=autocast)
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def count_targets(batch: dict[str, Tensor], task: str, model: AdaptedModel) -> int:
    """Number of predictions that the loss of a collated batch is summed over."""
    labels = batch["labels"]
    if task in CLASSIFICATION:
        return len(labels)
    return int((labels if model.view.is_encoder_decoder else labels[:, 1:]).ne(-100).sum())


def logits_for(
    model: AdaptedModel, batch: dict[str, Tensor], task: str, *, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """What the loss of a collated batch is computed from: (logits [n, classes], targets [n]).

    Args:
        model: With the adapters that act.
        batch: As the encoder collates it, on the model's device.
        task: The recipe's task.
        autocast: Compute in bfloat16 where parameters are float32 (full fine-tuning of a bfloat16 base).
    """
    context = torch.autocast(model.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
    with context:
        if task in CLASSIFICATION:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            return model(**inputs).logits, batch["labels"]
        return model.labelled_logits(batch)
