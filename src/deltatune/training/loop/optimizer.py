"""The optimizer of a run: AdamW, and its forms that take less memory on GPUs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import head_parameters
from deltatune.core.sites import BaseView
from deltatune.errors import RecipeError
from deltatune.observer import Observer
from deltatune.recipe.rates import Course
from deltatune.recipe.train_section import TrainSpec


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of what a method trains, and of a classifier's new head."""

    lr: float
    head: float | None
    """None: as the rest."""

    @classmethod
    def of(cls, spec: TrainSpec, method: MethodConfig, course: Course) -> Rates:
        """The rates of an entry's run, of this method and this course."""
        head = None if spec.head_lr == "lr" else spec.peak_head_lr(method, course)
        return cls(spec.peak_lr(method, course), head)

    def set(self, optimizer: torch.optim.Optimizer, adapter: Adapter, share: float) -> None:
        """Give each group its rate at this share of the peak; 1 is the peak."""
        for group in optimizer.param_groups:
            if group["head"] is not None:
                group["lr"] = group["head"] * share
            else:
                group["lr"] = self.lr * share * adapter.lr_factor(group["first"])


def build_optimizer(  # noqa: PLR0917
    adapter: Adapter,
    view: BaseView,
    spec: TrainSpec,
    rates: Rates,
    device: torch.device,
    observer: Observer,
) -> torch.optim.Optimizer:
    """AdamW over what the adapter trains, grouped by its learning-rate factors, new heads by themselves.

    A group's `first` is the name of one of its parameters, by which the factor is asked for on every step: it
    may change in the course of a run, for all parameters that share it alike. Its `head` is the peak rate, if
    it holds heads.

    `adamw-8bit` keeps the moments in 8 bits (Dettmers et al. 2022); `adamw-paged` keeps them in memory that
    moves to the host when the GPU's runs out (QLoRA, Dettmers et al. 2023, section 3). Both are kernels for
    GPUs; elsewhere the ordinary AdamW takes their place, which the observer is told.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    heads = set() if rates.head is None else {id(p) for p in head_parameters(adapter, view)}
    grouped: dict[tuple[float, float | None], dict[str, torch.nn.Parameter]] = {}
    for name, parameter in adapter.trainable():
        head = rates.head if id(parameter) in heads else None
        factor = 1.0 if head is not None else adapter.lr_factor(name)
        grouped.setdefault((factor, head), {})[name] = parameter
    groups: list[dict[str, Any]] = [
        {"params": list(named.values()), "first": next(iter(named)), "head": head}
        for (_, head), named in grouped.items()
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
        optimizer: torch.optim.Optimizer = made(groups, lr=rates.lr, weight_decay=spec.weight_decay)
        return optimizer
    if spec.optimizer != "adamw":
        observer.warn(f"{spec.optimizer} works on GPUs only; this run on the {device.type} takes adamw.")
    return torch.optim.AdamW(groups, lr=rates.lr, weight_decay=spec.weight_decay, fused=True)
