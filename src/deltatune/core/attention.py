"""Attention taps: learned keys and values put before those of the input, in any attention of any model.

Transformers routes attention through a table of functions. Three of ours stand in it: over SDPA, over the
model's own eager attention, and over a lean form of the latter (fast/lean_attention.py). They prepend what is
learned for the calling module, widen the mask and the position bias, and hand over; without it they change
nothing. Models that do not ask the table have ways of their own (own_attention.py). Caches keep holding the
input's keys only: cached generation equals the uncached, with any padding.

Where the rows of a batch are packed into one (fast/packing.py), the same functions set them apart first.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from deltatune.core.adapter import KeysValues
from deltatune.core.fast import lean_attention
from deltatune.core.fast.layout import Layout, in_force, layout
from deltatune.core.fast.padding import as_told
from deltatune.core.learned import Learned, widen
from deltatune.core.own_attention import way_into
from deltatune.core.taps import Active, call_arguments
from deltatune.core.whole import gathered
from deltatune.errors import AdapterError, TargetError

OVER_SDPA = "deltatune_sdpa"
OVER_EAGER = "deltatune_eager"
OVER_LEAN = "deltatune_lean"
ORIGINAL = {OVER_SDPA: "sdpa", OVER_EAGER: "eager"}
"""What a model's attention was before it was tapped."""
_TAKES_LEARNED = (*ORIGINAL, *ORIGINAL.values(), OVER_LEAN)
EAGER_UP_TO = 256
"""Tokens of a row up to which CPUs train with lean attention: the backward pass of SDPA is slow there, and
what is kept, [heads, length, length] of each row and layer, is small."""
LONG_UP_TO = 1024
"""The same where the base is in bfloat16. Nothing is kept of long rows, and with AVX512 attention takes 0.6
of SDPA's time at 277 and 512 tokens, and as long at this many. In float32 SDPA is faster on long rows."""


def _uses_table(module: nn.Module) -> bool:
    """Whether a module's file asks Transformers' table for attention."""
    return hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")


