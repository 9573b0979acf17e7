"""The low-rank update of a site's output, as two autograd functions.

    low = A dropout(x),   y <- y + scale * B low

Written as tensor operations it would make the dropped input, the update and the sum as tensors of their own.
Here the update is added into y, and what only frozen factors would need is not kept. Sites that get one
input (query, key and value) drop the same of it and share the first function: their A are stacked, so that
the input is read once, and its gradient is written once. The authors' loralib does so for a fused query, key
and value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deltatune.core.delta import Dropout, masked
from deltatune.core.fast import kernels


@runtime_checkable
class Downward(Protocol):
    """A delta whose update starts with a product of the dropped input."""

    dropout: Dropout
    shared: SharedInput

    def down(self) -> Tensor:
        """Return A [r, d_in], as it acts."""
        ...


class SharedInput:
    """What the deltas of one adapter make of an input that several sites get: made by the first, for all.

    Args:
        members: The deltas at those sites, or the only one.
    """

    def __init__(self, members: Sequence[Downward]) -> None:
        self.members = members
        self.apart = False
        """Whether each delta makes its own part only: sites get rows cut out, no two the same tensor."""
        self._x: Tensor | None = None
        self._made: dict[int, Tensor] = {}

    @property
    def alone(self) -> bool:
        """Whether what a member makes of the input is of no use to another."""
        return self.apart or len(self.members) == 1

    def forget(self) -> None:
        """Let go of what has not been taken."""
        self._x, self._made = None, {}

    def low(self, member: Downward, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return A dropout(x) [tokens, r] of `member` in `dtype`, without dropout's factor; x [..., d_in].

        What was made for the others waits until each has taken its part, for the very same tensor.
        """
        if torch.compiler.is_compiling():  # a graph that knew the others would fit one layer only
            return _Down.apply(x, member.dropout.keep(x), dtype, member.down())[0].to(dtype)
        made = self._made.pop(id(member), None) if x is self._x else None
        if made is None:
            of = [member] if self.apart else self.members
            downs = [other.down() for other in of]
            down = _down_of(dtype, sum(map(len, downs)))
            lows = down.apply(x, member.dropout.keep(x), dtype, *downs)
            self._made = {id(other): low for other, low in zip(of, lows, strict=True)}
            made = self._made.pop(id(member))
        self._x = x if self._made else None
        return made.to(dtype)


