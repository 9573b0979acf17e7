r"""DoRA: LoRA on the direction of each weight row, and its magnitude trained beside it.

    W' = m * V / ||V||,  V = W_0 + (alpha / r) B A          (Liu et al. 2024, equation 5)

The norm is taken over the inputs of each output, so m is [d_out]; it starts at the norms of W_0, and A and B
start as in LoRA, so that training starts at the base. ||V|| follows B and A but gets no gradient (section
4.3). With dropout, base and update both see the dropped input in what DoRA changes, as in peft.

Oracle: peft's LoraConfig(use_dora=True) with copied weights; files load both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta, Dropout
from deltatune.core.sites import LINEAR, BaseView
from deltatune.methods.lora import BRIDGED, LoraConfig, left_to_peft, low_rank_pair, low_rank_product


class DoraDelta(Delta):
    """Magnitude and direction of the weight of a Linear or Conv1D.

    Args:
        weight: Gives the site's weight W_0 [d_out, d_in]; it is only read, for the norm depends on it.
        bias: The site's bias [d_out].
        r: Rank of the update of the direction.
        scale: Factor on that update.
        dropout: Probability of dropping an element of the input, in training.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(
        self,
        weight: Callable[[], Tensor],
        bias: Callable[[], Tensor | None],
        r: int,
        scale: float,
        dropout: float = 0.0,
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        d_out, d_in = weight().shape
        self._weight = weight
        self._bias = bias
        self.lora_A, self.lora_B = low_rank_pair(d_in, d_out, r)
        self.to(weight().device)
        self.dropout = Dropout(dropout)
        self.scale = scale
        self.transposed = transposed
        self.lora_magnitude_vector = nn.Parameter(self._norm())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return m / ||V|| * (W_0 x + scale * B A x) + bias; x [..., d_in], y [..., d_out]."""
        factor = self.lora_magnitude_vector / self._norm()
        if self.training and self.dropout.p > 0:
            x = self.dropout(x)
            plain = F.linear(x, self._weight().to(x.dtype))
        else:
            bias = self._bias()
            plain = y if bias is None else y - bias.to(y.dtype)
        update = low_rank_product(x, self.lora_A.weight, self.lora_B.weight, self.scale)
        return y + (factor - 1).to(y.dtype) * plain + factor.to(y.dtype) * update

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """||V|| of each output [d_out], by the binomial formula: V itself would be as large as the weight."""
        a, b = self.lora_A.weight, self.lora_B.weight * self.scale
        weight = self._weight().to(a.dtype)
        mixed = (weight @ a.T) * b * 2 + (b @ (a @ a.T)) * b
        square = weight.square().sum(1) + mixed.sum(1)
        return square.clamp_min(torch.finfo(a.dtype).tiny).sqrt()

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (m / ||V|| * (weight + scale * B A), bias); ||V|| is W_0's, whatever `weight` is by now."""
        update = self.lora_B.weight.float() @ self.lora_A.weight.float() * self.scale
        factor = (self.lora_magnitude_vector / self._norm())[:, None]
        if self.transposed:
            update, factor = update.T, factor.T
        return (factor * (weight.float() + update)).to(weight.dtype), bias


class DoraConfig(LoraConfig):
    """DoRA. Closer to full fine-tuning than LoRA at the same rank; slower to train."""

    name: ClassVar[str] = "dora"
    title: ClassVar[str] = "LoRA on the direction of each weight row, and its magnitude."
    formula: ClassVar[str] = "h = m * (W_0 + (alpha / r) B A) / ||W_0 + (alpha / r) B A|| x"
    when: ClassVar[str] = "Where LoRA at a low rank falls short of full fine-tuning, and steps may be slower."
    cost: ClassVar[str] = (
        "r (d_in + d_out) + d_out parameters for each matrix; one product of the weight with A more in each "
        "step; no extra latency once merged."
    )
    defaults: ClassVar[str] = (
        "LoRA's here. The paper takes 1e-4 to 3e-4 on LLaMA (table 8), at LoRA's rank 32 or half of it."
    )
    paper: ClassVar[str] = "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation (arXiv 2402.09353)."
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR

    def delta(self, view: BaseView, path: str) -> DoraDelta:
        """The delta at the linear module `path`."""
        site = view.modules[path]
        return DoraDelta(
            functools.partial(view.weight, path),
            lambda: getattr(site, "bias", None),
            self.r,
            self.scale,
            self.dropout,
            transposed=isinstance(site, Conv1D),
        )

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """LoRA's fields and `use_dora`."""
        fields, tensors = super().to_peft(adapter, view)
        return {**fields, "use_dora": True}, tensors

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """LoRA's type, with `use_dora`."""
        dora = config.get("peft_type") == cls.peft_type and bool(config.get("use_dora"))
        return dora and not left_to_peft(config, BRIDGED)
