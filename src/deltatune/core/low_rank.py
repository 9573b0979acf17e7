"""The low-rank update of a site's output as one autograd function.

    y <- y + scale * B A dropout(x)

Written as tensor operations it would make the dropped input, the update and the sum as tensors of their own,
of which autograd keeps the first. Here the update is added into y, the dropped input is made again in the
backward pass from a mask of one byte an element, and what only frozen factors would need is not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltatune.core.delta import Dropout


def add_low_rank_(  # noqa: PLR0917  (the terms of the formula, in its order)
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, dropout: Dropout
) -> Tensor:
    """Add scale * B A dropout(x) into `y` and return it; the products are computed in `y`'s dtype.

    Args:
        y: [..., d_out]; it is overwritten.
        x: [..., d_in].
        a: A [r, d_in].
        b: B [d_out, r].
        scale: Factor on the update.
        dropout: What drops elements of `x` in training.
    """
    keep = dropout.keep(x)
    if keep is not None:
        scale *= dropout.scale
    added: Tensor = _AddLowRank.apply(y, x, a, b, scale, keep)
    return added


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, keep: Tensor | None
    ) -> Tensor:
        rows = _dropped(_rows(x.to(y.dtype)), keep)
        low = rows @ a.to(y.dtype).T
        _rows(y).addmm_(low, (b * scale).to(y.dtype).T)
        ctx.mark_dirty(y)
        ctx.scale, ctx.x_shape, ctx.x_dtype = scale, x.shape, x.dtype
        ctx.save_for_backward(x if a.requires_grad else None, low if b.requires_grad else None, a, b, keep)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b, keep = ctx.saved_tensors
        grad = _rows(grad_y)
        grad_low = grad @ (b * ctx.scale).to(grad.dtype)
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[1]:
            grad_x = _dropped(grad_low @ a.to(grad.dtype), keep).view(ctx.x_shape).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            grad_a = (grad_low.T @ _dropped(_rows(x.to(grad.dtype)), keep)).to(a.dtype)
        if ctx.needs_input_grad[3]:
            grad_b = (low.T @ grad).T.to(b.dtype) * ctx.scale
        return grad_y, grad_x, grad_a, grad_b, None, None


def _rows(tensor: Tensor) -> Tensor:
    """[..., width] as a matrix [rows, width]."""
    return tensor.reshape(-1, tensor.shape[-1])


def _dropped(rows: Tensor, keep: Tensor | None) -> Tensor:
    return rows if keep is None else rows * _rows(keep).to(rows.dtype)
