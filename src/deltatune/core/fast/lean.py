"""Parts of a frozen base as single autograd functions, while it trains deltas: the same to rounding, in less.

Transformers writes norms, gated products and attention as chains of tensor operations, each of which makes a
tensor, and most of which keep one for the backward pass. A frozen weight asks for no gradient, so little of
that is needed:

- RMSNorm keeps its input and a number a row, instead of two copies in float32;
- act(gate) * up keeps gate and up, not the activation;
- GELU by its tanh formula is one kernel that keeps its input, instead of eight operations;
- rotations by positions are in rotation.py;
- attention is in lean_attention.py.

A class is replaced only if its own code, run on random numbers, gives the same values and gradients.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from deltatune.core.fast import kernels, rotation
from deltatune.core.fast.kernels import liger
from deltatune.core.fast.trial import TOLERANCE, agree, apart, autocasts

_aten = torch.ops.aten


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), over the last dimension (Zhang & Sennrich 2019, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        y = torch.mul(x, inverse, out=torch.empty_like(x))
        ctx.save_for_backward(x, weight, inverse)
        return y.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            scaled = grad_y * weight
            along = (scaled * x).sum(-1, keepdim=True, dtype=inverse.dtype)
            grad_x = torch.mul(scaled, inverse, out=scaled)
            grad_x.addcmul_(x, (along * inverse**3 / x.shape[-1]).to(x.dtype), value=-1)
        if ctx.needs_input_grad[1]:
            product = (grad_y * inverse).mul_(x)
            grad_weight = product.sum(tuple(range(x.ndim - 1))).to(weight.dtype)
        return grad_x, grad_weight, None


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, _aten.silu_backward),
    "gelu": (F.gelu, _aten.gelu_backward),
    "gelu_tanh": (
        functools.partial(F.gelu, approximate="tanh"),
        functools.partial(_aten.gelu_backward, approximate="tanh"),
    ),
}
"""Function, and its gradient from (gradient of the output, input)."""


class _Gated(torch.autograd.Function):
    """act(gate) * up (Shazeer 2020, equation 5), all [..., width]."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _ACTIVATIONS[activation][0](gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        forward, backward = _ACTIVATIONS[ctx.activation]
        grad_up = forward(gate).mul_(grad)
        return backward(grad * up, gate), grad_up, None


@functools.cache
@apart()
def _is_rms_norm(kind: Any) -> bool:
    if not kind.__name__.endswith(("RMSNorm", "LayerNorm")):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 16, generator=generator), torch.randn(16, generator=generator)

    def own(x: Tensor, weight: Tensor) -> Any:
        return kind.forward(SimpleNamespace(weight=weight, variance_epsilon=0.1), x)

    return agree(own, lambda x, weight: _RmsNorm.apply(x, weight, 0.1), [x, weight])


@functools.cache
@apart()
def _activation(kind: Any) -> str | None:
    """The name in `_ACTIVATIONS` of a module that takes no settings."""
    x = torch.linspace(-6, 6, 200)
    try:
        act = kind()
        values = act(x)
    except (TypeError, RuntimeError, NotImplementedError):
        return None
    for name, (function, _) in _ACTIVATIONS.items():
        if torch.allclose(values, function(x), atol=TOLERANCE):
            return name
    return None


_GATES = (
    ("gate_proj", "up_proj", "down_proj", "act_fn"),
    ("wi_0", "wi_1", "wo", "act"),
    ("gate_up_proj", "gate_up_proj", "down_proj", "activation_fn"),
)
"""Names of the gate, what it multiplies, the way back and the activation, as Llama, T5 and GLM have them.
In the last, one layer makes both, the gate first."""