class AttentionTap:
    """The learned keys and values of all adapters at one attention module.

    Args:
        path: The module's path.
        module: It.
        active: Which adapters act.
        biased: The attention that makes the position bias of this one out of distances; None without such.

    Raises:
        TargetError: The module computes attention itself, so that nothing could be put into it.
    """

    def __init__(self, path: str, module: nn.Module, active: Active, biased: nn.Module | None = None) -> None:
        self._way = None if _uses_table(module) else way_into(module)
        if self._way is None and not _uses_table(module):
            raise TargetError(
                f"{type(module).__name__} at {path!r} computes attention on its own, where learned keys and "
                "values cannot be inserted.",
                field="model",
                remedy="Choose a method that acts on weights or inputs, such as lora or prompt.",
            )
        if hasattr(module, TAP):
            raise TargetError(
                f"another AdaptedModel has put keys and values into the attention at {path!r}.",
                field="model",
                remedy="Detach them there, attach both adapters to one AdaptedModel, or copy the base.",
            )
        self.path = path
        self.active = active
        self.keys_values: dict[str, KeysValues] = {}
        self.calls = 0
        module.__dict__[TAP] = self  # where compiled graphs of like layers find each its own
        self._module = weakref.ref(module)
        self._biased: Any = biased
        self._past = 0
        self._counting = biased and module.register_forward_pre_hook(self._count, with_kwargs=True)
        self._before: Any = module.__dict__.get("forward")  # of others, as for weights on several devices
        if self._way is not None:
            module.__dict__["forward"] = self._forward

    def __deepcopy__(self, memo: Any) -> AttentionTap:
        """Refuse: the copy would look alive, and nothing would call it."""
        raise AdapterError(
            "a model with learned keys and values in its attention cannot be copied.",
            remedy="Save the adapter, and load it into an AdaptedModel around a copy of the base.",
        )

    def remove(self) -> None:
        """Forget the module."""
        if self._counting:
            self._counting.remove()
        module = self._module()
        if module is None:
            return
        del module.__dict__[TAP]
        if self._way is not None:
            del module.__dict__["forward"]
            if self._before is not None:
                module.__dict__["forward"] = self._before

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a module that computes attention on its own does instead."""
        module = self._module()
        assert module is not None
        assert self._way is not None
        call = call_arguments(module, args, kwargs)
        learned = self.collect(call["hidden_states"], call["hidden_states"])
        if learned is not None:
            return self._way(module, learned, call)
        return (self._before or MethodType(type(module).forward, module))(*args, **kwargs)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        """Note how many tokens of the input stand before the queries of a call."""
        if torch.compiler.is_compiling():  # a pass of training
            self._past = 0
            return
        call = call_arguments(module, args, kwargs)
        cache = call.get("cache", call.get("past_key_values"))
        self._past = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))

    def _biases(self, counts: Mapping[str, int], query: Tensor) -> dict[str, Tensor] | None:
        """The position bias [1, heads, queries, n] of each adapter's keys; None if it is zero for all.

        Args:
            counts: How many keys each adapter has.
            query: [batch, heads, queries, head_dim].
        """
        if self._biased is None or not any(self.keys_values[name].placed for name in counts):
            return None
        _, heads, length, _ = query.shape
        biases = {}
        for name, n in counts.items():
            before = n + self._past
            biases[name] = query.new_zeros(1, heads, length, n)
            if self.keys_values[name].placed:
                with gathered(self._biased):  # of the first layer, and this may be another
                    bias = self._biased.compute_bias(before + length, n)
                biases[name] = bias[:, :, before:].to(query.dtype)
        return biases

    def collect(self, query: Tensor, key: Tensor) -> Learned | None:
        """What a call sees, by the routes that act.

        Rows that see fewer than the longest are filled up on the left, farthest from the input.

        Args:
            query: [batch, heads, queries, head_dim]; only a position bias asks for more than its rows.
            key: Tells rows, type and device.
        """
        routes = self.active.of(self.keys_values)
        if not routes:
            return None
        if not torch.compiler.is_compiling():  # a graph would hold for this number only
            self.calls += 1
        batch = key.shape[0]
        learned = {route.name: self.keys_values[route.name]() for route in routes}
        biases = self._biases({name: k.shape[1] for name, (k, _) in learned.items()}, query)
        if self.active.batch_rows is None:
            keys = torch.cat([k for k, _ in learned.values()], dim=1).to(key.dtype)
            values = torch.cat([v for _, v in learned.values()], dim=1).to(key.dtype)
            bias = None if biases is None else torch.cat(list(biases.values()), dim=3)
            return Learned(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), None, bias)
        heads, _, width = next(iter(learned.values()))[0].shape
        n = max(k.shape[1] for k, _ in learned.values())
        seen = torch.zeros(batch, n, dtype=torch.bool, device=key.device)
        each = 0  # rows that see all of them: known here, where a GPU would have to be asked
        whole = None if biases is None else query.new_zeros(batch, *query.shape[1:3], n)
        blank = key.new_zeros(1, heads, n, width)
        key_rows: list[Tensor] = []
        value_rows: list[Tensor] = []
        done = 0
        for name, rows in self.active.stretched(routes, batch):
            short = n - learned[name][0].shape[1]
            for into, tensor in zip((key_rows, value_rows), learned[name], strict=True):
                into.append(blank.expand(rows.start - done, -1, -1, -1))
                filled = F.pad(tensor.to(key.dtype), (0, 0, short, 0))
                into.append(filled.expand(rows.stop - rows.start, -1, -1, -1))
            seen[rows, short:] = True
            each += (rows.stop - rows.start) * (short == 0)
            if whole is not None and biases is not None:
                whole[rows, :, :, short:] = biases[name]
            done = rows.stop
        for into in (key_rows, value_rows):
            into.append(blank.expand(batch - done, -1, -1, -1))
        return Learned(torch.cat(key_rows), torch.cat(value_rows), None if each == batch else seen, whole)


TAP = "_deltatune_tap"
"""The attribute by which an attention module knows its tap."""


def _attend(  # noqa: PLR0917  (the order is Transformers')
    inner: Callable[..., tuple[Tensor, Tensor | None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    how = layout()
    if how is None:
        return _attend_in_rows(inner, module, query, key, value, attention_mask, **rest)
    query, key, value = (how.heads_apart(part) for part in (query, key, value))
    mixed, _ = _attend_in_rows(inner, module, query, key, value, attention_mask, **rest)
    return how.packed(mixed), None


def _attend_in_rows(  # noqa: PLR0917
    inner: Callable[..., tuple[Tensor, Tensor | None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    tap: AttentionTap | None = getattr(module, TAP, None)
    learned = tap.collect(query, key) if tap is not None else None
    if learned is None:
        return inner(module, query, key, value, attention_mask, **rest)
    keys, values, _, bias = learned
    mask = widen(_explicit(attention_mask, module, query, key, rest), learned, query.shape[2], key.shape[2])
    rest["is_causal"] = False
    if (given := rest.get("position_bias")) is not None:
        if bias is None:
            rest["position_bias"] = F.pad(given, (keys.shape[2], 0))
        else:
            rows = max(len(bias), len(given))
            both = [part.to(given.dtype).expand(rows, -1, -1, -1) for part in (bias, given)]
            rest["position_bias"] = torch.cat(both, dim=3)
    if inner is not sdpa_attention_forward and mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(query.dtype).min
        )
    return inner(
        module, query, torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2), mask, **rest
    )


def _explicit(
    mask: Tensor | None, module: nn.Module, query: Tensor, key: Tensor, rest: dict[str, Any]
) -> Tensor | None:
    """Write out a causal mask that was only implied: prepended keys would shift the implied one."""
    causal = rest.get("is_causal")
    causal = getattr(module, "is_causal", False) if causal is None else causal
    n_query, n_key = query.shape[2], key.shape[2]
    if mask is not None or not causal or n_query == 1:
        return mask
    return torch.ones(n_query, n_key, dtype=torch.bool, device=query.device).tril(n_key - n_query)[None, None]


def _over_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, **rest)


def _over_eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    own = sys.modules[type(module).__module__].eager_attention_forward
    return _attend(own, module, query, key, value, attention_mask, **rest)


def _over_lean(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    return _attend(lean_attention.attention, module, query, key, value, attention_mask, **rest)


def _full_sdpa_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' mask for SDPA, without leaving out a causal mask that SDPA could imply."""
    asked = {**as_told(kwargs), "allow_is_causal_skip": False}
    mask: Tensor | None = sdpa_mask(*args, **_apart(asked))
    return mask


