"""All the shorter ways that a model's passes take, in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from deltatune.core.attention import LONG_UP_TO, AttentionSwitch, tokens_of_a_row
from deltatune.core.fast.compiled import CompiledLayers
from deltatune.core.fast.labelled_head import Labelled, LabelledHead
from deltatune.core.fast.last_layer import LastLayer
from deltatune.core.fast.lean import Lean
from deltatune.core.fast.packing import Packing
from deltatune.core.fast.recompute import Recomputation
from deltatune.core.sites import BaseView


class FastPaths:
    """What one base computes faster, or in less memory, than by its own code.

    Args:
        view: The base.
        attention: Its switch to eager attention.
        eager_up_to: Tokens of a row up to which training attends eagerly, as of `AdaptedModel`.
    """

    def __init__(self, view: BaseView, attention: AttentionSwitch, eager_up_to: int) -> None:
        self.eager_up_to = eager_up_to
        self._view = view
        self._attention = attention
        self.lean = Lean(view.base)
        self.packing = Packing(view, attention.packed)
        self.recomputation = Recomputation(view.base, self.lean, attention.packed)
        self.last_layer = LastLayer(view, self.recomputation)
        self.head = LabelledHead(view.base)
        self.compiled = CompiledLayers(view, self.last_layer)

    @contextlib.contextmanager
    def training(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Within the block the base computes a batch as in training: the same to rounding, in less."""
        if self.compiled.takes(batch):  # the compiler sees for itself what need not be kept
            with self.compiled.on():
                yield
            return
        eager = self._attends_eagerly(batch)
        with (
            self.lean.on(),
            self._attention.eager() if eager else contextlib.nullcontext(),
            self.packing.on(),
        ):
            yield

    def _attends_eagerly(self, batch: Mapping[str, Any]) -> bool:
        base = self._view.base
        # What is recomputed in the backward pass must attend as it did in the forward pass.
        if self.eager_up_to == 0 or self._view.device.type != "cpu" or self.recomputation.enabled:
            return False
        up_to = max(self.eager_up_to, LONG_UP_TO if base.dtype == torch.bfloat16 else 0)
        return tokens_of_a_row(batch, self._view.config) <= up_to

    @contextlib.contextmanager
    def at_labels(self, labelled: Labelled) -> Iterator[None]:
        """Within the block the last layer and the output head work where there are labels."""
        with self.last_layer.at_labels(labelled.keep), self.head.select(labelled.places):
            yield
