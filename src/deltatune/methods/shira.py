"""SHiRA: a few entries of a weight matrix are trained, chosen once at random.

    h = (W_0 + S) x,  S zero but at r (d_in + d_out) fixed places           (Bhardwaj et al. 2024, section 3)

As many values as LoRA of rank r has, but S is of high rank. The values start at zero: the base exactly. The
places are drawn from the adapter's seed (SHiRA-Rand, section 3.1) and stored beside the values.

Oracle: peft's ShiraConfig with copied values and places; files load both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.methods.lora import linear_shape, peft_targets, refuse_options


class ShiraDelta(Delta):
    """A sparse update of a Linear or Conv1D at fixed places.

    Args:
        d_in: Width of the input.
        d_out: Width of the output.
        n: Number of trained entries, at most d_in d_out.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, d_in: int, d_out: int, n: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.shape = (d_out, d_in)
        self.shira_weight = nn.Parameter(torch.zeros(n))
        places = torch.randperm(d_out * d_in)[:n].sort().values
        self.register_buffer("shira_indices", torch.stack([places // d_in, places % d_in]).int())
        self.transposed = transposed

    def _update(self) -> Tensor:
        """S as a dense matrix [d_out, d_in]; gradients reach the values only."""
        rows, columns = self.get_buffer("shira_indices").long()
        return self.shira_weight.new_zeros(self.shape).index_put((rows, columns), self.shira_weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + S x; x [..., d_in], y [..., d_out]."""
        return y + F.linear(x, self._update().to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + S, bias), summed in float32."""
        update = self._update().float()
        return (weight.float() + (update.T if self.transposed else update)).to(weight.dtype), bias


class ShiraConfig(MethodConfig):
    """SHiRA. Small files that are switched fast, and that disturb each other little when they are added."""

    name: ClassVar[str] = "shira"
    title: ClassVar[str] = "A few entries of chosen weight matrices, at random places."
    formula: ClassVar[str] = "h = (W_0 + S) x, S zero but at r (d_in + d_out) fixed places"
    when: ClassVar[str] = (
        "When several deltas are to be added to one model, or switched fast in place. Training it costs "
        "more time and memory than LoRA's."
    )
    cost: ClassVar[str] = (
        "r (d_in + d_out) values for each matrix, and two 4-byte indices for each value in the file; one "
        "more dense product of the matrix's size in training. Free once merged."
    )
    defaults: ClassVar[str] = "r 8 on query and value, so as many values as lora's default; lr 1e-3 as there."
    size: ClassVar[str | None] = "r"
    paper: ClassVar[str] = "Bhardwaj et al. 2024, Sparse High Rank Adapters (arXiv 2406.13175)."
    default_lr: ClassVar[float] = 1e-3
    peft_type: ClassVar[str | None] = "SHIRA"

    r: Annotated[int, Field(ge=1)] = 8
    """Trained entries: r (d_in + d_out) for each matrix, as many as LoRA of rank r has."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles, groups, ends of module paths or globs; as for lora."""

    def build(self, view: BaseView) -> Adapter:
        """One sparse update per selected linear layer."""
        deltas = {}
        for path, module in view.select(self.targets).items():
            d_in, d_out = linear_shape(path, module)
            n = self.r * (d_in + d_out)
            if n > d_in * d_out:
                raise TargetError(
                    f"r {self.r} asks for {n} entries of {path!r}, which has {d_in * d_out}.",
                    field="shira.r",
                    remedy=f"Use at most {d_in * d_out // (d_in + d_out)}.",
                )
            deltas[path] = ShiraDelta(d_in, d_out, n, transposed=isinstance(module, Conv1D))
        return Adapter(deltas)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The fields of peft's ShiraConfig and the tensors; None for Conv1D, which peft's cannot adapt."""
        updates = {path: delta for path, delta in adapter.deltas.items() if isinstance(delta, ShiraDelta)}
        if any(delta.transposed for delta in updates.values()):
            return None
        fields = {
            "r": self.r,
            "mask_type": "random",
            "target_modules": list(updates),
            "fan_in_fan_out": False,
        }
        return fields, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields; places of any mask can be read, since the file holds them."""
        refuse_options(config, ())
        return cls(r=config["r"], targets=peft_targets(config))
