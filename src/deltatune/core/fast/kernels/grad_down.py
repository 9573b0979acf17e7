"""The gradient of A, grad^T (x where it was kept): the tokens are summed in parts, and the parts by torch.

So no two programs add to the same number, and the same input gives the same sum each time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltatune.core.fast.kernels.launch import OPTIONS, TOKENS, WIDTH, blocks, settings

BLOCKS_OF_A_PART = 16
"""Blocks of tokens that one program sums. Not measured on a GPU."""


@triton.jit
def grad_down_kernel(  # noqa: PLR0917
    grad, x, keep, parts, tokens, width, rank,
    MASKED: tl.constexpr, R: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A program makes [rank, WIDTH] of one part of the tokens of one stack."""
    stack = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    r = tl.arange(0, R)
    made = tl.full((R, WIDTH), 0.0, tl.float32)
    for block in range(0, BLOCKS):
        row = (tl.program_id(1) * BLOCKS + block) * TOKENS + tl.arange(0, TOKENS)
        of_row = (stack * tokens + row)[:, None]
        ranks = (row < tokens)[:, None] & (r < rank)[None, :]
        of_grad = tl.load(grad + of_row * rank + r[None, :], mask=ranks, other=0.0)
        at = of_row * width + column[None, :]
        there = (row < tokens)[:, None] & (column < width)[None, :]
        part = tl.load(x + at, mask=there, other=0.0)
        if MASKED:
            part = tl.where(tl.load(keep + at, mask=there, other=0) != 0, part, 0.0)
        made = tl.dot(tl.trans(of_grad), part.to(of_grad.dtype), made, input_precision=PRECISION)
    place = tl.program_id(1) * tl.num_programs(2) + stack
    into = parts + (place * rank + r)[:, None] * width + column[None, :]
    tl.store(into, made, mask=(r < rank)[:, None] & (column < width)[None, :])


def grad_down(grad: Tensor, x: Tensor, keep: Tensor | None) -> Tensor:
    """Return the gradient of A, [stacks, rank, width] in float32.

    Args:
        grad: Of x A^T, [stacks, tokens, rank], contiguous.
        x: [stacks, tokens, width], contiguous.
        keep: As of `down`.
    """
    stacks, tokens, width = x.shape
    rank = grad.shape[2]
    count = blocks(tokens, TOKENS * BLOCKS_OF_A_PART)
    parts = x.new_empty(count, stacks, rank, width, dtype=torch.float32)
    with torch.cuda.device_of(x):
        grad_down_kernel[blocks(width, WIDTH), count, stacks](
            grad, x, x if keep is None else keep, parts, tokens, width, rank,
            MASKED=keep is not None, BLOCKS=BLOCKS_OF_A_PART, **settings(rank), **OPTIONS,
        )  # fmt: skip
    return parts.sum(0)
