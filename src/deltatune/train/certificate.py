"""Proof of effect: that a delta acted, learned and left the base alone. A failed line fails the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError


class Certificate:
    """Collects checks, each with what was found; the first that fails ends the run."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def check(self, name: str, passed: bool, detail: str, remedy: str) -> None:
        """Record a check.

        Raises:
            TrainingError: It failed.
        """
        self.lines.append({"check": name, "passed": passed, "detail": detail})
        if not passed:
            raise TrainingError(f"{name}: {detail}.", field="certificate", remedy=remedy)

    def taps_fired(self, model: AdaptedModel) -> None:
        """Every site of the active adapters was reached by the forward pass."""
        counts = model.fired()
        silent = [path for path, calls in counts.items() if calls == 0]
        self.check(
            "every tap fired",
            not silent,
            f"{len(counts)} sites"
            if not silent
            else f"{len(silent)} of {len(counts)} did not, first {silent[0]}",
            "The model computes these modules in another way; choose other targets.",
        )

    def learned(self, adapter: Adapter, before: Mapping[str, Tensor]) -> None:
        """Every part of the delta got a gradient in the first step and was changed by it.

        Some parameters start with a zero gradient by design (LoRA's A, while B is zero), so each part is
        judged as a whole.
        """
        after = dict(adapter.named_parameters())
        silent, still = [], []
        for name, group in _parts(adapter).items():
            grads = [after[key].grad for key in group]
            if not any(grad is not None and bool((grad != 0).any()) for grad in grads):
                silent.append(name)
            if all(torch.equal(after[key].detach().cpu(), before[key]) for key in group):
                still.append(name)
        self.check(
            "gradient in every part",
            not silent,
            f"{len(_parts(adapter))} parts"
            if not silent
            else f"none in {len(silent)} parts, first {silent[0]}",
            "Gradients do not reach the delta; check gradient checkpointing and the targets.",
        )
        self.check(
            "every part changed in step one",
            not still,
            f"{len(_parts(adapter))} parts" if not still else f"{len(still)} parts did not, first {still[0]}",
            "The learning rate may be too small for the arithmetic; raise train.lr.",
        )


def _parts(adapter: Adapter) -> dict[str, list[str]]:
    """Names of the trained parameters of each part: a delta, the keys and values of a site, the prompt."""
    name_of = {id(parameter): name for name, parameter in adapter.trainable()}
    parts = {
        path: [name_of[id(p)] for p in module.parameters() if id(p) in name_of]
        for path, module in adapter.parts()
    }
    grouped = {name for group in parts.values() for name in group}
    rest = {name: [name] for name in name_of.values() if name not in grouped}
    return {path: group for path, group in (parts | rest).items() if group}


def snapshot(adapter: Adapter) -> dict[str, Tensor]:
    """Copies of all parameters on the CPU, by name."""
    return {name: parameter.detach().cpu().clone() for name, parameter in adapter.named_parameters()}
