"""Packing: the rows of a batch stand behind each other in one, so that nothing is computed for padding.

Between the embedding and the last norm a decoder works on [1, tokens, width] in place of [rows, length,
width]: every linear layer, norm and delta sees the tokens alone. In attention the rows stand apart again, as
they do without packing, so that no row sees another: masks of any kind, windows and learned keys and values
are what they are for padded rows. Positions begin anew with each row. A prompt is put before each row first.

So the model's inputs and results are those of a padded batch, and the same to rounding.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from deltatune.core.fast.layout import Layout, layout
from deltatune.core.sites import BaseView
from deltatune.core.taps import cached_length, call_arguments


class Packing:
    """Packs what goes into a base's backbone, and sets apart what comes out.

    Args:
        view: The base.
        packed: Within its block the base's attention takes rows that are packed in this way.
    """

    def __init__(
        self, view: BaseView, packed: Callable[[Layout], contextlib.AbstractContextManager[None]]
    ) -> None:
        self.enabled = False
        """Whether training packs the rows of a batch."""
        self._view = view
        self._packed = packed

    @contextlib.contextmanager
    def use(self, enabled: bool) -> Iterator[None]:
        """Within the block, pack in training, or do not."""
        before, self.enabled = self.enabled, enabled
        try:
            yield
        finally:
            self.enabled = before

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Within the block, forward passes pack the rows of their batches where it is enabled."""
        if not self.enabled:
            yield
            return
        backbone: Any = self._view.backbone
        with contextlib.ExitStack() as stack:

            def pack(module: nn.Module, args: Any, kwargs: Any) -> Any:
                call = call_arguments(module, args, kwargs)
                how = _layout_of(call)
                if how is None:
                    return None
                stack.enter_context(self._packed(how))
                return (), _in_one_row(call, how)

            def set_apart(module: nn.Module, args: Any, output: Any) -> Any:
                if (how := layout()) is not None:
                    stack.close()
                    output["last_hidden_state"] = how.apart(output["last_hidden_state"])
                return output

            # Innermost: prompts are put before padded rows, and taken out of padded rows again.
            handles = [
                backbone.register_forward_pre_hook(pack, with_kwargs=True),
                backbone.register_forward_hook(set_apart, prepend=True),
            ]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()


def why_not(view: BaseView) -> str | None:
    """Why the rows of a base cannot be packed, as far as its code tells; None if they may be."""
    if not view.is_decoder_only:
        return f"{view.model_type} is no decoder alone"
    if "position_ids" not in inspect.signature(view.backbone.forward).parameters:
        return f"{view.model_type} counts positions by the places of a row"
    if getattr(view.base, "_is_stateful", False):
        return f"{view.model_type} has layers that step from token to token"
    return None


def _layout_of(call: dict[str, Any]) -> Layout | None:
    mask = call.get("attention_mask")
    if mask is None or mask.dim() != 2 or len(mask) < 2 or cached_length(call):
        return None
    return Layout.of(mask)


def _in_one_row(call: dict[str, Any], how: Layout) -> dict[str, Any]:
    """The arguments of a backbone, packed. Its mask is all ones: attention takes that of the layout."""
    mask = how.mask
    positions = call.get("position_ids")
    if positions is None:
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    whole = {
        name: value
        for name, value in call.items()
        if isinstance(value, Tensor) and value.shape[:2] == mask.shape
    }
    whole["position_ids"] = positions.expand(how.rows, -1)
    return call | {name: how.packed(value) for name, value in whole.items()}
