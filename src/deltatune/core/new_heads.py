"""New heads: modules that a checkpoint did not bring, which every run starts from random values of its own.

The base holds one random start, which runs that share it leave alone. What a run trains, or is judged by, is
a copy; its start depends on the run's seed, and is the same for all methods of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from deltatune.core.adapter import Adapter
from deltatune.core.delta import ModuleCopy
from deltatune.core.sites import BaseView
from deltatune.core.whole import as_whole

_STREAM = 0x48454144 << 32
"""Sets the numbers of heads apart from those that deltas of the same seed start from."""


def add_heads(adapter: Adapter, view: BaseView, heads: Sequence[str], *, trained: bool) -> None:
    """Give the adapter whole copies of modules, but of those that it acts on itself.

    Args:
        adapter: Of any method.
        view: The base it hangs on.
        heads: Paths of the modules.
        trained: Whether the copies are trained.
    """
    acts_on = [f"{path}." for path in adapter.deltas]
    for path in heads:
        if not any(site.startswith(f"{path}.") for site in acts_on):
            adapter.add(path, ModuleCopy(view.modules[path]).float().requires_grad_(trained))


@torch.no_grad()
def start_heads_(adapter: Adapter, view: BaseView, seed: int) -> None:
    """Give the adapter's copies of the base's new heads a random start of their own.

    It is the base's own in another order: Transformers drew those numbers independently, each tensor's from
    one distribution, which an architecture may choose for its head in particular (CLIP does). What is
    constant, such as a bias of zeros, stays.

    Args:
        adapter: Of any method; one without copies of new heads is left as it is.
        view: The base it hangs on, whose own heads keep their bytes.
        seed: The run's.
    """
    for path in view.heads:
        generator = torch.Generator().manual_seed(seed + _STREAM)
        for name, held in view.modules[path].named_parameters():
            drawn = as_whole(held)
            order = torch.randperm(drawn.numel(), generator=generator).to(drawn.device)
            copy = _copy_of(adapter, path, name)
            if copy is not None:
                copy.copy_(drawn.flatten()[order].view_as(drawn))


def _copy_of(adapter: Adapter, path: str, name: str) -> Tensor | None:
    """The adapter's stand-in for the parameter `name` of the head at `path`, if it has one."""
    copy = adapter.deltas.get(path)
    if isinstance(copy, ModuleCopy):
        return copy.copy.get_parameter(name)
    return adapter.own.get(f"{path}.{name}")


def head_modules(view: BaseView) -> dict[str, nn.Module]:
    """A classifier's head by path: its new modules; or, where it is trained, all outside of the backbone.

    Empty for models of language and for those without a head.
    """
    if view.base.get_output_embeddings() is not None or is_bare(view.base):
        return {}
    backbone, new = view.base.base_model_prefix, tuple(f"{head}." for head in view.heads)
    return {
        path: module
        for path, module in view.modules.items()
        if (f"{path}.".startswith(new) if new else path.split(".")[0] not in ("", backbone))
        and next(module.parameters(recurse=False), None) is not None
    }


def is_bare(base: Any) -> bool:
    """Whether a base has no head at all, as `AutoModel` loads it."""
    mapping: Any = MODEL_MAPPING
    kind = type(base.config)
    return kind in mapping and mapping[kind] is type(base)


def head_parameters(adapter: Adapter, view: BaseView) -> Iterator[nn.Parameter]:
    """The trained parameters of heads: of modules that are copied whole, and of new heads in a full copy."""
    for delta in adapter.deltas.values():
        if isinstance(delta, ModuleCopy):
            yield from (p for p in delta.parameters() if p.requires_grad)
    of_heads = tuple(f"{path}." for path in view.heads)
    yield from (parameter for path, parameter in adapter.own.items() if path.startswith(of_heads))
