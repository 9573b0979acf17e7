r"""VeRA: two vectors for each matrix, around one random pair of matrices for all of them.

    h = W_0 x + diag(b) B diag(d) A x          (Kopiczko et al. 2024, equation 2)

A [r, d_in] and B [d_out, r] are random, frozen and shared: the pair is drawn once, as wide as the widest
matrix needs, and each site uses its first columns and rows. Both are Kaiming-uniform; d [r] starts at
`d_initial`, b [d_out] at zero, so that training starts at the base (section 3.3). A and B come from
`projection_seed` alone, in the order and manner of peft, and are stored as well, since random numbers may
differ between machines.

Oracle: peft's VeraConfig: the same A and B from the same seed, the same logits; files load both ways.
"""

from __future__ import annotations

import math
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
from deltatune.methods.lora import linear_shape, peft_targets, refuse_options

_A, _B = "base_model.vera_A", "base_model.vera_B"  # peft keeps them at the root of its model


class VeraProjection(nn.Module):
    """The frozen pair that all sites share: A [r, widest d_in], B [widest d_out, r]."""

    A: Tensor
    B: Tensor

    def __init__(self, d_in: int, d_out: int, r: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("A", (r, d_in)), ("B", (d_out, r))):
            bound = math.sqrt(6 / shape[1])
            self.register_buffer(name, torch.empty(shape).uniform_(-bound, bound, generator=generator))


class VeraDelta(Delta):
    """Update of a Linear or Conv1D by two vectors.

    Args:
        projection: The shared pair.
        d_in: Width of the input.
        d_out: Width of the output.
        d_initial: Start of d.
        dropout: Probability of dropping an element of the update's input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(
        self,
        projection: VeraProjection,
        d_in: int,
        d_out: int,
        d_initial: float,
        dropout: float = 0.0,
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.d_in, self.d_out = d_in, d_out
        self.vera_lambda_d = nn.Parameter(torch.full((len(projection.A),), d_initial))
        self.vera_lambda_b = nn.Parameter(torch.zeros(d_out))
        self.dropout = Dropout(dropout)
        self.transposed = transposed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + b * B (d * A dropout(x)); x [..., d_in], y [..., d_out]."""
        a, b = self.projection.A[:, : self.d_in], self.projection.B[: self.d_out]
        low = F.linear(self.dropout(x), a.to(x.dtype)) * self.vera_lambda_d.to(x.dtype)
        return y + F.linear(low, b.to(x.dtype)) * self.vera_lambda_b.to(x.dtype)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (diag(d) A, diag(b) B)."""
        a, b = self.projection.A[:, : self.d_in], self.projection.B[: self.d_out]
        return self.vera_lambda_d[:, None] * a, self.vera_lambda_b[:, None] * b

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + diag(b) B diag(d) A, bias)."""
        down, up = self.factors()
        update = up @ down
        return (weight.float() + (update.T if self.transposed else update)).to(weight.dtype), bias

    def stored(self) -> dict[str, Tensor]:
        """The two vectors; the adapter stores the shared pair once."""
        return {"vera_lambda_b": self.vera_lambda_b, "vera_lambda_d": self.vera_lambda_d}

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave."""
        self.load_state_dict(dict(tensors), strict=False)


class VeraAdapter(Adapter):
    """The deltas and their shared pair."""

    def __init__(self, deltas: Mapping[str, VeraDelta], projection: VeraProjection) -> None:
        super().__init__(deltas)
        self.projection = projection

    def stored(self) -> dict[str, Tensor]:
        """The vectors, and the shared pair once."""
        return {**super().stored(), _A: self.projection.A, _B: self.projection.B}

    @torch.no_grad()
    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave."""
        super().load_stored(tensors)
        self.projection.A.copy_(tensors[_A])
        self.projection.B.copy_(tensors[_B])


class VeraConfig(MethodConfig):
    """VeRA. For very many deltas of one base, each of a few kilobytes."""

    name: ClassVar[str] = "vera"
    title: ClassVar[str] = "Two scaling vectors for each matrix, around one frozen random pair."
    formula: ClassVar[str] = "h = W_0 x + diag(b) B diag(d) A x, with A and B random, frozen and shared"
    when: ClassVar[str] = "Where each delta must be tiny: it trains about a tenth of what LoRA does."
    cost: ClassVar[str] = (
        "d_out + r parameters for each matrix; the shared pair makes the file larger by r (d_in + d_out), "
        "once; a high r makes a step slower than LoRA's; no extra latency once merged."
    )
    defaults: ClassVar[str] = (
        "r 256 and a start of 0.1 for d as in peft; lr 2e-2 is chosen here: on T5, 4e-3 learned next to "
        "nothing in 50 steps and 1e-1 most."
    )
    size: ClassVar[str | None] = "r"
    paper: ClassVar[str] = (
        "Kopiczko et al. 2024, VeRA: Vector-based Random Matrix Adaptation (arXiv 2310.11454)."
    )
    default_lr: ClassVar[float] = 2e-2
    peft_type: ClassVar[str | None] = "VERA"

    r: Annotated[int, Field(ge=1)] = 256
    """Rank of the random pair. 64 to 1024: higher than LoRA's, for it costs only r parameters per matrix."""
    d_initial: float = 0.1
    """Start of the vector d."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an element of the update's input."""
    projection_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random pair; deltas with the same seed, r and targets share it."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles, groups, ends of module paths or globs; as for lora."""

    def build(self, view: BaseView) -> VeraAdapter:
        """One delta per selected linear layer, and one pair for all."""
        chosen = view.select(self.targets)
        shapes = {path: linear_shape(path, module) for path, module in chosen.items()}
        widest_in, widest_out = (max(widths) for widths in zip(*shapes.values(), strict=True))
        projection = VeraProjection(widest_in, widest_out, self.r, self.projection_seed)
        deltas = {
            path: VeraDelta(
                projection,
                *shape,
                self.d_initial,
                self.dropout,
                transposed=isinstance(chosen[path], Conv1D),
            )
            for path, shape in shapes.items()
        }
        return VeraAdapter(deltas, projection)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of peft's VeraConfig, and the tensors under the names they have already."""
        paths = [path for path, delta in adapter.deltas.items() if isinstance(delta, VeraDelta)]
        fields = {
            "r": self.r,
            "d_initial": self.d_initial,
            "vera_dropout": self.dropout,
            "projection_prng_key": self.projection_seed,
            "save_projection": True,
            "target_modules": paths,
            "fan_in_fan_out": any(isinstance(view.modules[path], Conv1D) for path in paths),
            "bias": "none",
        }
        return fields, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        refuse_options(config, ())
        return cls(
            r=config["r"],
            d_initial=config.get("d_initial", 0.1),
            dropout=config.get("vera_dropout", 0.0),
            projection_seed=config.get("projection_prng_key", 0),
            targets=peft_targets(config),
        )

    def from_peft_tensors(self, tensors: Mapping[str, Tensor], view: BaseView) -> dict[str, Tensor]:
        """The same; a file saved without the random pair gets it from the seed."""
        if _A in tensors:
            return dict(tensors)
        projection = self.build(view).projection
        return {**tensors, _A: projection.A, _B: projection.B}
