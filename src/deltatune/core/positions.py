"""Position tap: the input's positions begin after a learned prefix, in decoder-only models.

A prefix stands for earlier tokens, so the first real token has the position n_tokens, as it has when the
prefix is a filled cache (which is how Li and Liang's code and peft insert it).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from deltatune.core.taps import Active, cached_length, call_arguments


class PositionTap:
    """Adds the length of the active prefixes to the positions that a backbone counts.

    Args:
        backbone: The module whose `forward` takes `position_ids`; others count relative to the keys they see
            and need no shift.
        active: Which adapters act.
    """

    def __init__(self, backbone: nn.Module, active: Active) -> None:
        self.active = active
        self.shifts: dict[str, int] = {}
        self._handles: list[Any] = []
        if "position_ids" in inspect.signature(backbone.forward).parameters:
            self._handles.append(backbone.register_forward_pre_hook(self._shift, with_kwargs=True))

    def remove(self) -> None:
        """Take the hook off."""
        for handle in self._handles:
            handle.remove()

    def _shift(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        routes = self.active.of(self.shifts)
        if not routes:
            return None
        call = call_arguments(module, args, kwargs)
        given = call.get("input_ids") if call.get("inputs_embeds") is None else call["inputs_embeds"]
        assert given is not None
        positions, mask = call.get("position_ids"), call.get("attention_mask")
        if positions is None and mask is not None and mask.dim() == 2:  # padding takes up no positions
            positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -given.shape[1] :]
        elif positions is None:
            start = cached_length(call)
            positions = torch.arange(start, start + given.shape[1], device=given.device)[None]
        if self.active.batch_rows is None:
            positions = positions + sum(self.shifts[route.name] for route in routes)
        else:
            shift = torch.zeros(given.shape[0], 1, dtype=positions.dtype, device=positions.device)
            for name, rows in self.active.stretched(routes, given.shape[0]):
                shift[rows] += self.shifts[name]
            positions = positions + shift
        return (), call | {"position_ids": positions}
