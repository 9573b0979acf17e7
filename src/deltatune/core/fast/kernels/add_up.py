"""y += low B^T, written over y."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltatune.core.fast.kernels.launch import OPTIONS, TOKENS, WIDTH, blocks, settings


@triton.jit
def add_up_kernel(  # noqa: PLR0917
    y, low, up, tokens, width, rank, of_stack, of_token,
    R: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program adds to [TOKENS, WIDTH] of one stack."""
    stack = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    r = tl.arange(0, R)
    from_low = low + stack * of_stack + row.to(tl.int64)[:, None] * of_token + r[None, :]
    part = tl.load(from_low, mask=(row < tokens)[:, None] & (r < rank)[None, :], other=0.0)
    from_up = up + (stack * width + column)[:, None] * rank + r[None, :]
    factor = tl.load(from_up, mask=(column < width)[:, None] & (r < rank)[None, :], other=0.0)
    into = y + (stack * tokens + row)[:, None] * width + column[None, :]
    there = (row < tokens)[:, None] & (column < width)[None, :]
    sum_of = tl.load(into, mask=there, other=0.0).to(tl.float32)
    sum_of = tl.dot(part, tl.trans(factor), sum_of, input_precision=PRECISION)
    tl.store(into, sum_of.to(y.dtype.element_ty), mask=there)


def add_up_(y: Tensor, low: Tensor, up: Tensor) -> None:
    """Add low B^T to y in place; all are of one dtype.

    Args:
        y: [stacks, tokens, width], contiguous.
        low: [stacks, tokens, rank]; the elements of a token lie side by side.
        up: B as it acts, [stacks, width, rank], contiguous.
    """
    stacks, tokens, width = y.shape
    rank = up.shape[2]
    low = low if low.stride(2) == 1 else low.contiguous()
    with torch.cuda.device_of(y):
        add_up_kernel[blocks(tokens, TOKENS), blocks(width, WIDTH), stacks](
            y, low, up, tokens, width, rank, low.stride(0), low.stride(1), **settings(rank), **OPTIONS
        )
