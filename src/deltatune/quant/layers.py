"""Layers that a checkpoint brings quantized, by a backend that deltatune need not know.

What such a layer keeps is its backend's affair. What it computes tells all that is needed here: its outputs
for unit vectors are the columns of the weight, and one backward pass tells whether deltas below it can learn.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

COLUMNS = 512
"""Columns of a weight that are read at a time."""
TRIED = 64
"""Columns of a weight that a trial of its gradient looks at."""
CLOSE = 0.02
"""Relative difference of gradients that rounding explains, in bfloat16 as well."""


@dataclass(frozen=True)
class StoredAs:
    """What is known of a layer that came quantized, kept at the layer as `stored_as`."""

    format: str
    """What it is called, such as `gptq 4 bit`."""
    compute: torch.dtype
    """Type of the activations that it is given."""


class StoredLinear(nn.Linear):
    """A quantized layer that is no `nn.Linear`, where methods look for one.

    Args:
        inner: The layer as its backend made it: [..., d_in] -> [..., d_out].
    """

    def __init__(self, inner: Any) -> None:
        nn.Module.__init__(self)  # no weight of its own
        self.in_features, self.out_features = int(inner.in_features), int(inner.out_features)
        self.inner = inner

    def train(self, mode: bool = True) -> Self:
        """The layer itself stays in training mode: backends take kernels that give gradients in it.

        It has no dropout, and so it computes the same in evaluations.
        """
        super().train(mode)
        self.inner.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """As the layer computes."""
        found: Tensor = self.inner(x)
        return found

    def __getattr__(self, name: str) -> Any:
        """What is asked of the layer beyond that, such as its bias, it answers itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class Stored:
    """The codec of stored layers."""

    def owns(self, module: nn.Module) -> bool:
        """Whether it is marked as one."""
        return "stored_as" in vars(module)

    def describe(self, module: Any) -> str:
        """As the checkpoint's configuration has it."""
        return str(module.stored_as.format)

    def read(self, module: Any) -> Tensor:
        """The outputs for all unit vectors, less that for zeros."""
        starts = range(0, module.in_features, COLUMNS)
        parts = [range(start, min(start + COLUMNS, module.in_features)) for start in starts]
        return torch.cat([_columns(module, list(part)) for part in parts], 1)

    def scales(self, module: Any) -> list[Tensor]:
        """None but the layer's own parameters and buffers."""
        return []


def inner_tensors(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor consists of: itself, or the parts of a backend's class of tensors."""
    subclass: Any = tensor
    divided = hasattr(subclass, "full_tensor")  # among processes (core/sharding.py), by no backend
    if divided or not is_traceable_wrapper_subclass(subclass):
        return [tensor]
    names, _ = subclass.__tensor_flatten__()
    return [plain for name in sorted(names) for plain in inner_tensors(getattr(tensor, name))]


def gradient_fault(layer: nn.Linear, compute: torch.dtype) -> str | None:
    """What is wrong with the gradient that a frozen layer gives for its input; None if nothing is.

    The gradient for y = W x is that of y times W. It may be off by what the layer's own outputs are off,
    since some backends round activations too.
    """
    draw = torch.Generator().manual_seed(0)
    places = torch.linspace(0, layer.in_features - 1, min(TRIED, layer.in_features)).long().tolist()
    device = _device(layer)
    weight = _columns(layer, places, compute)
    narrow = torch.randn(8, len(places), generator=draw).to(device)
    x = torch.randn(8, layer.in_features, generator=draw).to(device, compute).requires_grad_()
    with torch.no_grad():
        zeros = torch.zeros(1, layer.in_features, device=device, dtype=compute)
        spread = zeros.expand(8, -1).clone()
        spread[:, places] = narrow.to(compute)
        outputs = (layer.forward(spread) - layer.forward(zeros)).float()
        own_error = _distance(outputs, narrow @ weight.T)
    try:
        with torch.enable_grad():
            y = layer.forward(x)
            at_y = torch.randn(y.shape, generator=draw).to(y)
            [at_x] = torch.autograd.grad(y, x, at_y)
    except RuntimeError as error:
        return f"gives no gradient for its input ({str(error).strip().partition(chr(10))[0].rstrip('.')})"
    error_of_gradient = _distance(at_x[:, places].float(), at_y.float() @ weight)
    if not error_of_gradient <= max(CLOSE, 3 * own_error):
        return (
            f"gives a gradient for its input that is off by {error_of_gradient:.0%}, where its outputs are "
            f"off by {own_error:.1%}"
        )
    return None


@torch.no_grad()
def _columns(layer: Any, places: list[int], compute: torch.dtype | None = None) -> Tensor:
    """Columns of the weight that a layer computes with, [d_out, places], in float32."""
    compute = compute or layer.stored_as.compute
    units = torch.zeros(len(places) + 1, layer.in_features, device=_device(layer), dtype=compute)
    units[torch.arange(len(places)), places] = 1.0
    found = layer.forward(units).float()  # not called: that would go through deltas' hooks
    return (found[:-1] - found[-1]).T


def _device(layer: nn.Module) -> torch.device:
    """Where a layer is; its tensors may be parameters or buffers."""
    return next(itertools.chain(layer.parameters(), layer.buffers())).device


def _distance(found: Tensor, wanted: Tensor) -> float:
    """Relative difference by norms."""
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
