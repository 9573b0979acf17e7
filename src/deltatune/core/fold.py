"""Folding: an adapter written into the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltatune import quant
from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta, Foldable, ModuleCopy
from deltatune.core.taps import Route
from deltatune.core.whole import is_sharded
from deltatune.errors import AdapterError


def require_foldable(base: nn.Module) -> None:
    """Refuse a base whose weights hold few bits, or of which each process holds a part.

    Raises:
        AdapterError: It is quantized or sharded.
    """
    if is_sharded(base):
        raise AdapterError(
            "each process holds a part of the base, and folding would write into parts of a copy.",
            remedy="Save the delta; `deltatune merge` in one process loads the base as a whole.",
        )
    formats = quant.describe(base)
    if formats:
        raise AdapterError(
            f"the base is quantized ({formats}), and folding into few bits would round the delta away.",
            remedy="Load the base without quantization and fold into that; `deltatune merge` does so.",
        )


def require_in_weights(adapter: Adapter, name: str) -> None:
    """Refuse what is made of training rows, and no change of weights.

    Raises:
        AdapterError: It is.
    """
    if adapter.beside is not None or adapter.reads_states:
        raise AdapterError(
            f"{name!r} cannot be written into weights: it shows or copies training rows, or the input, "
            "and has trained nothing.",
            remedy="Use it as it is: `deltatune predict` and `deltatune evaluate` do.",
        )


@torch.no_grad()
def fold_into_(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Write `adapter` (called `name` in errors) into the parameters of `model`, which are changed.

    A module whose weight is tied to that of another gets one of its own first, since the delta acts on it
    alone; the whole model is untied then.

    Raises:
        AdapterError: It has no equivalent in the weights: it adds tokens, or changes no weight.
    """
    require_in_weights(adapter, name)
    if adapter.keys_values or adapter.prompt is not None:
        raise AdapterError(
            f"the adapter {name!r} adds tokens and cannot be written into weights.",
            remedy="Keep it as an adapter; `deltatune predict` and the Python API use it as it is.",
        )
    for path, parameter in adapter.own.items():
        model.get_parameter(path).copy_(parameter)
    if any(_is_tied(model, path) for path in adapter.deltas):
        untie_(model)
    for path, delta in adapter.deltas.items():
        _fold(model.get_submodule(path), delta, name)


def _is_tied(model: nn.Module, path: str) -> bool:
    """Whether the module at `path` has a parameter in common with one outside of it."""
    inside = set(model.get_submodule(path).modules())
    mine = {id(p) for module in inside for p in module._parameters.values() if p is not None}
    others = (module for module in model.modules() if module not in inside)
    return any(id(p) in mine for module in others for p in module._parameters.values())


def untie_(model: Any) -> None:
    """Give every module its own copy of what it shares, so that saving and loading keep them apart.

    Where the configuration can say that embeddings are not tied, it says so. T5's cannot (it takes that for
    another scale of its logits): its tables are told apart on loading since their values differ.
    """
    seen: set[int] = set()
    for module in model.modules():
        for leaf, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) in seen:
                module._parameters[leaf] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            seen.add(id(parameter))
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(module, "all_tied_weights_keys"):
            module.all_tied_weights_keys = {}
        if getattr(config, "tie_word_embeddings", False):
            untied = type(config).from_dict(config.to_dict() | {"tie_word_embeddings": False})
            config.tie_word_embeddings = untied.tie_word_embeddings


@torch.no_grad()
def fold_routes_into_(model: nn.Module, parts: Sequence[tuple[Route, Adapter]]) -> None:
    """Write several adapters into `model`: one after another, or each route's weight times its change.

    Raises:
        AdapterError: As for `fold_into_`.
    """
    if not any(route.weight is not None for route, _ in parts):
        for route, adapter in parts:
            fold_into_(model, adapter, route.name)
        return
    before, changes = dict[str, Tensor](), dict[str, Tensor]()
    paths = dict.fromkeys(path for _, adapter in parts for path in adapter.deltas)
    for path in paths:
        before |= {f"{path}.{n}": p.clone() for n, p in model.get_submodule(path).named_parameters()}
    for route, adapter in parts:
        fold_into_(model, adapter, route.name)
        for path in paths:
            for leaf, parameter in model.get_submodule(path).named_parameters():
                key = f"{path}.{leaf}"
                if key not in before:  # a bias where there was none
                    before[key] = torch.zeros_like(parameter)
                change = (parameter.float() - before[key].float()) * (route.weight or 0.0)
                changes[key] = changes.get(key, torch.zeros_like(change)) + change
                parameter.copy_(before[key])
    for key, change in changes.items():
        model.get_parameter(key).copy_(before[key].float() + change)


def _fold(module: Any, delta: Delta, name: str) -> None:
    if isinstance(delta, ModuleCopy):
        module.load_state_dict(delta.copy.state_dict())
        return
    if not isinstance(delta, Foldable):
        raise AdapterError(
            f"the adapter {name!r} cannot be written into weights: none of {type(module).__name__} can "
            "express it.",
            remedy="Keep it as an adapter.",
        )
    weight, bias = delta.fold(module.weight, getattr(module, "bias", None))
    module.weight.copy_(weight)
    if bias is not None and module.bias is None:
        module.bias = nn.Parameter(bias, requires_grad=False)
    elif bias is not None:
        module.bias.copy_(bias)
