"""low = (x where it is kept) A^T: dropout and the product with A in one pass over x."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltatune.core.fast.kernels.launch import OPTIONS, TOKENS, blocks, settings


@triton.jit
def down_kernel(  # noqa: PLR0917
    x, keep, a, low, tokens, width, rank,
    MASKED: tl.constexpr, R: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes [TOKENS, rank] of one stack."""
    stack = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    r = tl.arange(0, R)
    of_row = (stack * tokens + row)[:, None]
    of_rank = (stack * rank + r)[:, None]
    made = tl.full((TOKENS, R), 0.0, tl.float32)
    for at in range(0, width, WIDTH):
        column = at + tl.arange(0, WIDTH)[None, :]
        there = (row < tokens)[:, None] & (column < width)
        part = tl.load(x + of_row * width + column, mask=there, other=0.0)
        if MASKED:
            kept = tl.load(keep + of_row * width + column, mask=there, other=0)
            part = tl.where(kept != 0, part, 0.0)
        factor = tl.load(a + of_rank * width + column, mask=(r < rank)[:, None] & (column < width), other=0.0)
        made = tl.dot(part.to(factor.dtype), tl.trans(factor), made, input_precision=PRECISION)
    into = low + of_row * rank + r[None, :]
    tl.store(into, made.to(low.dtype.element_ty), mask=(row < tokens)[:, None] & (r < rank)[None, :])


def down(x: Tensor, keep: Tensor | None, a: Tensor) -> Tensor:
    """Return (x where kept) A^T [stacks, tokens, rank] in A's dtype.

    Args:
        x: [stacks, tokens, width], contiguous.
        keep: As int8, of x's shape, 0 where an element is dropped; None: all are kept.
        a: [stacks, rank, width], contiguous.
    """
    stacks, tokens, width = x.shape
    rank = a.shape[1]
    low = a.new_empty(stacks, tokens, rank)
    with torch.cuda.device_of(x):
        down_kernel[blocks(tokens, TOKENS), stacks](
            x, x if keep is None else keep, a, low, tokens, width, rank,
            MASKED=keep is not None, **settings(rank), **OPTIONS,
        )  # fmt: skip
    return low
