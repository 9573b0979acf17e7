"""The layers of a base as graphs of `torch.compile`, in passes of training whose shapes have been tried.

What hangs on a layer's modules (deltas, learned keys and values) is traced with the layer, so each layer is
one graph, and layers that are alike share it. Graphs have fixed shapes. A pass goes through them if its
shapes are among those that `trying` has seen; every other pass, and every pass without gradients, is computed
as ever. Nothing is compiled outside of `trying`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from deltatune.core.fast.last_layer import LastLayer
from deltatune.core.sites import BaseView, stacks

Shapes = frozenset[tuple[str, tuple[int, ...]]]
MOST_GRAPHS = 256
"""Graphs of one kind of layer, of all shapes together; torch's own limit is 8."""


class CompiledLayers:
    """Compiles a base's layers, and lets passes go through what was compiled.

    Args:
        view: The base.
        last_layer: Where it works at chosen positions, whose number varies, the last layer stays as it is.
    """

    def __init__(self, view: BaseView, last_layer: LastLayer) -> None:
        self._view, self._last_layer = view, last_layer
        self._calls: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._seen: set[Shapes] = set()
        self._trying = False

    def start(self, backend: str | Callable[..., Any], mode: str | None = None) -> int:
        """Get ready to compile, by one of torch's backends and, of inductor, in one of its modes.

        Returns:
            How many layers will be compiled; 0: the base has none that can be told.
        """
        for path, stack in stacks(self._view.base).items():
            layers = list(stack)
            if self._last_layer.acts_in(path):
                layers.pop()
            for layer in layers:
                forward = MethodType(type(layer).forward, layer)
                call = torch.compile(forward, backend=backend, mode=mode, fullgraph=True, dynamic=False)
                self._calls.append((layer, call))
        return len(self._calls)

    def stop(self) -> None:
        """Let go of all graphs."""
        if self._calls:
            self._calls, self._seen = [], set()
            torch.compiler.reset()

    @property
    def started(self) -> bool:
        """Whether passes may go through compiled layers."""
        return bool(self._calls)

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Within the block passes of all shapes are compiled, and known from then on.

        Raises:
            Exception: Of torch, where a layer is no single graph.
        """
        self._trying = True
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
                yield
        finally:
            self._trying = False

    def takes(self, batch: Mapping[str, Any]) -> bool:
        """Whether a pass on these arguments of the base goes through compiled layers."""
        # What looks at every operation, as the account of memory does, must see them one by one.
        plain = torch.is_grad_enabled() and _get_current_dispatch_mode() is None
        if not self._calls or not plain:
            return False
        shapes = _shapes(batch)
        if self._trying:
            self._seen.add(shapes)
        return shapes in self._seen

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Within the block layers are those that were compiled. Gradients may be taken behind it."""
        stance = "default" if self._trying else "eager_on_recompile"
        # What has been replaced by others, as a trunk or weights on several devices, stays as it is.
        free = [(layer, call) for layer, call in self._calls if "forward" not in layer.__dict__]
        for layer, call in free:
            layer.__dict__["forward"] = call
        try:
            with torch.compiler.set_stance(stance):
                yield
        finally:
            for layer, _ in free:
                del layer.__dict__["forward"]


def _shapes(batch: Mapping[str, Any]) -> Shapes:
    return frozenset((name, tuple(value.shape)) for name, value in batch.items() if isinstance(value, Tensor))
