r"""LoRA-FA: LoRA with A frozen at its random start.

    h = W_0 x + (alpha / r) B A x,  only B is trained          (Zhang et al. 2023, section 3)

A and B start as in LoRA. The update stays in the row space of A, which is random, and the backward pass
needs A x [..., r] instead of x [..., d_in], which spares most of the memory of LoRA's activations. A is
stored, so the file is LoRA's.

Oracle: plain LoRA whose A does not require a gradient, here and in peft. (peft's LoRA-FA optimizer freezes A
as well, but also preconditions B's gradient with (A A^T)^-1, which the paper's first version does not.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from deltatune.core.delta import Delta
from deltatune.core.sites import LINEAR, BaseView
from deltatune.methods.lora import LoraConfig, LoraDelta


class LoraFaConfig(LoraConfig):
    """LoRA-FA. Where the memory of activations is short, at high ranks or long inputs."""

    name: ClassVar[str] = "lora_fa"
    title: ClassVar[str] = "LoRA with A frozen at its random start; only B is trained."
    formula: ClassVar[str] = "h = W_0 x + (alpha / r) B A x, with A random and frozen"
    when: ClassVar[str] = "Where the memory of activations is short: long inputs, many targets, high ranks."
    cost: ClassVar[str] = (
        "r d_out parameters for each matrix, r (d_in + d_out) in the file; backward keeps r instead of d_in "
        "numbers for each token; no extra latency once merged."
    )
    defaults: ClassVar[str] = (
        "LoRA's with twice its rank, and so its number of trained parameters; twice its learning rate is "
        "chosen here."
    )
    paper: ClassVar[str] = (
        "Zhang et al. 2023, LoRA-FA: Memory-efficient Low-rank Adaptation (arXiv 2308.03303)."
    )
    default_lr: ClassVar[float] = 2e-3
    short_runs: ClassVar[float] = 1.0
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / r."""

    def delta(self, view: BaseView, path: str) -> Delta:
        """LoRA's delta with A frozen."""
        delta = super().delta(view, path)
        assert isinstance(delta, LoraDelta)
        delta.lora_A.requires_grad_(False)
        return delta

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """None: its files are LoRA's and are read as such."""
        return False
