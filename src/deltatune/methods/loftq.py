r"""LoftQ: LoRA that starts where it makes up for what quantization lost.

    h = Q(W_0) x + s B A x,  s B A = rank-r part of W_0 - Q(W_0) at the start  (Li et al. 2023, equations 8-9)

With W_0 - Q = U S V^T, A = (S_r / s)^(1/2) V_r^T and B = U_r (S_r / s)^(1/2). The paper alternates between
this and quantizing W_0 - s B A again; here the base keeps its bytes, which is the algorithm with one step (T
= 1), as peft's replace_lora_weights_loftq has it. Reading W_0 takes the unquantized checkpoint, once, when
the delta is attached. What is saved is plain LoRA.

Oracle: the start is the best approximation of its rank (Eckart and Young), and the outputs are nearer to
those of the unquantized base than the quantized base's own.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.methods.lora import LoraConfig, LoraDelta
from deltatune.quant import codec_of


class LoftqConfig(LoraConfig):
    """LoftQ. LoRA on a quantized base that starts near the unquantized one."""

    name: ClassVar[str] = "loftq"
    title: ClassVar[str] = "LoRA that starts at the principal part of the quantization error."
    formula: ClassVar[str] = (
        "h = Q(W_0) x + (alpha / r) B A x, with B A the rank-r part of W_0 - Q(W_0) at the start"
    )
    when: ClassVar[str] = (
        "On a quantized base, above all with few bits or few steps; elsewhere it has nothing to do."
    )
    cost: ClassVar[str] = (
        "As lora, and at the start one reading of the unquantized weights with a singular value "
        "decomposition of each matrix."
    )
    defaults: ClassVar[str] = (
        "alpha = 2 r and lr 1e-3, as lora: the start is scaled so that alpha does not change it. The paper "
        "tries 1e-5 to 5e-4 on DeBERTa."
    )
    paper: ClassVar[str] = (
        "Li et al. 2023, LoftQ: LoRA-Fine-Tuning-Aware Quantization for LLMs (arXiv 2310.08659)."
    )
    short_runs: ClassVar[float] = 1.0
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    def delta(self, view: BaseView, path: str) -> LoraDelta:
        """The delta at the quantized module `path`.

        Raises:
            TargetError: The module is not quantized, or its unquantized weight is not at hand.
        """
        if codec_of(view.modules[path]) is None or view.original is None:
            raise TargetError(
                f"{path!r} is not quantized, so there is no error of quantization to start from.",
                field="loftq.targets",
                remedy="Add `quantization: nf4` to the recipe, choose other targets, or take lora.",
            )
        quantized = view.weight(path)
        error = view.original(path).to(quantized) - quantized
        u, s, vt = torch.linalg.svd(error, full_matrices=False)
        root = (s[: self.r] / self.scale).sqrt()
        d_out, d_in = error.shape
        delta = LoraDelta(d_in, d_out, self.r, self.scale, self.dropout)
        delta.lora_A.weight.data.copy_(root[:, None] * vt[: self.r])
        delta.lora_B.weight.data.copy_(u[:, : self.r] * root)
        return delta

    def for_inference(self, adapter: Adapter) -> MethodConfig:
        """Plain LoRA."""
        return LoraConfig(**self.model_dump())