def add_low_rank_(y: Tensor, x: Tensor, member: Downward, b: Tensor, scale: float) -> Tensor:
    """Return y + scale * B A dropout(x), written over `y`; the products are computed in `y`'s dtype.

    Args:
        y: [..., d_out]; it is overwritten, unless it is a view (a cut of a batch, or what another autograd
            function returned, as those of quantized layers do), which autograd does not let be altered, or
            its elements lie scattered.
        x: [..., d_in].
        member: Has A [r, d_in], what drops elements of `x` in training, and what it shares with others.
        b: B [d_out, r].
        scale: Factor on the update.
    """
    factor = scale * member.dropout.scale
    added: Tensor
    if member.shared.alone and kernels.by_triton(y.dtype, b.shape[-1]):
        from deltatune.core.fast.kernels.low_rank import DownUp

        added = DownUp.apply(_writable(y), x, member.dropout.keep(x), member.down(), b, factor)
    else:
        low = member.shared.low(member, x, y.dtype)
        added = _up_of(y.dtype, b.shape[-1]).apply(_writable(y), low, b, factor)
    return added if added.shape == y.shape else added.view(y.shape)


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
    factors = [scale * drop.scale for scale, drop in zip(scales, drops, strict=True)]
    r = max(len(a) for a, _ in pairs)  # rows of zeros add nothing
    a = torch.stack([functional.pad(a, (0, 0, 0, r - len(a))) for a, _ in pairs])
    scaled = [b * factor for (_, b), factor in zip(pairs, factors, strict=True)]
    b = torch.stack([functional.pad(b, (0, r - b.shape[1])) for b in scaled])
    keep = None
    if any(k is not None for k in keeps):
        all_of = torch.full((), -1, dtype=torch.int8, device=x.device).expand_as(x[: len(x) // len(pairs)])
        keep = torch.cat([all_of if k is None else k for k in keeps])
    [low] = _down_of(y.dtype, r).apply(x, keep, y.dtype, a)
    added: Tensor = _up_of(y.dtype, r).apply(_writable(y), low, b, 1.0)
    return added if added.shape == y.shape else added.view(y.shape)


def _down_of(dtype: torch.dtype, rank: int) -> Any:
    """The function for the products with all A of one input, `rank` rows in all."""
    if not kernels.by_triton(dtype, rank):
        return _Down
    from deltatune.core.fast.kernels.low_rank import Down

    return Down


def _up_of(dtype: torch.dtype, rank: int) -> Any:
    """The function for the products with a B."""
    if not kernels.by_triton(dtype, rank):
        return _AddUp
    from deltatune.core.fast.kernels.low_rank import AddUp

    return AddUp


def _writable(y: Tensor) -> Tensor:
    """What may be overwritten in place of y [..., d_out]: of its shape, or [rows, d_out].

    What a linear layer with a bias returns is a view of the whole of its product, which may be, too.
    """
    if torch.compiler.is_compiling() or not y.is_contiguous():
        return y.clone(memory_format=torch.contiguous_format)
    if not y._is_view():
        return y
    whole = y._base
    assert whole is not None
    product = whole.grad_fn is not None and whole.grad_fn.name() == "AddmmBackward0"
    return whole if product and whole.numel() == y.numel() and whole.is_contiguous() else y.clone()


class _Down(torch.autograd.Function):
    """x A_i^T for several A_i [r_i, d_in], of what `keep` leaves of x; or for one stack of A [k, r, d_in]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, keep: Tensor | None, dtype: torch.dtype, *downs: Tensor
    ) -> tuple[Tensor, ...]:
        down = (downs[0] if len(downs) == 1 else torch.cat(downs)).to(dtype)
        dropped = _rows(masked(x, keep).to(dtype), down)
        ctx.of_x, ctx.of_a, ctx.ranks = (x.shape, x.dtype), downs[0].dtype, [a.shape[-2] for a in downs]
        ctx.save_for_backward(dropped if any(ctx.needs_input_grad[3:]) else None, down, keep)
        return (dropped @ down.mT).split(ctx.ranks, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, down, keep = ctx.saved_tensors
        shape, of_x = ctx.of_x
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, dim=-1)
        grad_x, grad_downs = None, [None for _ in grads]
        if ctx.needs_input_grad[0]:
            grad_x = masked((grad @ down).view(shape), keep).to(of_x)
        if dropped is not None:
            grad_downs = (grad.mT @ dropped).to(ctx.of_a).split(ctx.ranks, dim=-2)
        return grad_x, None, None, *grad_downs


class _AddUp(torch.autograd.Function):
    """y + scale * low B^T, written over y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, low: Tensor, b: Tensor, scale: float) -> Tensor:
        up = (b * scale).to(y.dtype)
        into = _rows(y, b)
        _ = into.addmm_(low, up.mT) if b.ndim == 2 else into.baddbmm_(low, up.mT)
        ctx.mark_dirty(y)
        ctx.scale, ctx.of_b = scale, b.dtype
        ctx.save_for_backward(low if b.requires_grad else None, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        low, up = ctx.saved_tensors
        grad = _rows(grad_y, up)
        grad_low = grad @ up if ctx.needs_input_grad[1] else None
        grad_b = None if low is None else (low.mT @ grad).mT.to(ctx.of_b) * ctx.scale
        return grad_y, grad_low, grad_b, None


def _rows(tensor: Tensor, a: Tensor) -> Tensor:
    """[..., width] as a matrix [rows, width], or, if there are several A, as a stack of such."""
    return tensor.reshape(*a.shape[:-2], -1, tensor.shape[-1])
