"""The gradient of the input, (grad A) where x was kept: a product and the mask in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltatune.core.fast.kernels.launch import OPTIONS, TOKENS, WIDTH, blocks, settings


@triton.jit
def grad_input_kernel(  # noqa: PLR0917
    grad, keep, a, grad_x, tokens, width, rank,
    MASKED: tl.constexpr, R: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes [TOKENS, WIDTH] of one stack."""
    stack = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    r = tl.arange(0, R)
    of_row = (stack * tokens + row)[:, None]
    ranks = (row < tokens)[:, None] & (r < rank)[None, :]
    part = tl.load(grad + of_row * rank + r[None, :], mask=ranks, other=0.0)
    from_a = a + (stack * rank + r)[:, None] * width + column[None, :]
    factor = tl.load(from_a, mask=(r < rank)[:, None] & (column < width)[None, :], other=0.0)
    made = tl.dot(part, factor, input_precision=PRECISION)
    at = of_row * width + column[None, :]
    there = (row < tokens)[:, None] & (column < width)[None, :]
    if MASKED:
        made = tl.where(tl.load(keep + at, mask=there, other=0) != 0, made, 0.0)
    tl.store(grad_x + at, made.to(a.dtype.element_ty).to(grad_x.dtype.element_ty), mask=there)


def grad_input(grad: Tensor, keep: Tensor | None, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the gradient of x, [stacks, tokens, width] in `dtype`.

    Args:
        grad: Of x A^T, [stacks, tokens, rank], contiguous.
        keep: As of `down`, [stacks, tokens, width].
        a: [stacks, rank, width], contiguous.
        dtype: Of x.
    """
    stacks, tokens, rank = grad.shape
    width = a.shape[2]
    grad_x = a.new_empty(stacks, tokens, width, dtype=dtype)
    with torch.cuda.device_of(a):
        grad_input_kernel[blocks(tokens, TOKENS), blocks(width, WIDTH), stacks](
            grad, a if keep is None else keep, a, grad_x, tokens, width, rank,
            MASKED=keep is not None, **settings(rank), **OPTIONS,
        )  # fmt: skip
    return grad_x
