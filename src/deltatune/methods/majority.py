"""The majority: every row is given the largest class of the training rows. What reading the rows must beat.

    logits = log p, where p are the shares of the classes among the training rows (one row more of each)
    logits = log p / (1 - p) of labels of which a row may have several (one row more with each, and without)
    outputs = 0 of numbers, which are standardised: their mean

Oracle: counting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import head_modules
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError


class Shares(Delta):
    """Answers with the logarithms of the classes' shares, or labels' log odds, whatever comes in."""

    log_shares: Tensor

    def __init__(self, classes: int, sets: bool = False) -> None:
        super().__init__()
        self.sets = sets
        self.register_buffer("log_shares", torch.full((classes,), -math.log(classes)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the shares for every row of `y`, [rows, ..., classes]."""
        return self.log_shares.to(y.dtype).expand_as(y)


class Mean(Delta):
    """Answers with the mean of the training rows' numbers, which is 0 in what a head gives."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return zeros for every row of `y`."""
        return torch.zeros_like(y)


class Majority(Adapter):
    """An adapter that counts."""

    def see_classes(self, rows: Sequence[int], of: int) -> None:
        """Take the shares, of one row more for each class, so that none is impossible."""
        counts = torch.tensor(rows, dtype=torch.float64) + 1
        for delta in self.deltas.values():
            if isinstance(delta, Shares):
                without = of + 2 - counts if delta.sets else counts.sum()
                delta.log_shares.copy_((counts / without).log())


class MajorityConfig(MethodConfig):
    """The largest class of the training rows, the labels that most of them have, or the mean; no settings."""

    name: ClassVar[str] = "majority"
    title: ClassVar[str] = (
        "Nothing: every row is given the largest class of the training rows, or their mean."
    )
    formula: ClassVar[str] = (
        "logits = log(shares of the classes); of sets of labels, of each its log odds; 0 of numbers"
    )
    when: ClassVar[str] = (
        "In every comparison of classifiers, to which it is added by itself: a method that does not beat it "
        "tells no rows apart."
    )
    cost: ClassVar[str] = "Nothing is trained; one number is stored for each class."
    defaults: ClassVar[str] = "There are no settings."
    paper: ClassVar[str] = "None; it is a baseline."
    default_lr: ClassVar[float] = 0.0
    trains: ClassVar[bool] = False

    def build(self, view: BaseView) -> Adapter:
        """The shares in place of what the head's last layer gives."""
        classes = int(getattr(view.config, "num_labels", 0))
        last = [path for path, module in head_modules(view).items() if _width(module) == classes]
        if not last:
            raise TargetError(
                f"a {type(view.base).__name__} has no head that tells classes apart.",
                field="majority",
                remedy="It is for tasks that tell classes or numbers.",
            )
        problem = getattr(view.config, "problem_type", None)
        if problem == "regression":
            return Majority({path: Mean() for path in last})
        sets = problem == "multi_label_classification"
        return Majority({path: Shares(classes, sets) for path in last})


def _width(module: Any) -> int:
    """Numbers that a linear layer gives for a row; 0 of another module."""
    return int(getattr(module, "out_features", 0))
