"""The low-rank update by Triton's kernels: the functions of core/low_rank.py, with the same numbers.

What they spare: the dropped input as a tensor, which the forward pass writes and reads, and which is kept for
the gradient of A (here the input itself is kept, with the mask that is kept anyway); the mask widened to the
input's type; the gradient of the input before its mask. Products without a mask are left to torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltatune.core.fast.kernels.add_up import add_up_
from deltatune.core.fast.kernels.down import down
from deltatune.core.fast.kernels.down_up import down_up_
from deltatune.core.fast.kernels.grad_down import grad_down
from deltatune.core.fast.kernels.grad_input import grad_input


class Down(torch.autograd.Function):
    """x A_i^T for several A_i [r_i, d_in], of what `keep` leaves of x; or for one stack of A [k, r, d_in]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, keep: Tensor | None, dtype: torch.dtype, *downs: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute, and keep what gradients need; the arguments are those of core/low_rank.py."""
        a = (downs[0] if len(downs) == 1 else torch.cat(downs)).to(dtype)
        low = down(_rows(x, a), _mask_rows(keep, a), _stack(a)).view(*a.shape[:-2], -1, a.shape[-2])
        ctx.of_x, ctx.of_a, ctx.ranks = (x.shape, x.dtype), downs[0].dtype, [each.shape[-2] for each in downs]
        ctx.save_for_backward(x if any(ctx.needs_input_grad[3:]) else None, keep, a)
        return low.split(ctx.ranks, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradient of each argument."""
        x, keep, a = ctx.saved_tensors
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, dim=-1)
        grad_x = _grad_x(grad, keep, a, ctx) if ctx.needs_input_grad[0] else None
        grad_downs = [None for _ in grads] if x is None else _grad_a(grad, x, keep, a, ctx)
        return grad_x, None, None, *grad_downs


class AddUp(torch.autograd.Function):
    """y + scale * low B^T, written over y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, low: Tensor, b: Tensor, scale: float) -> Tensor:
        """Compute, and keep what gradients need; the arguments are those of core/low_rank.py."""
        up = (b * scale).to(y.dtype)
        add_up_(_rows(y, up), low if low.ndim == 3 else low[None], _stack(up))
        ctx.mark_dirty(y)
        ctx.scale, ctx.of_b = scale, b.dtype
        ctx.save_for_backward(low if ctx.needs_input_grad[2] else None, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradient of each argument."""
        low, up = ctx.saved_tensors
        grad = grad_y.reshape(*up.shape[:-2], -1, up.shape[-2])
        grad_low = grad @ up if ctx.needs_input_grad[1] else None
        return grad_y, grad_low, None if low is None else _grad_b(grad, low, ctx), None


class DownUp(torch.autograd.Function):
    """y + scale * (x A^T) B^T of what `keep` leaves of x, written over y: for a site by itself."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any, y: Tensor, x: Tensor, keep: Tensor | None, down: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """Compute, and keep what gradients need; the arguments are those of core/low_rank.py."""
        a, up = down.to(y.dtype), (b * scale).to(y.dtype)
        low = down_up_(_rows(y, up), _rows(x, a), _mask_rows(keep, a), _stack(a), _stack(up))
        ctx.mark_dirty(y)
        ctx.of_x, ctx.of_a, ctx.ranks = (x.shape, x.dtype), down.dtype, [len(down)]
        ctx.scale, ctx.of_b = scale, b.dtype
        _, _, _, trains_a, trains_b, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if trains_a else None, keep, a, low[0] if trains_b else None, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradient of each argument."""
        x, keep, a, low, up = ctx.saved_tensors
        grad = grad_y.reshape(-1, up.shape[0])
        grad_low = grad @ up
        grad_x = _grad_x(grad_low, keep, a, ctx) if ctx.needs_input_grad[1] else None
        grad_a = None if x is None else _grad_a(grad_low, x, keep, a, ctx)[0]
        return grad_y, grad_x, None, grad_a, None if low is None else _grad_b(grad, low, ctx), None


def _stack(factor: Tensor) -> Tensor:
    """A factor [..., rows, columns] as one of a stack [k, rows, columns]."""
    return factor.reshape(-1, *factor.shape[-2:]).contiguous()


def _rows(tensor: Tensor, factor: Tensor) -> Tensor:
    """[..., width] as [k, rows, width], k as of a stack of factors, else 1; a view if it is contiguous."""
    return tensor.reshape(factor.shape[:-2].numel(), -1, tensor.shape[-1]).contiguous()


def _mask_rows(keep: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if keep is None else _rows(keep, factor)


def _grad_x(grad: Tensor, keep: Tensor | None, a: Tensor, ctx: Any) -> Tensor:
    shape, dtype = ctx.of_x
    return grad_input(_stack(grad), _mask_rows(keep, a), _stack(a), dtype).view(shape)


def _grad_a(grad: Tensor, x: Tensor, keep: Tensor | None, a: Tensor, ctx: Any) -> tuple[Tensor, ...]:
    """The gradient of each A."""
    found = grad_down(_stack(grad), _rows(x, a), _mask_rows(keep, a))
    return found.view(a.shape).to(ctx.of_a).split(ctx.ranks, dim=-2)


def _grad_b(grad: Tensor, low: Tensor, ctx: Any) -> Tensor:
    found: Tensor = (low.mT @ grad).mT.to(ctx.of_b) * ctx.scale
    return found
