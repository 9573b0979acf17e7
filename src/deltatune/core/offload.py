"""Offload: the layers of a frozen base rest on the host, and one at a time is where it is computed.

A weight at rest is an ordinary tensor of the host, in memory or in a mapped file. So whatever reads a base
outside its passes (the start of a delta, a hash, a copy) reads it as ever. Before a layer's forward pass its
weights are brought to the device, and behind it they are put to rest.

The graph would keep the weights of all layers on the device, since the gradient of a layer's input is a
product with them. So it keeps in their place what they are called, and they are brought again when the
backward pass asks for them. The same operations see the same numbers: nothing is recomputed, and every
result is that of a base that is not offloaded, bit for bit.

Accelerate's hooks bear gradients as well. But the graph holds what they have brought until the backward pass
is over, so that memory does not go down, and between passes they leave no weights that a method could read.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deltatune.core.devices import HOST, on_gpu, pinned, send
from deltatune.core.sites import stacks
from deltatune.errors import AdapterError, ModelError

FIELD = "train.offload"


def _nothing(tensors: Sequence[Tensor]) -> None:
    """What is to be done with weights in memory that have been used."""


@dataclass(eq=False)
class _Layer:
    """A layer and its weights at rest."""

    module: weakref.ref[nn.Module]
    parameters: list[nn.Parameter]
    rest: list[Tensor] = field(default_factory=list)
    """Their numbers on the host."""
    keeping: saved_tensors_hooks | None = None
    """In force while the layer works and a graph is made."""

    @property
    def bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters)


@dataclass(frozen=True)
class _Named:
    """What the graph keeps in place of a weight or a view of it."""

    layer: _Layer
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


class Offload:
    """What brings the layers of one base, and puts them to rest.

    Args:
        base: A Transformers model on the host, all of whose weights are at rest now.
        forget: Called with weights that have been used, for what holds them in memory of the host only
            while they are.

    Raises:
        ModelError: The base has no stack of layers.
    """

    def __init__(self, base: nn.Module, forget: Callable[[Sequence[Tensor]], None] = _nothing) -> None:
        self._base = weakref.ref(base)
        self.forget = forget
        self.device = HOST
        self.arrived: Callable[[Sequence[Tensor]], None] = _nothing
        """Called with copies of weights that have come to the device."""
        self._layers = [_Layer(weakref.ref(module), own) for module, own in layers_of(base)]
        if not self._layers:
            raise ModelError(
                f"{type(base).__name__} has no stack of layers, of which one at a time could be in memory.",
                field=FIELD,
                remedy="Leave it out.",
            )
        self._here: _Layer | None = None
        self._weights: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        """The storages of `_weights` -> their number."""
        _offloads[base] = self

    def place(self, device: torch.device) -> None:
        """Move what belongs to no layer to `device`; from now on the layers are brought there.

        Weights in memory are pinned where a GPU copies from pinned memory by itself.
        """
        base: Any = self._base()
        self.device = device
        for layer in self._layers:
            if self.forget is _nothing and device.type in ("cuda", "xpu"):
                for parameter in layer.parameters:
                    parameter.data = pinned(parameter.data)
            layer.rest = [parameter.data for parameter in layer.parameters]
            before, after = _Hook(self, layer, self._before), _Hook(self, layer, self._after)
            module: Any = layer.module()
            module.register_forward_pre_hook(before, prepend=True)
            module.register_forward_hook(after, always_call=True)
            _working[module] = self, layer
        resting = {id(parameter) for layer in self._layers for parameter in layer.parameters}
        for parameter in base.parameters():
            if id(parameter) not in resting:
                parameter.data = parameter.data.to(device)
        for module in base.modules():
            module._buffers |= {k: None if b is None else b.to(device) for k, b in module._buffers.items()}

    def _before(self, layer: _Layer) -> None:
        """Let a layer work; not one that is bypassed, as below a delta whose input is kept."""
        module: Any = layer.module()
        if "forward" in module.__dict__:
            return
        self.put_to_work(layer)
        # A layer that is recomputed keeps nothing in its first pass, and little for long in its second.
        if torch.is_grad_enabled() and not getattr(module, "gradient_checkpointing", False):
            layer.keeping = saved_tensors_hooks(self._named, self._of_name)
            layer.keeping.__enter__()

    def _after(self, layer: _Layer) -> None:
        if layer.keeping is not None:
            layer.keeping.__exit__()
            layer.keeping = None
        self.put_to_rest(layer)

    def put_to_work(self, layer: _Layer) -> None:
        """Let the parameters of a layer be those on the device."""
        self._bring(layer)
        for parameter, weight in zip(layer.parameters, self._weights, strict=True):
            parameter.data = weight

    def put_to_rest(self, layer: _Layer) -> None:
        """Let them be those on the host; what is on the device stays there until another layer comes."""
        for parameter, weight in zip(layer.parameters, layer.rest, strict=True):
            parameter.data = weight

    def _bring(self, layer: _Layer) -> None:
        if self._here is layer:
            return
        self.leave()
        # Generation brings layers as well, and what it makes is of no use to training unless it is plain.
        with torch.inference_mode(False), torch.no_grad():
            self._weights = [send(weight, self.device) for weight in layer.rest]
        self._here = layer
        self._numbers = {w.untyped_storage()._cdata: number for number, w in enumerate(self._weights)}
        if on_gpu(self.device):
            self.arrived(self._weights)

    def leave(self) -> None:
        """Let go of the layer that was brought last."""
        if self._here is not None:
            self.put_to_rest(self._here)
            self.forget(self._here.rest)
        self._here, self._weights, self._numbers = None, [], {}

    def _named(self, tensor: Tensor) -> Tensor | _Named:
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is None or self._here is None:
            return tensor
        return _Named(self._here, number, tensor.size(), tensor.stride(), tensor.storage_offset())

    def _of_name(self, kept: Tensor | _Named) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        self._bring(kept.layer)
        return self._weights[kept.number].as_strided(kept.size, kept.stride, kept.offset)

    def forget_all(self) -> None:
        """Let go of all weights: something outside the passes of the base has read them."""
        self.leave()
        for layer in self._layers:
            self.forget(layer.rest)

    def in_memory(self, held: Sequence[Tensor]) -> list[Tensor]:
        """Those of a base's tensors that count as memory of its device: not those at rest.

        A CPU that computes with mapped weights has the largest layer's besides.
        """
        largest = max(self._layers, key=lambda layer: layer.bytes)
        out = {id(p) for layer in self._layers if layer is not largest for p in layer.parameters}
        out |= {id(p) for p in largest.parameters} if on_gpu(self.device) else set()
        return [tensor for tensor in held if id(tensor) not in out]


class _Hook:
    """A hook of a layer, which does nothing in a copy of the base: that has weights of its own."""

    def __init__(self, offload: Offload, layer: _Layer, act: Callable[[_Layer], None]) -> None:
        self._offload, self._layer, self._act = offload, layer, act

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if module is self._layer.module():
            self._act(self._layer)

    def __deepcopy__(self, memo: Any) -> _Hook:
        if on_gpu(self._offload.device):
            raise AdapterError(
                "the base's layers rest on the host, and a copy would have to be on the GPU as a whole.",
                field=FIELD,
                remedy='Load the run with device="cpu" to merge it.',
            )
        return self


_offloads: weakref.WeakKeyDictionary[nn.Module, Offload] = weakref.WeakKeyDictionary()


_working: weakref.WeakKeyDictionary[nn.Module, tuple[Offload, _Layer]] = weakref.WeakKeyDictionary()


def work_again(module: nn.Module) -> None:
    """Let a layer work whose hooks are not called: it is computed again in the backward pass.

    It does so until another one comes, since the recomputed graph refers to the parameters themselves.
    """
    offload, layer = _working.get(module, (None, None))
    if offload is not None and layer is not None:
        offload.put_to_work(layer)


def offload_of(base: nn.Module) -> Offload | None:
    """What brings the layers of a base; None if they are where the rest of it is."""
    return _offloads.get(base)


def place_of_rest(
    asked: Literal["cpu", "disk"] | None, device: torch.device
) -> Literal["cpu", "disk"] | None:
    """What a recipe's `train.offload` comes to: the memory of a CPU is no other place for it."""
    return None if asked == "cpu" and not on_gpu(device) else asked


def layers_of(base: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """The layers of a base, each with the parameters that are its own and no other module's."""
    holders = Counter(id(p) for module in base.modules() for p in module.parameters(recurse=False))
    for stack in stacks(base).values():
        for layer in stack:
            yield layer, [p for p in layer.parameters() if holders[id(p)] == 1]


def at_rest(base: nn.Module) -> int:
    """Bytes of the weights that would be at rest while the largest layer works."""
    sizes = [sum(p.nbytes for p in parameters) for _, parameters in layers_of(base)]
    return sum(sizes) - max(sizes, default=0)


@contextlib.contextmanager
def counted(base: nn.Module, count: Callable[[Sequence[Tensor]], None]) -> Iterator[None]:
    """Within the block, `count` is told of each layer's weights that come to the device."""
    offload = offload_of(base)
    if offload is None:
        yield
        return
    offload.arrived = count
    count(offload._weights if on_gpu(offload.device) else [])
    try:
        yield
    finally:
        offload.arrived = _nothing
