"""Parts of a frozen base as single autograd functions, while it trains deltas: the same to rounding, in less.

Transformers writes norms, gated products and attention as chains of tensor operations, each of which makes a
tensor, and most of which keep one for the backward pass. A frozen weight asks for no gradient, so little of
that is needed:

- RMSNorm keeps its input and a number a row, instead of two copies in float32;
- act(gate) * up keeps gate and up, not the activation;
- GELU by its tanh formula is one kernel that keeps its input, instead of eight operations;
- attention by matrix products keeps probabilities once, in the base's precision (attention.py uses it).

A class is replaced only if its own code, run on random numbers, gives the same values and gradients.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

_aten = torch.ops.aten
_TOLERANCE = 1e-5
"""What float32 values of order one may differ by when sums are taken in another order."""


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


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v; heads of the query may share one of key and value."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        heads, length = query.shape[1:3]
        shared = query.shape[0], key.shape[1], -1, query.shape[3]
        scaled = (query * scale).reshape(shared)
        scores = scaled @ key.transpose(2, 3)
        by_head = scores.view(query.shape[0], heads, length, key.shape[2])
        if bias is not None:
            by_head += bias
        shares = torch.softmax(by_head, dim=-1)
        mixed = shares.view(scores.shape) @ value
        ctx.scale, ctx.bias = scale, None if bias is None else bias.shape
        ctx.save_for_backward(scaled, key, value, shares)
        return mixed.view(query.shape[0], heads, length, value.shape[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled, key, value, shares = ctx.saved_tensors
        grad = grad.reshape(*scaled.shape[:3], value.shape[3])
        flat = shares.view(*scaled.shape[:3], key.shape[2])
        grad_value = flat.transpose(2, 3) @ grad
        grad_scores = _aten._softmax_backward_data(grad @ value.transpose(2, 3), flat, -1, flat.dtype)
        grad_query = (grad_scores @ key).mul_(ctx.scale)
        grad_key = grad_scores.transpose(2, 3) @ scaled
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad_scores.view(shares.shape).sum_to_size(ctx.bias)
        return grad_query.view(*shares.shape[:3], key.shape[3]), grad_key, grad_value, grad_bias, None


def attention(  # noqa: PLR0917  (the order is Transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the module's own eager attention does, which runs itself where this is not the same.

    Args:
        module: The attention module.
        query: [batch, heads, length, width].
        key: [batch, heads that keys have, keys, width].
        value: As `key`.
        attention_mask: Added to the scores, [batch or 1, heads or 1, length, keys].
        scaling: Factor on the scores; by default 1 / sqrt(width).
        dropout: Probability of dropping a share.
        position_bias: Added to the scores like the mask.
        rest: What else the model passes; only its own code may know what it means.

    Returns:
        [batch, length, heads, width], and no shares of attention.
    """
    own = sys.modules[type(module).__module__].eager_attention_forward
    asked = [name for name, value in rest.items() if value is not None and value is not False]
    unknown = any(name not in _HARMLESS for name in asked)
    shared = key.shape[1] != query.shape[1]
    different = dropout or unknown or _autocasts(query)
    if different or not _attends_plainly(own, shared, position_bias is not None):
        biased = {} if position_bias is None else {"position_bias": position_bias}
        result: tuple[Tensor, Tensor | None] = own(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **biased, **rest
        )
        return result
    bias = attention_mask
    if position_bias is not None:
        bias = position_bias if attention_mask is None else position_bias + attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed: Tensor = _Attention.apply(query, key, value, bias, scale)
    return mixed.transpose(1, 2).contiguous(), None


def _autocasts(tensor: Tensor) -> bool:
    """Whether autocast chooses the precision of each operation, which only the base's own code allows for."""
    return torch.is_autocast_enabled(tensor.device.type)


