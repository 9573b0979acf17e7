"""From the states of a text's tokens to one vector, as sentence encoders make it."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "cls", "last")
"""The mean over all tokens, the state of the first one, or that of the last one."""


def pooled(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector a row, [rows, width], of states [rows, length, width] where the mask [rows, length] is 1."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    seen = mask.ne(0)
    if how == "mean":
        weights = seen.to(states.dtype)
        return (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    # Argmax finds the first of several, here from the end that is asked for.
    places = seen.int().argmax(dim=1) if how == "cls" else -1 - seen.flip(1).int().argmax(dim=1)
    places = places % states.shape[1]
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