def _full_eager_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' mask for eager attention."""
    mask: Tensor | None = eager_mask(*args, **_apart(kwargs))
    return mask


def _apart(asked: dict[str, Any]) -> dict[str, Any]:
    """What a mask is asked for; where rows are packed, one for rows apart, as attention sees them."""
    how = layout()
    if how is None:
        return asked
    sizes = {"batch_size": how.rows, "q_length": how.length, "kv_length": how.length}
    return {**asked, **sizes, "attention_mask": how.mask.bool()}


AttentionInterface.register(OVER_SDPA, _over_sdpa)
AttentionInterface.register(OVER_EAGER, _over_eager)
AttentionInterface.register(OVER_LEAN, _over_lean)
AttentionMaskInterface.register(OVER_SDPA, _full_sdpa_mask)
AttentionMaskInterface.register(OVER_EAGER, _full_eager_mask)
AttentionMaskInterface.register(OVER_LEAN, _full_eager_mask)


def tokens_of_a_row(batch: Mapping[str, Any], config: Any) -> int:
    """Length of the longest sequence that a model makes of its arguments: text, or patches of an image."""
    if "pixel_values" in batch:
        height, width = batch["pixel_values"].shape[-2:]
        patch = getattr(getattr(config, "vision_config", config), "patch_size", 1)  # in CLIP it lies deeper
        high, wide = patch if isinstance(patch, list | tuple) else (patch, patch)
        return int(height // high) * int(width // wide) + 1
    return max(value.shape[1] for value in batch.values() if isinstance(value, Tensor) and value.ndim > 1)


class AttentionSwitch:
    """Sets a model's attention to the tapped functions while adapters need them, and back afterwards."""

    def __init__(self, base: nn.Module) -> None:
        # Elsewhere the name chooses between ways of the model's own, which may not be the same.
        modules: Iterable[Any] = [m for m in base.modules() if hasattr(m, "config") and _uses_table(m)]
        self._configs = list({id(m.config): m.config for m in modules}.values())
        self._before: list[tuple[Any, str]] = []

    def eager(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, what attends by SDPA attends by matrix products and a softmax."""
        return self._switched({"sdpa": OVER_LEAN, OVER_SDPA: OVER_LEAN})

    @contextlib.contextmanager
    def packed(self, how: Layout | None) -> Iterator[None]:
        """Within the block, attention takes rows that are packed in this way; None: rows as they are."""
        if how is None:
            yield
            return
        with self._switched({name: tapped for tapped, name in ORIGINAL.items()}), in_force(how):
            yield

    @contextlib.contextmanager
    def _switched(self, other: Mapping[str, str]) -> Iterator[None]:
        """Within the block, each attention that `other` names is the one that it names it by."""
        before = [config._attn_implementation for config in self._configs]
        for config, implementation in zip(self._configs, before, strict=True):
            config._attn_implementation = other.get(implementation, implementation)
        try:
            yield
        finally:
            for config, implementation in zip(self._configs, before, strict=True):
                config._attn_implementation = implementation

    def on(self) -> None:
        """Route the attention of every part of the model through the taps.

        Raises:
            TargetError: It is one whose kernels take no keys but the input's.
        """
        if self._before:
            return
        for config in self._configs:
            if config._attn_implementation not in (None, *_TAKES_LEARNED):
                raise TargetError(
                    f"is {config._attn_implementation}, which cannot attend to learned keys and values.",
                    field="model.attention",
                    remedy="Leave it out, or choose sdpa or eager; or take a method without them.",
                )
        self._before = [(config, config._attn_implementation) for config in self._configs]
        for config, implementation in self._before:
            config._attn_implementation = OVER_EAGER if implementation == "eager" else OVER_SDPA

    def off(self) -> None:
        """Restore what was set before."""
        for config, implementation in self._before:
            config._attn_implementation = implementation
        self._before = []
