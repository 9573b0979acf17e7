"""What the checks are made of: models with an adapter, their logits, losses, gradients and anatomy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Adapter
from deltatune.core.attention import TAP
from deltatune.core.model import AdaptedModel
from deltatune.testing import tiny
from deltatune.testing.case import Case

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, relative to the largest value.

    Raises:
        AssertionError: They are not; the message says how far they are apart.
    """
    largest = expected.abs().max().item() if isinstance(expected, Tensor) else 1.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * max(largest, 1.0))


def adapted(case: Case, architecture: str, *, act: bool = True, **options: Any) -> AdaptedModel:
    """A tiny base with the method attached as "a"; `act` moves its parameters away from their start."""
    dropout = options.pop("dropout", 0.0)
    attention = options.pop("attention", "sdpa")
    base = tiny.model(architecture, dropout=dropout, attention=attention)
    model = AdaptedModel(base, tiny.heads(architecture), **options)
    add(model, case, "a", act=act)
    return model.eval()


def add(
    model: AdaptedModel, case: Case, name: str, *, seed: int = 1, act: bool = True, config: Any = None
) -> Adapter:
    """Attach one more adapter of the case."""
    adapter = model.attach(name, case.settings(config), seed=seed)
    if act and model.configs[name].trains:
        tiny.perturb(adapter, seed=seed)
    return adapter


def logits(model: AdaptedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits at labelled positions, or of the classes."""
    if batch["labels"].dim() == 1:
        return model.class_logits(batch)
    return model.labelled_logits(batch)[0]


def loss(model: AdaptedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross entropy summed over the labels."""
    if batch["labels"].dim() == 1:
        return F.cross_entropy(logits(model, batch).float(), batch["labels"], reduction="sum")
    found, targets = model.labelled_logits(batch)
    return F.cross_entropy(found.float(), targets, reduction="sum")


def trained(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Everything that is trained, by path where there is one."""
    if adapter.own:
        return adapter.own
    named = [(path, part.named_parameters()) for path, part in adapter.parts()]
    paths = {id(p): f"{path}.{name}" for path, parameters in named for name, p in parameters}
    return {paths.get(id(p), name): p for name, p in adapter.trainable()}


def idle(adapter: Adapter, architecture: str) -> list[str]:
    """Trained parameters without a gradient, but for those that no method could give one."""
    unused = tiny.UNUSED.get(architecture, "none")
    found = {n: p.grad for n, p in trained(adapter).items() if unused not in n}
    # adding a constant to all keys changes no attention, so the bias of a key has a gradient of zero
    key_bias = re.compile(r"(k_proj|key)\b.*bias")
    return [n for n, grad in found.items() if grad is None or not (grad.any() or key_bias.search(n))]


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    """Copies of the gradients, which are cleared."""
    found = {n: p.grad.clone() for n, p in trained(adapter).items() if p.grad is not None}
    for parameter in adapter.parameters():
        parameter.grad = None
    return found


def anatomy(base: nn.Module) -> dict[str, Any]:
    """All that must be the same after an adapter has come and gone."""
    digest = hashlib.sha256()
    for name, tensor in base.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    configs: list[Any] = [m.config for m in base.modules() if hasattr(m, "config")]
    return {
        "bytes": digest.hexdigest(),
        "keys": list(base.state_dict()),
        "classes": [(name, type(module)) for name, module in base.named_modules()],
        "hooks": [(n, h) for n, m in base.named_modules() for h in HOOKS if getattr(m, h)],
        "parameters": [(n, id(p), p.requires_grad) for n, p in base.named_parameters()],
        "attention": [config._attn_implementation for config in configs],
        "taps": [n for n, m in base.named_modules() if hasattr(m, TAP)],
        "stand-ins": [n for n, m in base.named_modules() if "forward" in m.__dict__],
        "modes": [(n, m.training) for n, m in base.named_modules()],
    }
