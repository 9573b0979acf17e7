"""The loss of a batch, as training takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltatune.core.devices import send
from deltatune.core.fast import kernels
from deltatune.core.fast.kernels.fused_loss import summed
from deltatune.tasks import TASKS
from deltatune.tasks.task import AUTO, IGNORED

if TYPE_CHECKING:
    from deltatune.core.model import AdaptedModel


def summed_loss(
    model: AdaptedModel,
    batch: dict[str, Tensor],
    task: str,
    *,
    autocast: bool = False,
    weights: Tensor | None = None,
    chosen: str = AUTO,
) -> Tensor:
    """The loss summed over the targets of a collated batch, in float32.

    Args:
        model: As of `logits_for`, like the batch, the task and `autocast`.
        batch: The batch.
        task: The recipe's task.
        autocast: Whether to compute in bfloat16.
        weights: As of `loss_of`.
        chosen: As of `loss_of`.
    """
    if model.training and kernels.CUT_CROSS_ENTROPY in model.fast.lean.kernels:
        return fused_loss(model, batch, task)
    return loss_of(task, *logits_for(model, batch, task, autocast=autocast), weights, chosen)


def fused_loss(model: AdaptedModel, batch: dict[str, Tensor], task: str) -> Tensor:
    """The cross-entropy of a task that writes text, as `summed_loss` gives it, without logits.

    Args:
        model: Its output head is a linear layer without a bias, on which no adapter acts, and nothing is done
            to what it gives (the certificate compares).
        batch: As of `summed_loss`.
        task: The recipe's task.
    """
    with model.fast.head.deferred() as given:
        _, targets = logits_for(model, batch, task)
    head: Any = model.base.get_output_embeddings()
    return summed(given[0], head.weight, targets)


def loss_of(
    task: str, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, chosen: str = AUTO
) -> Tensor:
    """The task's loss of what `logits_for` gave, summed: cross-entropy unless it has another.

    Args:
        task: The recipe's task.
        outputs: Of the model.
        targets: Their targets.
        weights: What a row of each class counts for, [classes] on any device; None: 1, as in every task
            without classes.
        chosen: The recipe's `train.loss`: one of the task's `other_losses`, or `auto`.
    """
    if chosen != AUTO:
        return TASKS.get(task).other_losses[chosen](outputs, targets)
    loss = TASKS.get(task).loss(outputs, targets)
    return summed_cross_entropy(outputs, targets, weights) if loss is None else loss


def gradients_at(
    task: str, outputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss of several micro-batches together, summed over their targets, and its gradient at each output.

    Args:
        task: Whose loss spans rows.
        outputs: What the model gave for each micro-batch.
        targets: Of each.
    """
    leaves = [part.detach().requires_grad_() for part in outputs]
    with torch.enable_grad():
        loss = loss_of(task, torch.cat(leaves), torch.cat(list(targets)))
    return loss.detach(), list(torch.autograd.grad(loss, leaves))


def summed_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits [n, classes] and targets [n], summed, in float32 or wider.

    As `F.cross_entropy(logits.float(), targets, weights, reduction="sum")`, but float32 copies are made of
    some rows at a time, and only the logits are kept for the backward pass.
    """
    of_rows = None if weights is None else send(weights, targets.device)[targets][:, None]
    loss: Tensor = _SummedCrossEntropy.apply(logits, targets, of_rows)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        ctx.rows = max(1, logits_at_once(_stands_for.get() or logits.device.type) // logits.shape[-1])
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=logits.device)
        largest, normalizers = [], []  # apart, since rounding their sum would cost a digit
        for at, (part, of) in enumerate(
            zip(logits.split(ctx.rows), targets[:, None].split(ctx.rows), strict=True)
        ):
            found = part.to(wide)
            largest.append(found.amax(dim=-1, keepdim=True))
            found = torch.log_softmax(found, dim=-1)
            normalizers.append(found.amax(dim=-1, keepdim=True))
            of_target = found.gather(1, of)
            loss -= (of_target if weights is None else of_target * weights.split(ctx.rows)[at]).sum()
        ctx.weights = weights
        ctx.save_for_backward(logits, targets, torch.cat(largest), torch.cat(normalizers))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, *of_rows = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        parts = (t.split(ctx.rows) for t in (grad_logits, logits, targets[:, None], *of_rows))
        for at, (out, part, of, largest, normalizer) in enumerate(zip(*parts, strict=True)):
            # Operations on two dtypes at once are slow, so first a copy, and another at the end.
            shares = part.to(grad.dtype).sub(largest).add_(normalizer).exp_()
            shares.scatter_add_(1, of, shares.new_full(of.shape, -1.0))
            out.copy_(shares.mul_(grad if ctx.weights is None else grad * ctx.weights.split(ctx.rows)[at]))
        return grad_logits, None, None


_stands_for: ContextVar[str | None] = ContextVar("stands_for", default=None)
"""The kind of device that a computation is made for, where it is another than that of the tensors."""


@contextlib.contextmanager
def standing_for(device_type: str) -> Iterator[None]:
    """Within the block losses are computed in the pieces in which a device of that kind computes them."""
    before = _stands_for.set(device_type)
    try:
        yield
    finally:
        _stands_for.reset(before)


def logits_at_once(device_type: str) -> int:
    """How many logits are in float32 at a time on a device of that kind."""
    return _AT_ONCE.get(device_type, _AT_ONCE_ELSEWHERE)


_AT_ONCE = {"cpu": 2**19}
"""Logits in float32 at a time: what stays in a CPU's caches (of 2^18 to 2^21 it took the least time)."""
_AT_ONCE_ELSEWHERE = 2**25
"""128 MiB of them, so that a GPU gets few and large operations; not measured on one."""


def count_targets(batch: dict[str, Tensor], task: str) -> int:
    """Number of predictions that the loss of a collated batch is summed over."""
    return int(TASKS.get(task).count(batch["labels"]).sum())


def weight_of(batch: dict[str, Tensor], task: str, weights: Tensor | None) -> float:
    """What the mean loss of a collated batch is divided by: its predictions, each with its class's weight.

    So a step's loss is `F.cross_entropy(logits, labels, weights)`, whose mean is over weights too.

    Args:
        batch: The batch.
        task: The recipe's task.
        weights: As of `loss_of`.
    """
    if weights is None:
        return count_targets(batch, task)
    labels = batch["labels"].to(weights.device)
    return float(weights[labels[labels != IGNORED]].double().sum())


def logits_for(
    model: AdaptedModel, batch: dict[str, Tensor], task: str, *, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """What the loss of a collated batch is computed from: (logits [n, classes], targets [n]).

    Args:
        model: With the adapters that act.
        batch: As the encoder collates it, on the model's device; the labels there or on the host.
        task: The recipe's task.
        autocast: Compute in bfloat16 where parameters are float32 (full fine-tuning of a bfloat16 base).
    """
    context = torch.autocast(model.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
    with context:
        outputs, targets = TASKS.get(task).logits(model, batch)
    return outputs, send(targets, outputs.device)
