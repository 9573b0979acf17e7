"""Attention of a frozen base by matrix products, as single autograd functions: the same to rounding, in less.

Eager attention in Transformers keeps its shares in float32 and again in the base's precision. Here they are
kept once, and of long rows not at all. SDPA, which is the default, keeps none either, but its backward pass
is slow on CPUs.

A model's attention is replaced only if its own eager code, run on random numbers, gives the same values and
gradients, and only in calls that this trial speaks for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from deltatune.core.fast.rotation import empty_by_token
from deltatune.core.fast.trial import agree, apart, autocasts

_aten = torch.ops.aten
KEEPS_UP_TO = 256
"""Shares of more queries by keys than this squared are computed again in the backward pass. With AVX512, in
bfloat16, on 8 rows that takes as long at 277 tokens, and 0.8 of the time at 512."""


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v; heads of the query may share one of key and value."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        heads, length = query.shape[1:3]
        shared = query.shape[0], key.shape[1], -1, query.shape[3]
        # Heads lie scattered among tokens, and each product would copy them anew to bring them together.
        scaled = torch.mul(query, scale, out=query.new_empty(query.shape)).view(shared)
        key, value = key.contiguous(), value.contiguous()
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
        grad = grad.reshape(*scaled.shape[:3], value.shape[3]).contiguous()
        flat = shares.view(*scaled.shape[:3], key.shape[2])
        grad_value = flat.transpose(2, 3) @ grad
        grad_scores = _aten._softmax_backward_data(grad @ value.transpose(2, 3), flat, -1, flat.dtype)
        grad_query = (grad_scores @ key).view(*shares.shape[:3], key.shape[3])
        grad_query = torch.mul(grad_query, ctx.scale, out=empty_by_token(grad_query))
        grad_key = grad_scores.transpose(2, 3) @ scaled
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad_scores.view(shares.shape).sum_to_size(ctx.bias)
        return grad_query, grad_key, grad_value, grad_bias, None


class _LongAttention(torch.autograd.Function):
    """The same for long rows: one row of the batch after the other, each computed again in the backward pass.

    The shares of one row stay in the processor's caches, and none are kept.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd functions take their arguments by position)
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        position_bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        scaled = (query * scale).reshape(query.shape[0], key.shape[1], -1, query.shape[3])
        mixed = value.new_empty(*scaled.shape[:3], value.shape[3])
        for row in range(len(scaled)):
            shares = _shares_of(row, query.shape[2], scaled, key, mask, position_bias)
            torch.matmul(shares, value[row], out=mixed[row])
        ctx.scale = scale
        ctx.save_for_backward(scaled, key, value, mask, position_bias)
        return mixed.view(*query.shape[:3], value.shape[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled, key, value, mask, position_bias = ctx.saved_tensors
        of_query = grad.shape[:3]
        grad = grad.reshape(*scaled.shape[:3], value.shape[3])
        grad_query, grad_key, grad_value = (part.new_empty(part.shape) for part in (scaled, key, value))
        for row, of in enumerate(grad):
            shares = _shares_of(row, of_query[2], scaled, key, mask, position_bias)
            torch.matmul(shares.transpose(1, 2), of, out=grad_value[row])
            grad_scores = _aten._softmax_backward_data(of @ value[row].transpose(1, 2), shares, -1, of.dtype)
            torch.matmul(grad_scores, key[row], out=grad_query[row])
            torch.matmul(grad_scores.transpose(1, 2), scaled[row], out=grad_key[row])
        grad_query = grad_query.mul_(ctx.scale).view(*of_query, key.shape[3])
        return grad_query, grad_key, grad_value, None, None, None


def _shares_of(row: int, length: int, scaled: Tensor, key: Tensor, *biases: Tensor | None) -> Tensor:
    """Shares of attention [heads of the keys, queries of all their heads, keys] in a row of the batch."""
    scores = scaled[row] @ key[row].transpose(1, 2)
    by_head = scores.view(-1, length, scores.shape[-1])
    for bias in biases:
        if bias is not None:
            by_head += bias[row if len(bias) > 1 else 0]
    return torch.softmax(scores, dim=-1)


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

    Long rows, of which eager attention keeps too much, are attended to by SDPA where this is not the same.

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
    different = dropout or unknown or autocasts(query)
    long = query.shape[2] * key.shape[2] > KEEPS_UP_TO**2
    trains_bias = position_bias is not None and position_bias.requires_grad
    if different or (long and trains_bias) or not _attends_plainly(own, shared, position_bias is not None):
        biased: dict[str, Any] = {} if position_bias is None else {"position_bias": position_bias}
        result: tuple[Tensor, Tensor | None] = (sdpa_attention_forward if long else own)(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **biased, **rest
        )
        return result
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed: Tensor
    if long:
        mixed = _LongAttention.apply(query, key, value, attention_mask, position_bias, scale)
    else:
        bias = attention_mask
        if position_bias is not None:
            bias = position_bias if attention_mask is None else position_bias + attention_mask
        mixed = _Attention.apply(query, key, value, bias, scale)
    return mixed.transpose(1, 2).contiguous(), None


_HARMLESS = ("is_causal", "use_cache", "position_ids", "cache_position", "cu_seq_lens_q")
"""Arguments that no eager attention looks at, or that say what the mask says already."""


@functools.cache
@apart()
def _attends_plainly(own: Callable[..., Any], shared: bool, biased: bool) -> bool:
    """Whether an eager attention computes the formula above, perhaps with two heads to a key."""
    generator = torch.Generator().manual_seed(0)
    heads = 2 if shared else 4
    shapes = [(2, 4, 3, 8), (2, heads, 5, 8), (2, heads, 5, 8), (2, 1, 3, 5), (1, 4, 3, 5)]
    query, key, value, mask, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    stub = SimpleNamespace(num_key_value_groups=4 // heads, training=False)
    position = {"position_bias": bias} if biased else {}
    return agree(
        lambda *parts: own(stub, *parts, mask, scaling=0.3, dropout=0.0, **position)[0],
        lambda *parts: _Attention.apply(*parts, mask + bias if biased else mask, 0.3).transpose(1, 2),
        [query, key, value],
    )
