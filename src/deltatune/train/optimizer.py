"""The optimizer of a run: AdamW, and its forms that take less memory on GPUs."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from deltatune.core.adapter import Adapter
from deltatune.core.observer import Observer
from deltatune.errors import RecipeError
from deltatune.recipe.sections import TrainSpec


def build_optimizer(
    adapter: Adapter, spec: TrainSpec, lr: float, device: torch.device, observer: Observer
) -> torch.optim.Optimizer:
    """AdamW over what the adapter trains, grouped by its learning-rate factors.

    A group's `first` is the name of one of its parameters, by which the factor is asked for on every step: it
    may change in the course of a run, for all parameters that share it alike.

    `adamw-8bit` keeps the moments in 8 bits (Dettmers et al. 2022); `adamw-paged` keeps them in memory that
    moves to the host when the GPU's runs out (QLoRA, Dettmers et al. 2023, section 3). Both are kernels for
    GPUs; elsewhere the ordinary AdamW takes their place, which the observer is told.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    by_factor: dict[float, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in adapter.trainable():
        by_factor.setdefault(adapter.lr_factor(name), {})[name] = parameter
    groups: list[dict[str, Any]] = [
        {"params": list(named.values()), "first": next(iter(named))} for named in by_factor.values()
    ]
    if spec.optimizer != "adamw" and device.type == "cuda":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise RecipeError(
                f"{spec.optimizer} needs the package bitsandbytes, which is not installed.",
                field="train.optimizer",
                remedy='Install it: pip install "deltatune[quant]".',
            )
        from bitsandbytes import optim

        made = optim.AdamW8bit if spec.optimizer == "adamw-8bit" else optim.PagedAdamW
        optimizer: torch.optim.Optimizer = made(groups, lr=lr, weight_decay=spec.weight_decay)
        return optimizer
    if spec.optimizer != "adamw":
        observer.warn(f"{spec.optimizer} works on GPUs only; this run on the {device.type} takes adamw.")
    return torch.optim.AdamW(groups, lr=lr, weight_decay=spec.weight_decay, fused=True)
