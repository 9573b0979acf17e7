"""Logits that are computed in two ways, and by how much rounding may set them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune import quant
from deltatune.core.loss import logits_for
from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError

ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far logits that should be equal may differ, as a share of the largest, by what the base computes in.

Most deltas are read back bit for bit, so that nothing differs. Others are stored in another form (AdaLoRA's
living ranks, PiSSA as a LoRA of twice the rank, a merged weight) and sum the same terms in another order.
That moves each layer's output by some units in the last place: 2^-23 in float32, 2^-10 in float16, 2^-7 in
bfloat16. The limits leave room for about a thousand of these in float32, and for six to ten in the short
formats, whose sums are kept in float32.
"""


@dataclass(frozen=True)
class Logits:
    """What a delta gives, to compare another computation with."""

    wanted: Tensor
    """The logits with the delta."""
    plain: Tensor
    """Those of the base alone."""
    of: str
    """What they are computed from."""
    share: float
    """What rounding may cost, as a share of the largest."""

    def distance(self, other: Tensor) -> float:
        """The largest difference to `other`."""
        return float((self.wanted.float() - other.float()).abs().max())

    @property
    def limit(self) -> float:
        """The largest difference that is let pass: rounding, and never half of what the delta does."""
        rounded, effect = self.share * float(self.wanted.abs().max()), self.distance(self.plain)
        return min(rounded, effect / 2) if effect else rounded


def logits(model: AdaptedModel, batch: Mapping[str, Tensor], task: str) -> Tensor:
    """What the task's loss is computed from, in float32: [n_labelled, vocabulary], [rows, classes] ..."""
    return logits_for(model, dict(batch), task)[0].float()


def require_finite_weights(model: AdaptedModel) -> None:
    """Say so if logits are not finite because the base's weights are not: no learning rate mends that.

    Raises:
        TrainingError: A weight of the base is not finite.
    """
    with model.using():
        for name, weight in model.base.named_parameters():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise TrainingError(
                    f"the base's weights are not finite: {name}.",
                    field="model",
                    remedy="Download or copy the model again, or take another one.",
                )


def rounding(model: AdaptedModel) -> float:
    """The share of the largest logit that rounding may cost, by the coarsest type the base computes in."""
    types = {p.dtype for p in model.base.parameters() if p.dtype in ROUNDING}
    types |= {torch.bfloat16} if quant.describe(model.base) else set()
    return max(ROUNDING[dtype] for dtype in types)
