"""Learned keys and values in attention that asks no table of functions: BLOOM's and DeBERTa's.

The class's own code runs, so that all else stays what it is. BLOOM gets the learned ones as if its cache held
them. DeBERTa has no cache; in its place runs a stand-in whose projections give them with those of the input.

Where they stand: in BLOOM at the positions before the input's first, as a filled cache has them (peft), so
that ALiBi makes the far ones fainter. In DeBERTa nowhere: a query meets the content of a learned key, and the
terms for relative positions are zero, as in the code of P-tuning v2 (THUDM/P-tuning-v2, model/deberta.py and
model/debertaV2.py). The divisor of the scores, which counts those terms, is that of all keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.learned import Learned, widen

Way = Callable[[Any, Learned, dict[str, Any]], Any]
"""(module, what it sees, its call's arguments by name) -> its output."""


def way_into(module: nn.Module) -> Way | None:
    """How learned keys and values get into an attention module; None if there is no way."""
    return _WAYS.get(type(module).__module__)


class _Cache:
    """Gives learned keys and values before those that a cache holds, which does not get to hold them."""

    def __init__(self, cache: Any, learned: Learned) -> None:
        self._cache = cache
        self._learned = learned

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As a cache of Transformers does; the tensors are [batch, heads, length, width]."""
        if self._cache is not None:
            key, value = self._cache.update(key, value, *args, **kwargs)
        return _before(self._learned.keys, key, 2), _before(self._learned.values, value, 2)


class _StandIn:
    """A module, some parts of which are others."""

    def __init__(self, module: nn.Module, **parts: Callable[..., Any]) -> None:
        self._module = module
        self.__dict__.update(parts)

    def __getattr__(self, name: str) -> Any:
        """All other parts are the module's."""
        return getattr(self._module, name)


def _bloom(module: Any, learned: Learned, call: dict[str, Any]) -> Any:
    """BLOOM: `alibi` [batch * heads, 1, keys] counts from 0 at the input's first token."""
    batch, heads, n, _ = learned.keys.shape
    alibi = call["alibi"]
    two = torch.ones(1, 2, device=alibi.device)
    slopes = sys.modules[type(module).__module__].build_alibi_tensor(two, heads, torch.float32)[:, :, 1:]
    before = (slopes * torch.arange(-n, 0, device=alibi.device)).to(alibi.dtype)
    queries, keys = call["hidden_states"].shape[1], alibi.shape[2]
    return type(module).forward(
        module,
        **call
        | {
            "alibi": torch.cat([before.repeat(batch, 1, 1), alibi], dim=2),
            "attention_mask": widen(call.get("attention_mask"), learned, queries, keys),
            "layer_past": _Cache(call.get("layer_past"), learned),
        },
    )


def _deberta_v2(module: Any, learned: Learned, call: dict[str, Any]) -> Any:
    """DeBERTa-v2: scores are [batch * heads, queries, keys]."""
    n = learned.keys.shape[2]
    keys, values = (part.transpose(1, 2).flatten(2) for part in (learned.keys, learned.values))

    def bias(query: Tensor, key: Tensor, *rest: Any) -> Tensor | int:
        return _padded(module.disentangled_attention_bias(query, key[:, n:], *rest), (n, 0))

    stand_in = _StandIn(
        module,
        key_proj=lambda x: _before(keys, module.key_proj(x), 1),
        value_proj=lambda x: _before(values, module.value_proj(x), 1),
        disentangled_attention_bias=bias,
    )
    mask = call["attention_mask"]
    call["attention_mask"] = widen(mask, learned, mask.shape[2], mask.shape[3])
    return type(module).forward(stand_in, **call)


def _deberta(module: Any, learned: Learned, call: dict[str, Any]) -> Any:
    """DeBERTa: one layer makes query, key and value, so that learned ones come with a query, which is cut."""
    n = learned.keys.shape[2]
    width = learned.values.shape[3]
    # The value's bias is added behind the layer, and a learned one has none.
    values = learned.values - module.v_bias.view(-1, 1, width)
    fused = torch.cat([torch.zeros_like(learned.keys), learned.keys, values], dim=3)
    fused = fused.transpose(1, 2).flatten(2)

    def bias(query: Tensor, key: Tensor, *rest: Any) -> Tensor | int:
        inner = module.disentangled_att_bias(query[:, :, n:], key[:, :, n:], *rest)
        return _padded(inner, (n, 0, n, 0))

    stand_in = _StandIn(
        module, in_proj=lambda x: _before(fused, module.in_proj(x), 1), disentangled_att_bias=bias
    )
    mask = call["attention_mask"]
    mask = widen(mask, learned, mask.shape[2], mask.shape[3])
    assert mask is not None
    call["attention_mask"] = F.pad(mask, (0, 0, n, 0))
    mixed, shares = type(module).forward(stand_in, **call)
    return mixed[:, n:], None if shares is None else shares[:, :, n:]


def _padded(bias: Tensor | int, sizes: tuple[int, ...]) -> Tensor | int:
    """A position bias, zero for learned keys; one that has no terms is the number 0."""
    return F.pad(bias, sizes) if isinstance(bias, Tensor) else bias


def _before(learned: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Both as one, in the type of the second, which autocast may have chosen."""
    return torch.cat([learned.to(tensor.dtype), tensor], dim=dim)


_WAYS: dict[str, Way] = {
    "transformers.models.bloom.modeling_bloom": _bloom,
    "transformers.models.deberta.modeling_deberta": _deberta,
    "transformers.models.deberta_v2.modeling_deberta_v2": _deberta_v2,
}
"""By the file of the class."""
