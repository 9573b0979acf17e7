"""Gradient checkpointing: each layer keeps only its input, and computes the rest again in the backward pass.

Transformers recomputes a layer only while the layer's own `training` is set, which would also switch on the
dropout that some layers apply by hand. So the flag is set, and cleared while the layer's forward pass runs.
What the base computes in another way in training (lean.py, packing.py), it does so both times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from deltatune.core.fast.layout import Layout, layout
from deltatune.core.fast.lean import Lean
from deltatune.core.offload import work_again
from deltatune.errors import TargetError


class Recomputation:
    """Switches the recomputation of a base's layers on and off.

    Args:
        base: A Transformers model.
        lean: What its training changes in it.
        packed: As of `packing.Packing`.
    """

    def __init__(
        self,
        base: nn.Module,
        lean: Lean,
        packed: Callable[[Layout | None], AbstractContextManager[None]],
    ) -> None:
        self._base = base
        self._lean = lean
        self._packed = packed
        self._layers: list[Any] = []

    @property
    def enabled(self) -> bool:
        """Whether layers are recomputed."""
        return bool(self._layers)

    def on(self, *, keep_eval: bool) -> None:
        """Recompute the layers from now on; with `keep_eval` they behave as in eval mode all the same.

        Raises:
            TargetError: The base has none that can be.
        """
        layers: list[Any] = [m for m in self._base.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers or not getattr(self._base, "supports_gradient_checkpointing", True):
            raise TargetError(
                f"{type(self._base).__name__} has no layers that can be recomputed.",
                field="train.gradient_checkpointing",
                remedy="Set it to false.",
            )
        self._layers = layers
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(
                _recompute, layer, keep_eval, self._lean, self._packed
            )

    def off(self) -> None:
        """Leave no trace in the layers."""
        for layer in self._layers:
            layer.__dict__.pop("gradient_checkpointing", None)
            layer.__dict__.pop("_gradient_checkpointing_func", None)
        self._layers = []

    def follow(self, training: bool) -> None:
        """Set the flag by which Transformers decides to recompute."""
        for layer in self._layers:
            layer.training = training


def _recompute(
    layer: nn.Module,
    keep_eval: bool,
    lean: Lean,
    packed: Callable[[Layout | None], AbstractContextManager[None]],
    forward: Callable[..., Any],
    *args: Any,
) -> Any:
    how = layout()

    def run(*inputs: Any) -> Any:
        before = layer.training
        layer.training = before and not keep_eval
        try:
            work_again(layer)
            with lean.on(), packed(how):
                return forward(*inputs)
        finally:
            layer.training = before

    return checkpoint(run, *args, use_reentrant=False)