@functools.cache
@apart()
def _is_gated(kind: Any, names: tuple[str, str, str, str], activation: str) -> bool:
    """Whether the class computes down(act(gate(x)) * up(x)) and nothing else."""
    gate, up, down, act = names

    def own(one: Tensor, other: Tensor) -> Any:
        def back(x: Tensor) -> Tensor:
            return x * 3

        back.weight = one  # type: ignore[attr-defined]  # T5 looks at its type
        both = torch.cat([one, other], dim=-1)
        made = {gate: lambda _: both} if gate == up else {gate: lambda _: one, up: lambda _: other}
        parts = {**made, down: back, act: _ACTIVATIONS[activation][0]}
        return kind.forward(SimpleNamespace(**parts, dropout=lambda x: x), one)

    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    return agree(own, lambda one, other: _Gated.apply(one, other, activation) * 3, list(x.unbind()))


class Lean:
    """Replaces what can be of a base's own computation for a forward pass of training.

    Args:
        base: A Transformers model.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self.kernels: frozenset[str] = frozenset()
        """Kernels that training takes, by their names in `core.fast.kernels`."""

    @functools.cached_property
    def _forwards(self) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
        found = [(module, _leaner(module)) for module in self._base.modules()]
        return [(module, forward) for module, forward in found if forward is not None]

    @functools.cached_property
    def _rotating(self) -> list[Any]:
        """Files of the base's classes in which another rotation by positions stands meanwhile."""
        return rotation.files_that_rotate(self._base.modules())

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Replace within the block; gradients may be taken behind it."""
        # What has been replaced by others, as for weights on several devices, stays as it is.
        free = [(m, forward) for m, forward in self._forwards if "forward" not in m.__dict__]
        for module, forward in free:
            module.__dict__["forward"] = forward
        try:
            with kernels.in_force(self.kernels), rotation.replaced(self._rotating):
                yield
        finally:
            for module, _ in free:
                del module.__dict__["forward"]


def _leaner(module: Any) -> Callable[..., Tensor] | None:
    """What the module may compute instead."""
    kind: Any = type(module)
    if hasattr(module, "variance_epsilon") and _is_rms_norm(kind):
        return functools.partial(_rms_norm, module)
    if kind.__name__ == "NewGELUActivation" and _activation(kind) == "gelu_tanh":
        return _ACTIVATIONS["gelu_tanh"][0]
    for names in _GATES:
        if all(hasattr(module, name) for name in names):
            act: Any = type(getattr(module, names[3]))
            activation = _activation(act)
            if activation and _is_gated(kind, names, activation):
                return functools.partial(_gated, module, names, activation)
    return None


def _rms_norm(module: Any, hidden_states: Tensor) -> Tensor:
    if module.weight.dtype != hidden_states.dtype or autocasts(hidden_states):
        result: Tensor = type(module).forward(module, hidden_states)
    elif kernels.asked_for(kernels.LIGER):
        result = liger.rms_norm(hidden_states, module.weight, module.variance_epsilon)
    else:
        result = _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    return result


def _gated(module: Any, names: tuple[str, str, str, str], activation: str, hidden_states: Tensor) -> Tensor:
    gate, up, down, act = (getattr(module, name) for name in names)
    result: Tensor
    watched = act._forward_hooks or act._forward_pre_hooks  # somebody wants to see or alter what it gives
    weight = getattr(down, "weight", hidden_states)
    # T5's way back is kept in float32 by default, and the class converts what goes into it.
    converts = weight.is_floating_point() and weight.dtype != hidden_states.dtype
    if watched or converts or autocasts(hidden_states):
        result = type(module).forward(module, hidden_states)
        return result
    dropout = getattr(module, "dropout", None)
    one = gate(hidden_states)
    one, other = one.chunk(2, dim=-1) if up is gate else (one, up(hidden_states))
    by_liger = kernels.asked_for(kernels.LIGER) and activation in liger.GATES
    mixed: Tensor = (liger.gated if by_liger else _Gated.apply)(one, other, activation)
    result = down(mixed if dropout is None else dropout(mixed))
    return result
