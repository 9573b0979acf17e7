"""Answers from what a frozen base makes of a row, in place of those of its head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.core.adapter import Adapter
from deltatune.core.pooling import pooled
from deltatune.core.sites import BaseView
from deltatune.core.taps import Active, by_rows, call_arguments, on_all_rows


class RowVectors:
    """The vectors of the rows of a pass, while it is attached to a base.

    Of a text it is the mean of its tokens' last states; of an image what the backbone itself pools, or else
    the state of its first position. The encoder's states count where there are two stacks.
    """

    def __init__(self, view: BaseView) -> None:
        self._is_vision = view.is_vision
        self._states: Any = None
        self._handle = view.backbone.register_forward_hook(self._keep)

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()
        self.forget()

    def forget(self) -> None:
        """Let go of the states of a pass that nobody asks for."""
        self._states = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._states = output

    def of(self, call: dict[str, Any]) -> Tensor:
        """Unit vectors [rows, width] in float32, of the pass that ended last, with its arguments by name."""
        output, self._states = self._states, None
        if self._is_vision:
            own = getattr(output, "pooler_output", None)
            found = output.last_hidden_state[:, 0] if own is None else own.flatten(1)
            return F.normalize(found.float(), dim=-1)
        states = getattr(output, "encoder_last_hidden_state", None)
        states = output.last_hidden_state if states is None else states
        mask = call.get("attention_mask")
        mask = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
        return F.normalize(pooled(states, mask, "mean").float(), dim=-1)


class AnswersTap:
    """Puts the answers of adapters in the place of the base's logits, for all rows or for some of them.

    Args:
        view: The base.
        active: Which adapters act; read at every call.
    """

    def __init__(self, view: BaseView, active: Active) -> None:
        self.adapters: dict[str, Adapter] = {}
        self._active, self._vectors = active, RowVectors(view)
        self._handle = view.base.register_forward_hook(self._after, with_kwargs=True)

    def remove(self) -> None:
        """Take the hooks off."""
        self._handle.remove()
        self._vectors.remove()

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        routes = self._active.of(self.adapters)
        if not routes:
            self._vectors.forget()
            return None
        vectors = self._vectors.of(call_arguments(module, args, kwargs))
        if self._active.batch_rows is None:
            output.logits = on_all_rows(
                routes, output.logits, lambda name, part: self.adapters[name].logits_of(vectors, part)
            )
        else:
            output.logits = by_rows(
                self._active,
                routes,
                output.logits,
                lambda name, rows, part: self.adapters[name].logits_of(vectors[rows], part).to(part.dtype),
            )
        return output
