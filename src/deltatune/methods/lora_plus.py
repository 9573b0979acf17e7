r"""LoRA+: LoRA whose B learns faster than its A.

    A <- A - eta G_A,  B <- B - lambda eta G_B,  lambda = 16      (Hayou et al. 2024, sections 3 and 4)

G is what the optimizer makes of the gradient. In wide models equal rates cannot make both factors learn at
once (proposition 1): B must move by a factor of the order of d_in faster (theorem 1). Start and computation
are LoRA's, and so is the file. On an embedding both rates are equal: its input is one-hot, so the width does
not enter.

Oracle: peft.optimizers.create_loraplus_optimizer on peft's LoRA: the same losses, step by step. (peft also
multiplies the rate of everything one-dimensional, such as a head's bias; here that of B alone.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.sites import BaseView
from deltatune.methods.lora import LoraConfig


class LoraPlusAdapter(Adapter):
    """LoRA's deltas, with another learning rate for B."""

    def __init__(self, deltas: Mapping[str, Delta], ratio: float) -> None:
        super().__init__(deltas)
        self.ratio = ratio

    def lr_factor(self, name: str) -> float:
        """`ratio` for B of a linear layer, 1 for all else."""
        return self.ratio if name.endswith(".lora_B.weight") else 1.0


class LoraPlusConfig(LoraConfig):
    """LoRA+. LoRA that learns faster, at no cost; the given learning rate is A's."""

    name: ClassVar[str] = "lora_plus"
    title: ClassVar[str] = "LoRA whose B learns faster than its A."
    formula: ClassVar[str] = "h = W_0 x + (alpha / r) B A x, with lr(B) = ratio * lr(A)"
    when: ClassVar[str] = "Instead of LoRA where steps are few or the task is far from pretraining."
    cost: ClassVar[str] = "LoRA's in every respect."
    defaults: ClassVar[str] = (
        "LoRA's settings and the paper's ratio 2^4. The learning rate is A's: half of LoRA's, so that B's "
        "is eight times LoRA's; at a fifth it stayed behind LoRA on T5."
    )
    paper: ClassVar[str] = (
        "Hayou et al. 2024, LoRA+: Efficient Low Rank Adaptation of Large Models (arXiv 2402.12354)."
    )
    default_lr: ClassVar[float] = 5e-4

    ratio: Annotated[float, Field(ge=1)] = 16.0
    """Learning rate of B as a multiple of A's."""

    def build(self, view: BaseView) -> Adapter:
        """LoRA's deltas."""
        return LoraPlusAdapter(self.deltas(view), self.ratio)

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """None: its files are LoRA's and are read as such."""
        return False
