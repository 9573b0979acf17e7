"""OFT: the input of a weight matrix is rotated by a learned block-diagonal orthogonal matrix.

    h = W_0 (x R),  R = diag(R_1, ..., R_n),  R_i = Cayley(Q_i), Q_i skew-symmetric
                                                (Qiu et al. 2023, section 3; on the input: Qiu et al. 2025)

Q_i [b, b] is made of its b (b - 1) / 2 upper entries, which start at zero, so that R starts as the identity.
The Cayley transform is exact, (I - Q)(I + Q)^-1, or its Neumann series, I + 2 Q + 2 Q^2 + ... + Q^n, which
needs no inverse and is orthogonal up to its last term (Qiu et al. 2025). In peft the series is that of
(I + Q)(I - Q)^-1, so the same Q turns the other way; both are kept as there, for the sake of the files.

Oracle: peft's OFTConfig with copied weights; files load both ways. R R^T = I for the exact transform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.methods.lora import left_to_peft, linear_shape, peft_targets, refuse_options

_OF_PEFT = ("r", "coft", "block_share")
"""Variants that only peft computes: blocks by their number, constrained ones, one for all."""


class Rotation(nn.Module):
    """Block-diagonal orthogonal matrix.

    Args:
        d: Width, a multiple of `block`.
        block: Width b of a block.
        terms: Terms of the Neumann series; 0 for the exact transform.
    """

    def __init__(self, d: int, block: int, terms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d // block, block * (block - 1) // 2))
        self.block = block
        self.terms = terms
        self.register_buffer("upper", torch.triu_indices(block, block, 1), persistent=False)

    def forward(self) -> Tensor:
        """The blocks R_i, [d / b, b, b], in the dtype of the parameters."""
        rows, columns = self.get_buffer("upper")
        half = self.weight.new_zeros(len(self.weight), self.block, self.block)
        half = half.index_put(
            (torch.arange(len(half), device=rows.device)[:, None], rows, columns), self.weight
        )
        skew = half - half.mT
        eye = torch.eye(self.block, dtype=skew.dtype, device=skew.device).expand_as(skew)
        if self.terms == 0:
            inverted: Tensor = torch.linalg.solve(eye + skew, eye - skew, left=False)
            return inverted
        # peft's count: "n terms" end with Q^(n-1), the only one that is not doubled.
        power, total = skew, eye + 2 * skew
        for _ in range(2, self.terms - 1):
            power = power @ skew
            total = total + 2 * power
        return total + power @ skew

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"blocks={len(self.weight)}, block={self.block}, terms={self.terms}"


class OftDelta(Delta):
    """A rotation of the input of a Linear or Conv1D.

    Args:
        d_in: Width of the input.
        block: Width of a block; it divides d_in.
        terms: Terms of the Neumann series; 0 for the exact transform.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, d_in: int, block: int, terms: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.oft_R = Rotation(d_in, block, terms)
        self.transposed = transposed

    def before(self, x: Tensor) -> Tensor:
        """Return x R; x [..., d_in]. R is made in float32 and applied in x's dtype."""
        return _rotated(x, self.oft_R().to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight R^T, bias)."""
        blocks = self.oft_R().float().mT
        if self.transposed:
            return _rotated(weight.float().T, blocks).T.to(weight.dtype), bias
        return _rotated(weight.float(), blocks).to(weight.dtype), bias


def _rotated(x: Tensor, blocks: Tensor) -> Tensor:
    """Return x R for x [..., d] and the blocks [n, b, b] of R."""
    pieces = x.reshape(*x.shape[:-1], *blocks.shape[:2])
    return torch.einsum("...nb,nbc->...nc", pieces, blocks).flatten(-2)


def divisor_near(d: int, wanted: int) -> int:
    """The divisor of `d` that is nearest to `wanted`; of two, the smaller (peft's rule)."""
    return min((n for n in range(1, d + 1) if d % n == 0), key=lambda n: (abs(n - wanted), n))


class OftConfig(MethodConfig):
    """OFT. Keeps the angles between neurons, and so much of what the base knows."""

    name: ClassVar[str] = "oft"
    title: ClassVar[str] = "A block-diagonal rotation of the inputs of chosen weight matrices."
    formula: ClassVar[str] = "h = W_0 (x R), R = diag(Cayley(Q_1), ..., Cayley(Q_n)), Q_i = -Q_i^T"
    when: ClassVar[str] = (
        "Where the base should forget little: angles and norms of its features are kept. Slower than LoRA."
    )
    cost: ClassVar[str] = (
        "d_in (b - 1) / 2 parameters for each matrix; in every forward pass R is made again, and x R costs b "
        "d_in products per token. Free once merged."
    )
    defaults: ClassVar[str] = (
        "Blocks of 32 and five terms of the Neumann series as in peft; lr 1e-3 as for lora."
    )
    size: ClassVar[str | None] = "block_size"
    paper: ClassVar[str] = (
        "Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal Finetuning (arXiv 2306.07280); "
        "Qiu et al. 2025, Orthogonal Finetuning Made Scalable (2506.19847)."
    )
    default_lr: ClassVar[float] = 1e-3
    peft_type: ClassVar[str | None] = "OFT"

    block_size: Annotated[int, Field(ge=2)] = 32
    """Width of a block. Where it does not divide d_in, the nearest divisor is taken."""
    neumann_terms: Annotated[int, Field(ge=0)] = 5
    """Terms of the Neumann series in place of the inverse (at least 4); 0: the exact Cayley transform."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles, groups, ends of module paths or globs; as for lora."""

    @field_validator("neumann_terms")
    @classmethod
    def _enough_terms(cls, terms: int) -> int:
        if terms in (1, 2, 3):
            raise ValueError(f"{terms} terms are too few: use 0 (exact), or 4 and more")
        return terms

    def build(self, view: BaseView) -> Adapter:
        """One rotation per selected linear layer."""
        deltas = {}
        for path, module in view.select(self.targets).items():
            d_in = linear_shape(path, module)[0]
            block = divisor_near(d_in, self.block_size)
            transposed = isinstance(module, Conv1D)
            deltas[path] = OftDelta(d_in, block, self.neumann_terms, transposed=transposed)
        return Adapter(deltas)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The fields of peft's OFTConfig and the tensors; None for Conv1D, which peft's OFT cannot adapt."""
        rotations = {path: delta for path, delta in adapter.deltas.items() if isinstance(delta, OftDelta)}
        if any(delta.transposed for delta in rotations.values()):
            return None
        fields = {
            "r": 0,
            "oft_block_size": self.block_size,
            "use_cayley_neumann": self.neumann_terms > 0,
            "num_cayley_neumann_terms": self.neumann_terms or 5,
            "target_modules": list(rotations),
            "fan_in_fan_out": False,
            "bias": "none",
            # The series has been what it is here since this version; without a version peft warns.
            "peft_version": "0.18.0",
        }
        return fields, adapter.stored()

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """OFT; the bridge runs its variants."""
        return super().reads_peft(config) and not left_to_peft(config, _OF_PEFT)

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields; options that change the computation and that we lack are refused."""
        refuse_options(config, _OF_PEFT)
        neumann = config.get("use_cayley_neumann", True)
        return cls(
            block_size=config["oft_block_size"],
            neumann_terms=config.get("num_cayley_neumann_terms", 5) if neumann else 0,
            targets=peft_targets(config),
        )
