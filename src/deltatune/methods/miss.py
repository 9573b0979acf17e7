"""MiSS: shards of a weight matrix share one trainable matrix.

    h = W_0 x + D^T sum_i x[i r : (i + 1) r]             (Kang and Yin 2024, section 3)

The input is cut into shards of r elements (zeros fill up the last), which are added; D is [r, d_out]. So the
update of W_0 is D^T side by side, d_in / r times. D starts at zero: the base exactly.

Oracle: peft's MissConfig with copied weights; files load both ways.
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
from deltatune.core.delta import Delta, Dropout
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import AdapterError, TargetError
from deltatune.methods.lora import left_to_peft, linear_shape, peft_targets, refuse_options

_VARIANTS = ("bat", "mini")


class MissDelta(Delta):
    """One matrix D [r, d_out] for all shards of the input of a Linear or Conv1D.

    Args:
        d_out: Width of the output.
        r: Width of a shard.
        dropout: Probability of dropping an element of the update's input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, d_out: int, r: int, dropout: float = 0.0, *, transposed: bool = False) -> None:
        super().__init__()
        self.miss_block = nn.Parameter(torch.zeros(r, d_out))
        self.dropout = Dropout(dropout)
        self.transposed = transposed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + (sum of x's shards) D; x [..., d_in], y [..., d_out]."""
        r = len(self.miss_block)
        filled = F.pad(self.dropout(x), (0, -x.shape[-1] % r))
        shards = filled.reshape(*x.shape[:-1], -1, r)
        return y + F.linear(shards.sum(dim=-2), self.miss_block.T.to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + D^T side by side, bias), summed in float32."""
        d_in = weight.shape[0 if self.transposed else 1]
        rows = torch.arange(d_in, device=weight.device) % len(self.miss_block)
        update = self.miss_block.float()[rows]
        return (weight.float() + (update if self.transposed else update.T)).to(weight.dtype), bias


class MissConfig(MethodConfig):
    """MiSS. LoRA's quality class with one matrix instead of two."""

    name: ClassVar[str] = "miss"
    title: ClassVar[str] = "One trainable matrix shared by all shards of a weight matrix."
    formula: ClassVar[str] = "h = W_0 x + D^T sum_i x[i r : (i + 1) r]"
    when: ClassVar[str] = "As an alternative to LoRA that starts faster and takes less memory and time."
    cost: ClassVar[str] = "r d_out parameters for each matrix; r d_out products per token. Free once merged."
    defaults: ClassVar[str] = (
        "r 16 on query and value has the parameters of lora's r 8 (peft takes 64); lr 3e-4, below "
        "lora's: an entry of D moves d_in / r entries of the weight at once."
    )
    size: ClassVar[str | None] = "r"
    paper: ClassVar[str] = (
        "Kang and Yin 2024, MiSS: Matrix Shard Sharing (arXiv 2409.15371; its first version was called Bone)."
    )
    default_lr: ClassVar[float] = 3e-4
    peft_type: ClassVar[str | None] = "MISS"

    r: Annotated[int, Field(ge=1)] = 16
    """Width of a shard, the rank of the update; at most d_in."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an element of the update's input."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles, groups, ends of module paths or globs; as for lora."""

    def build(self, view: BaseView) -> Adapter:
        """One delta per selected linear layer."""
        deltas = {}
        for path, module in view.select(self.targets).items():
            d_in, d_out = linear_shape(path, module)
            if self.r > d_in:
                raise TargetError(
                    f"r is {self.r}, but {path!r} has an input of {d_in}, which cannot be cut so wide.",
                    field="miss.r",
                    remedy=f"Use at most {d_in}.",
                )
            deltas[path] = MissDelta(d_out, self.r, self.dropout, transposed=isinstance(module, Conv1D))
        return Adapter(deltas)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The fields of peft's MissConfig and the tensors; None for Conv1D, which peft cannot adapt."""
        blocks = {path: delta for path, delta in adapter.deltas.items() if isinstance(delta, MissDelta)}
        if any(delta.transposed for delta in blocks.values()):
            return None
        fields = {
            "r": self.r,
            "miss_dropout": self.dropout,
            "init_weights": True,
            "target_modules": list(blocks),
            "bias": "none",
        }
        return fields, adapter.stored()

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """MiSS; the bridge runs its variants."""
        variant = config.get("init_weights") in _VARIANTS
        return super().reads_peft(config) and not (variant and left_to_peft(config, ("init_weights",)))

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields; its variants `bat` and `mini` compute something else and are refused."""
        refuse_options(config, ())
        if config.get("init_weights") in _VARIANTS:
            raise AdapterError(
                f"the file is MiSS's variant {config['init_weights']!r}, which this method does not compute.",
                field="adapter_config.json",
                remedy="Load it with peft.",
            )
        return cls(r=config["r"], dropout=config.get("miss_dropout", 0.0), targets=peft_targets(config))
