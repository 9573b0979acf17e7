"""y += ((x where it is kept) A^T) B^T, written over y: the whole update in one pass over x and one over y."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltatune.core.fast.kernels.launch import OPTIONS, TOKENS, blocks, settings


@triton.jit
def down_up_kernel(  # noqa: PLR0917
    y, x, keep, a, up, low, tokens, d_in, d_out, rank,
    MASKED: tl.constexpr, R: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program takes TOKENS rows of one stack. What A made of them is rounded as a tensor of it would be."""
    stack = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    r = tl.arange(0, R)
    of_row = (stack * tokens + row)[:, None]
    of_rank = (stack * rank + r)[:, None]
    made = tl.full((TOKENS, R), 0.0, tl.float32)
    for at in range(0, d_in, WIDTH):
        column = at + tl.arange(0, WIDTH)[None, :]
        there = (row < tokens)[:, None] & (column < d_in)
        part = tl.load(x + of_row * d_in + column, mask=there, other=0.0)
        if MASKED:
            kept = tl.load(keep + of_row * d_in + column, mask=there, other=0)
            part = tl.where(kept != 0, part, 0.0)
        factor = tl.load(a + of_rank * d_in + column, mask=(r < rank)[:, None] & (column < d_in), other=0.0)
        made = tl.dot(part.to(factor.dtype), tl.trans(factor), made, input_precision=PRECISION)
    rounded = made.to(low.dtype.element_ty)
    into_low = low + of_row * rank + r[None, :]
    tl.store(into_low, rounded, mask=(row < tokens)[:, None] & (r < rank)[None, :])
    for at in range(0, d_out, WIDTH):
        column = at + tl.arange(0, WIDTH)
        from_up = up + (stack * d_out + column)[:, None] * rank + r[None, :]
        factor = tl.load(from_up, mask=(column < d_out)[:, None] & (r < rank)[None, :], other=0.0)
        into = y + of_row * d_out + column[None, :]
        there = (row < tokens)[:, None] & (column < d_out)[None, :]
        sum_of = tl.load(into, mask=there, other=0.0).to(tl.float32)
        sum_of = tl.dot(rounded, tl.trans(factor), sum_of, input_precision=PRECISION)
        tl.store(into, sum_of.to(y.dtype.element_ty), mask=there)


def down_up_(y: Tensor, x: Tensor, keep: Tensor | None, a: Tensor, up: Tensor) -> Tensor:
    """Add the update to y in place, and return what A made of x, [stacks, tokens, rank].

    Args:
        y: [stacks, tokens, d_out], contiguous; its dtype is that of `a` and `up`.
        x: [stacks, tokens, d_in], contiguous.
        keep: As int8, of x's shape, 0 where an element is dropped; None: all are kept.
        a: [stacks, rank, d_in], contiguous.
        up: B as it acts, [stacks, d_out, rank], contiguous.
    """
    stacks, tokens, d_in = x.shape
    rank = a.shape[1]
    low = a.new_empty(stacks, tokens, rank)
    with torch.cuda.device_of(y):
        down_up_kernel[blocks(tokens, TOKENS), stacks](
            y, x, x if keep is None else keep, a, up, low, tokens, d_in, y.shape[2], rank,
            MASKED=keep is not None, **settings(rank), **OPTIONS,
        )  # fmt: skip
    return low