_HARMLESS = ("is_causal", "use_cache", "position_ids", "cache_position", "cu_seq_lens_q")
"""Arguments that no eager attention looks at, or that say what the mask says already."""


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Within the block tensors are real, precise, and gradients taken, wherever the model is being run."""
    with (
        _disable_current_modes(),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


@functools.cache
@_apart()
def _attends_plainly(own: Callable[..., Any], shared: bool, biased: bool) -> bool:
    """Whether an eager attention computes the formula above, perhaps with two heads to a key."""
    generator = torch.Generator().manual_seed(0)
    heads = 2 if shared else 4
    shapes = [(2, 4, 3, 8), (2, heads, 5, 8), (2, heads, 5, 8), (2, 1, 3, 5), (1, 4, 3, 5)]
    query, key, value, mask, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    stub = SimpleNamespace(num_key_value_groups=4 // heads, training=False)
    position = {"position_bias": bias} if biased else {}
    return _agree(
        lambda *parts: own(stub, *parts, mask, scaling=0.3, dropout=0.0, **position)[0],
        lambda *parts: _Attention.apply(*parts, mask + bias if biased else mask, 0.3).transpose(1, 2),
        [query, key, value],
    )


def _agree(own: Callable[..., Any], ours: Callable[..., Any], inputs: list[Tensor]) -> bool:
    """Whether two functions give the same values and gradients; one that cannot be called does not."""
    found = []
    for function in (own, ours):
        parts = [tensor.clone().requires_grad_() for tensor in inputs]
        try:
            value = function(*parts)
            weights = torch.linspace(-1, 1, value.numel()).view(value.shape)
            found.append([value, *torch.autograd.grad(value, parts, weights)])
        except (AttributeError, TypeError, RuntimeError, IndexError, ValueError):
            return False
    return all(
        a.shape == b.shape and torch.allclose(a, b, atol=_TOLERANCE) for a, b in zip(*found, strict=True)
    )


@functools.cache
@_apart()
def _is_rms_norm(kind: Any) -> bool:
    if not kind.__name__.endswith(("RMSNorm", "LayerNorm")):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 16, generator=generator), torch.randn(16, generator=generator)

    def own(x: Tensor, weight: Tensor) -> Any:
        return kind.forward(SimpleNamespace(weight=weight, variance_epsilon=0.1), x)

    return _agree(own, lambda x, weight: _RmsNorm.apply(x, weight, 0.1), [x, weight])


@functools.cache
@_apart()
def _activation(kind: Any) -> str | None:
    """The name in `_ACTIVATIONS` of a module that takes no settings."""
    x = torch.linspace(-6, 6, 200)
    try:
        act = kind()
        values = act(x)
    except (TypeError, RuntimeError, NotImplementedError):
        return None
    for name, (function, _) in _ACTIVATIONS.items():
        if torch.allclose(values, function(x), atol=_TOLERANCE):
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
@_apart()
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
    return _agree(own, lambda one, other: _Gated.apply(one, other, activation) * 3, list(x.unbind()))


class Lean:
    """Replaces what can be of a base's own computation for a forward pass of training.

    Args:
        base: A Transformers model.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base

    @functools.cached_property
    def _forwards(self) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
        found = [(module, _leaner(module)) for module in self._base.modules()]
        return [(module, forward) for module, forward in found if forward is not None]

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Replace within the block; gradients may be taken behind it."""
        # What has been replaced by others, as for weights on several devices, stays as it is.
        free = [(m, forward) for m, forward in self._forwards if "forward" not in m.__dict__]
        for module, forward in free:
            module.__dict__["forward"] = forward
        try:
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
    if module.weight.dtype != hidden_states.dtype or _autocasts(hidden_states):
        result: Tensor = type(module).forward(module, hidden_states)
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
    if watched or converts or _autocasts(hidden_states):
        result = type(module).forward(module, hidden_states)
        return result
    dropout = getattr(module, "dropout", None)
    one = gate(hidden_states)
    one, other = one.chunk(2, dim=-1) if up is gate else (one, up(hidden_states))
    mixed: Tensor = _Gated.apply(one, other, activation)
    result = down(mixed if dropout is None else dropout(mixed))
    return result
