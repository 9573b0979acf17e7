"""The low-rank update of a site's output as one autograd function.

    y <- y + scale * B A dropout(x)

Written as tensor operations it would make the dropped input, the update and the sum as tensors of their own,
of which autograd keeps the first. Here the update is added into y, the dropped input is made again in the
backward pass from a mask of one byte an element, and what only frozen factors would need is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deltatune.core.delta import Dropout


def add_low_rank_(  # noqa: PLR0917  (the terms of the formula, in its order)
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, dropout: Dropout
) -> Tensor:
    """Return y + scale * B A dropout(x), written over `y`; the products are computed in `y`'s dtype.

    Args:
        y: [..., d_out]; it is overwritten, unless it is a view (a cut of a batch, or what another autograd
            function returned, as those of quantized layers do), which autograd does not let be altered, or
            its elements lie scattered.
        x: [..., d_in].
        a: A [r, d_in].
        b: B [d_out, r].
        scale: Factor on the update.
        dropout: What drops elements of `x` in training.
    """
    keep = dropout.keep(x)
    if keep is not None:
        scale *= dropout.scale
    added: Tensor = _AddLowRank.apply(_writable(y), x, a, b, scale, keep)
    return added


def add_low_ranks_(
    y: Tensor,
    x: Tensor,
    pairs: Sequence[tuple[Tensor, Tensor]],
    scales: Sequence[float],
    drops: Sequence[Dropout],
) -> Tensor:
    """Do as `add_low_rank_` for several updates at once, of which each has an equal share of the rows.

    Args:
        y: [rows, ..., d_out]; as of `add_low_rank_`.
        x: [rows, ..., d_in]. The first share of the rows is the first pair's.
        pairs: (A [r, d_in], B [d_out, r]); ranks may differ.
        scales: Factor on each update.
        drops: What drops elements of each one's share of `x`.
    """
    keeps = [drop.keep(part) for drop, part in zip(drops, x.chunk(len(pairs)), strict=True)]
    factors = [s if k is None else s * d.scale for s, k, d in zip(scales, keeps, drops, strict=True)]
    r = max(len(a) for a, _ in pairs)  # rows of zeros add nothing
    a = torch.stack([functional.pad(a, (0, 0, 0, r - len(a))) for a, _ in pairs])
    scaled = [b * factor for (_, b), factor in zip(pairs, factors, strict=True)]
    b = torch.stack([functional.pad(b, (0, r - b.shape[1])) for b in scaled])
    keep = None
    if any(k is not None for k in keeps):
        ones = torch.ones((), dtype=torch.int8, device=x.device).expand_as(x[: len(x) // len(pairs)])
        keep = torch.cat([ones if k is None else k for k in keeps])
    added: Tensor = _AddLowRank.apply(_writable(y), x, a, b, 1.0, keep)
    return added


def _writable(y: Tensor) -> Tensor:
    return y.clone(memory_format=torch.contiguous_format) if y._is_view() or not y.is_contiguous() else y


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, keep: Tensor | None
    ) -> Tensor:
        down, up = a.to(y.dtype), (b * scale).to(y.dtype)
        low = _dropped(_rows(x.to(y.dtype), a), keep) @ down.mT
        into = _rows(y, a)
        _ = into.addmm_(low, up.mT) if a.ndim == 2 else into.baddbmm_(low, up.mT)
        ctx.mark_dirty(y)
        ctx.scale, ctx.x_shape, ctx.dtypes = scale, x.shape, (x.dtype, a.dtype, b.dtype)
        kept = x if a.requires_grad else None, low if b.requires_grad else None
        ctx.save_for_backward(*kept, down, up, keep)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, low, down, up, keep = ctx.saved_tensors
        of_x, of_a, of_b = ctx.dtypes
        grad = _rows(grad_y, down)
        grad_low = grad @ up
        keep = None if keep is None else keep.to(grad.dtype)  # once for both
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[1]:
            grad_x = _dropped(grad_low @ down, keep).view(ctx.x_shape).to(of_x)
        if ctx.needs_input_grad[2]:
            grad_a = (grad_low.mT @ _dropped(_rows(x.to(grad.dtype), down), keep)).to(of_a)
        if ctx.needs_input_grad[3]:
            grad_b = (low.mT @ grad).mT.to(of_b) * ctx.scale
        return grad_y, grad_x, grad_a, grad_b, None, None


def _rows(tensor: Tensor, a: Tensor) -> Tensor:
    """[..., width] as a matrix [rows, width], or, if there are several A, as a stack of such."""
    return tensor.reshape(*a.shape[:-2], -1, tensor.shape[-1])


def _dropped(rows: Tensor, keep: Tensor | None) -> Tensor:
    return rows if keep is None else rows * keep.view(rows.shape).to(rows.dtype)
