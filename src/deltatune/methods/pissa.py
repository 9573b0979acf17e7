r"""PiSSA: LoRA that starts from the principal singular vectors of the weight.

    h = W_0 x + s (B A - B_0 A_0) x,  s B_0 A_0 = rank-r part of W_0     (Meng et al. 2024, equations 2 to 5)

With W_0 = U S V^T, A_0 = (S_r / s)^(1/2) V_r^T and B_0 = U_r (S_r / s)^(1/2); A and B start there and are
trained. The paper subtracts s B_0 A_0 from the base; here the base keeps its bytes and the delta subtracts
it, which is the same function with the same gradients. The file is plain LoRA of rank 2 r, [A; A_0] and [B,
-B_0], as in the paper's appendix C: it loads onto the unaltered base anywhere.

Oracle: peft's init_lora_weights="pissa": the same logits and the same gradients of A and B; its files are
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.sites import LINEAR, BaseView
from deltatune.errors import TargetError
from deltatune.methods.lora import LoraConfig, LoraDelta, low_rank_product


class PissaDelta(LoraDelta):
    """Low-rank update that starts at the principal part of the weight, which is subtracted again.

    Args:
        down: A_0 [r, d_in].
        up: B_0 [d_out, r].
        scale: Factor on both products.
        dropout: Probability of dropping an element of the trained product's input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    start_A: Tensor
    start_B: Tensor

    def __init__(
        self, down: Tensor, up: Tensor, scale: float, dropout: float = 0.0, *, transposed: bool = False
    ) -> None:
        super().__init__(down.shape[1], len(up), len(down), scale, dropout, transposed=transposed)
        self.lora_A.weight.data.copy_(down)
        self.lora_B.weight.data.copy_(up)
        # of the same memory layout, so that both products are the same to the last bit at the start
        self.register_buffer("start_A", self.lora_A.weight.detach().clone())
        self.register_buffer("start_B", self.lora_B.weight.detach().clone())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + scale * (B A dropout(x) - B_0 A_0 x); x [..., d_in], y [..., d_out]."""
        start = low_rank_product(x, self.start_A, self.start_B, self.scale)
        now = low_rank_product(self.dropout(x), self.lora_A.weight, self.lora_B.weight, self.scale)
        return y + (now - start)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ([A; A_0], scale * [B, -B_0])."""
        tensors = self.stored()
        return tensors["lora_A.weight"], tensors["lora_B.weight"] * self.scale

    def stored(self) -> dict[str, Tensor]:
        """[A; A_0] [2 r, d_in] and [B, -B_0] [d_out, 2 r]."""
        return {
            "lora_A.weight": torch.cat([self.lora_A.weight, self.start_A]),
            "lora_B.weight": torch.cat([self.lora_B.weight, -self.start_B], dim=1),
        }

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave."""
        a, start_a = tensors["lora_A.weight"].chunk(2)
        b, start_b = tensors["lora_B.weight"].chunk(2, dim=1)
        values = {"lora_A.weight": a, "lora_B.weight": b, "start_A": start_a, "start_B": -start_b}
        self.load_state_dict(values)


class PissaConfig(LoraConfig):
    """PiSSA. LoRA that starts where the weight matters most, and converges faster."""

    name: ClassVar[str] = "pissa"
    title: ClassVar[str] = "LoRA that starts from the principal singular vectors of the weight."
    formula: ClassVar[str] = "h = W_0 x + (alpha / r) (B A - B_0 A_0) x, with B_0 A_0 the rank-r part of W_0"
    when: ClassVar[str] = "Instead of LoRA where steps are few: it moves the main directions of the weight."
    cost: ClassVar[str] = (
        "r (d_in + d_out) parameters for each matrix, twice that in the file and in time; a singular value "
        "decomposition of each matrix at the start (seconds to minutes; niter makes it fast)."
    )
    defaults: ClassVar[str] = (
        "alpha = r and no dropout, as in the paper's section 5. It trains 7 B models at 2e-5 and rank 128; "
        "at 2e-4 and rank 2 a small BERT learned next to nothing in 100 steps, at 1e-3 it learned."
    )
    paper: ClassVar[str] = (
        "Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation of LLMs "
        "(arXiv 2404.02948)."
    )
    default_lr: ClassVar[float] = 1e-3
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR

    alpha: Annotated[float, Field(gt=0)] = 8.0
    """Scale of the update: it is multiplied by alpha / r. The start absorbs it."""
    niter: Annotated[int, Field(ge=0)] | None = None
    """Subspace iterations of a fast, randomised decomposition (the paper: 4 to 16); exact without it."""

    def delta(self, view: BaseView, path: str) -> PissaDelta:
        """The delta at the linear module `path`."""
        transposed = isinstance(view.modules[path], Conv1D)
        return PissaDelta(*self.start(view, path), self.scale, self.dropout, transposed=transposed)

    def start(self, view: BaseView, path: str) -> tuple[Tensor, Tensor]:
        """(A_0 [r, d_in], B_0 [d_out, r]) of the module at `path`.

        Raises:
            TargetError: The weight has fewer than r singular values.
        """
        weight = view.weight(path).float()
        if self.r > min(weight.shape):
            raise TargetError(
                f"r is {self.r}, and the weight of {path!r} is {list(weight.shape)}, which has only "
                f"{min(weight.shape)} singular values.",
                field="pissa.r",
                remedy="Take a smaller r, or other targets.",
            )
        if self.niter is None:
            u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        else:
            columns = min(self.r + 8, *weight.shape)  # oversampled, as Halko et al. 2011 advise
            u, s, v = torch.svd_lowrank(weight, columns, niter=self.niter)
            vt = v.T
        # A decomposition is free in its signs; with these the start depends on the weight alone.
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, : self.r]
        root = (s[: self.r] / self.scale).sqrt() * signs
        return root[:, None] * vt[: self.r], u[:, : self.r] * root

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain LoRA of twice the rank and the same scale."""
        fields, tensors = super().to_peft(adapter, view)
        rank = 2 * self.r
        return {**fields, "r": rank, "lora_alpha": self.scale * rank, "use_rslora": False}, tensors

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """LoRA's type with the exact start: peft's files then hold A and B alone."""
        start = config.get("init_lora_weights")
        return config.get("peft_type") == cls.peft_type and start == "pissa" and not config.get("use_dora")

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        return super().from_peft({**config, "init_lora_weights": True})

    def from_peft_tensors(self, tensors: Mapping[str, Tensor], view: BaseView) -> dict[str, Tensor]:
        """Put the start, which peft takes from the base again, beside the A and B of its files."""
        found = super().from_peft_tensors(tensors, view)
        for path in [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]:
            a, b = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
            if len(a) == self.r:  # our own files are complete
                down, up = (part.to(a) for part in self.start(view, path))
                found[f"{path}.lora_A.weight"] = torch.cat([a, down])
                found[f"{path}.lora_B.weight"] = torch.cat([b, -up], dim=1)
        return found
