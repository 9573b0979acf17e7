"""Position tap: positions begin after a learned prefix that has some of its own.

A prefix stands for earlier tokens, so the first real token has the position n_tokens, as it has when the
prefix is a filled cache (which is how Li and Liang's code and peft insert it).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.sites import BaseView
from deltatune.core.taps import Active, by_rows, cached_length, call_arguments

_PAST = ("cache_length", "past_key_values_length")
"""How a table of positions is told how many tokens come before; the first since Transformers 5.24."""


class PositionTap:
    """Adds the length of the active prefixes to the positions that a base counts.

    A decoder-only base takes `position_ids`. The decoder of an encoder-decoder (BART's) counts in itself and
    asks a table, which is asked again. What has neither counts relative to the keys it sees: no shift.

    Args:
        view: The base.
        active: Which adapters act.
    """

    def __init__(self, view: BaseView, active: Active) -> None:
        self.active = active
        self.shifts: dict[str, int] = {}
        self._handles: list[Any] = []
        if view.is_encoder_decoder:
            for module in view.base.get_decoder().modules():
                if not inspect.signature(module.forward).parameters.keys().isdisjoint(_PAST):
                    # Before the hooks of deltas, which add to what the table gives.
                    hook = module.register_forward_hook(self._ask_again, with_kwargs=True, prepend=True)
                    self._handles.append(hook)
        elif "position_ids" in inspect.signature(view.backbone.forward).parameters:
            self._handles.append(view.backbone.register_forward_pre_hook(self._shift, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off."""
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

    def _ask_again(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        routes = self.active.of(self.shifts)
        if not routes:
            return None
        call = call_arguments(module, args, kwargs)
        if self.active.batch_rows is None:
            return _looked_up(module, call, sum(self.shifts[route.name] for route in routes))
        shape = next(v.shape if isinstance(v, Tensor) else v for v in call.values() if v is not None)

        def every_row(looked_up: Tensor) -> Tensor:  # some tables give what all rows have in common
            return looked_up.expand(shape[0], *looked_up.shape[-2:])

        def behind(name: str, rows: slice | Tensor, _part: Tensor) -> Tensor:
            return every_row(_looked_up(module, call, self.shifts[name]))[rows]

        return by_rows(self.active, routes, every_row(output), behind)


def _looked_up(module: nn.Module, call: dict[str, Any], shift: int) -> Tensor:
    """What a table gives for the positions of a call, all of them later by `shift`."""
    parameters = inspect.signature(module.forward).parameters
    past = next(name for name in _PAST if name in parameters)
    moved = {past: call.get(past, 0) + shift}
    if call.get("position_ids") is not None:
        moved["position_ids"] = call["position_ids"] + shift
    output: Tensor = module.forward(**{**call, **moved})
    return output
