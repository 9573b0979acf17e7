"""(IA)^3: keys, values and the inner activations of the feed-forward are rescaled by learned vectors.

    k = l_k * (W_k x),  v = l_v * (W_v x),  h = W_2 (l_ff * f(W_1 x))      (Liu et al. 2022, section 3.3)

All vectors start at one, so that training starts at the base exactly. A scaled output scales its bias as
well. Where queries, keys and values are one layer (GPT-2, GPT-NeoX) its whole output is scaled, as in peft.

Oracle: peft's IA3Config with copied weights; files load both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.methods.lora import linear_shape, peft_targets


class Ia3OutputDelta(Delta):
    """l * y: the output of a Linear or Conv1D, rescaled.

    Args:
        d_out: Width of the output.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, d_out: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(d_out, 1))
        self.transposed = transposed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return l * y; y [..., d_out]."""
        return y * self.ia3_l.flatten().to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (diag(l) weight, l * bias)."""
        factor = self.ia3_l.float()
        scaled = (weight.float() * (factor.T if self.transposed else factor)).to(weight.dtype)
        return scaled, None if bias is None else (bias.float() * factor.flatten()).to(bias.dtype)


class Ia3InputDelta(Delta):
    """l * x: the input of a Linear or Conv1D, rescaled.

    Args:
        d_in: Width of the input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, d_in: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(1, d_in))
        self.transposed = transposed

    def before(self, x: Tensor) -> Tensor:
        """Return l * x; x [..., d_in]."""
        return x * self.ia3_l.flatten().to(x.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight diag(l), bias)."""
        factor = self.ia3_l.float()
        return (weight.float() * (factor.T if self.transposed else factor)).to(weight.dtype), bias


class Ia3Config(MethodConfig):
    """(IA)^3. Very few parameters; made for few-shot tuning of multitask models."""

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "Vectors that rescale keys, values and the feed-forward's inner activations."
    formula: ClassVar[str] = "k = l_k * (W_k x), v = l_v * (W_v x), h = W_2 (l_ff * f(W_1 x))"
    when: ClassVar[str] = (
        "For few rows, many tasks and files of a few kilobytes, on models that know the task nearly. Not "
        "where much is to be learned."
    )
    cost: ClassVar[str] = "d_k + d_v + d_ff parameters for each block; free once merged."
    defaults: ClassVar[str] = (
        "Keys, values and feed-forward as in the paper; lr 3e-3 as in its recipe (T-Few)."
    )
    paper: ClassVar[str] = (
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context "
        "Learning (arXiv 2205.05638)."
    )
    default_lr: ClassVar[float] = 3e-3
    short_runs: ClassVar[float] = 10.0
    peft_type: ClassVar[str | None] = "IA3"
    selectors: ClassVar[tuple[str, ...]] = ("targets", "feedforward")

    targets: tuple[str, ...] = ("key", "value")
    """Layers whose output is rescaled: roles, groups, ends of module paths or globs."""
    feedforward: tuple[str, ...] = ("mlp_out",)
    """Layers whose input is rescaled. A layer in both lists has its input rescaled."""

    def build(self, view: BaseView) -> Adapter:
        """One vector per selected linear layer."""
        inputs = view.select(self.feedforward)
        chosen = view.select((*self.targets, *self.feedforward))
        deltas: dict[str, Delta] = {}
        for path, module in chosen.items():
            d_in, d_out = linear_shape(path, module)
            transposed = isinstance(module, Conv1D)
            deltas[path] = (
                Ia3InputDelta(d_in, transposed=transposed)
                if path in inputs
                else Ia3OutputDelta(d_out, transposed=transposed)
            )
        return Adapter(deltas)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of peft's IA3Config, and the tensors under the names they have already."""
        vectors = {p: d for p, d in adapter.deltas.items() if isinstance(d, Ia3OutputDelta | Ia3InputDelta)}
        fields = {
            "target_modules": list(vectors),
            "feedforward_modules": [path for path, d in vectors.items() if isinstance(d, Ia3InputDelta)],
            "fan_in_fan_out": any(delta.transposed for delta in vectors.values()),
        }
        return fields, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        feedforward = peft_targets({"target_modules": config.get("feedforward_modules") or []})
        targets = tuple(name for name in peft_targets(config) if name not in feedforward)
        return cls(targets=targets, feedforward=feedforward)
