"""What the launches of all Triton kernels here have in common: sizes of blocks, the precision of products."""

from __future__ import annotations

from typing import Any

import torch

from deltatune.core.fast.kernels import padded_rank

TOKENS = 32
"""Rows of the input that one program takes. Not measured on a GPU."""
WIDTH = 64
"""Columns that a program takes at a time. Not measured on a GPU."""
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
"""How kernels are compiled."""


def settings(rank: int) -> dict[str, Any]:
    """The sizes and the precision of a kernel over blocks of [tokens, width] at this rank.

    Products of float32 are exact to its rounding unless torch's own may be of less (TensorFloat-32).
    """
    coarse = torch.backends.cuda.matmul.allow_tf32
    return {
        "R": padded_rank(rank),
        "TOKENS": TOKENS,
        "WIDTH": WIDTH,
        "PRECISION": "tf32" if coarse else "ieee",
    }


def blocks(length: int, size: int) -> int:
    """How many blocks of this size hold a length; one at least, since no grid is empty."""
    return max(1, -(-length // size))
