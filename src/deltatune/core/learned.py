"""Learned keys and values as one call of an attention sees them, and the mask that lets it see them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Learned(NamedTuple):
    """What one call of an attention sees before the keys of its input."""

    keys: Tensor
    """[batch, kv_heads, n, head_dim]."""
    values: Tensor
    """[batch, kv_heads, n, head_dim]."""
    seen: Tensor | None
    """Which of them each row sees, [batch, n]; None if each sees all."""
    bias: Tensor | None
    """Their position bias, [1 or batch, heads, queries, n]; None where it is zero."""


def widen(mask: Tensor | None, learned: Learned, queries: int, keys: int) -> Tensor | None:
    """Put the columns of the learned keys before a mask's own.

    Args:
        mask: What each query of the input sees of its keys, [batch or 1, heads or 1, queries or 1, keys]: of
            floats what is added to the scores, else whether it is seen. None: all.
        learned: The learned keys, and which rows see them.
        queries: How many there are.
        keys: How many the input has.

    Returns:
        [batch, heads or 1, queries, n + keys], or None if all is seen.
    """
    batch, _, n, _ = learned.keys.shape
    device, seen = learned.keys.device, learned.seen
    if mask is None:
        if seen is None:
            return None
        mask = torch.ones(1, 1, 1, keys, dtype=torch.bool, device=device)
    if seen is None:
        seen = torch.ones(batch, n, dtype=torch.bool, device=device)
    columns = seen[:, None, None, :].expand(batch, mask.shape[1], queries, n)
    if mask.is_floating_point():
        low = torch.finfo(mask.dtype).min
        columns = torch.zeros(columns.shape, dtype=mask.dtype, device=mask.device).masked_fill(~columns, low)
    mask = mask.expand(batch, -1, queries, -1)[..., :keys]
    return torch.cat([columns.to(mask.dtype), mask], dim=-1)
