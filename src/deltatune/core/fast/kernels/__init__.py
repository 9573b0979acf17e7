"""Kernels for GPUs that compute parts of a training step in another way: which of them a pass asks for.

All are candidates: none has been measured on a GPU here, so nothing asks for one unless a recipe does
(`train.kernels`). What each computes is held to torch's own code before the first step
(training/proof/kernels.py), on the device.

- `triton`: dropout and the low-rank update fused, our own (this package);
- `liger`: norms, gated products and rotations of positions, of the package liger-kernel (liger.py);
- `cut-cross-entropy`: the output head and the loss in one, of the package of that name (fused_loss.py).

Nothing here is imported before it is asked for: Triton takes half a second, and exists for some systems only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

TRITON = "triton"
LIGER = "liger"
CUT_CROSS_ENTROPY = "cut-cross-entropy"
WIDEST = 512
"""Bytes of a vector of ranks up to which blocks fit into what a program may have on every GPU (96 KiB)."""

_in_force: list[frozenset[str]] = []


def asked_for(name: str) -> bool:
    """Whether the pass that is being computed is to take these kernels."""
    return bool(_in_force) and name in _in_force[-1]


def by_triton(dtype: torch.dtype, rank: int) -> bool:
    """Whether Triton's kernels are to compute products of this type and rank, and can."""
    can = dtype.itemsize <= 4 and padded_rank(rank) * dtype.itemsize <= WIDEST
    return can and asked_for(TRITON)


def padded_rank(rank: int) -> int:
    """The power of two that a block has for so many ranks; tensor cores take no fewer than 16."""
    return max(16, 1 << (rank - 1).bit_length())


@contextlib.contextmanager
def in_force(names: frozenset[str]) -> Iterator[None]:
    """Within the block passes take the named kernels, and no others; their backward passes do so too."""
    _in_force.append(names)
    try:
        yield
    finally:
        _in_force.pop()
