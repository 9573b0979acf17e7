"""Whether what training computes of a base in another way gives what the base's own code gives."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.results import CertificateLine
from deltatune.timeline import phase
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import logits, require_finite_weights, rounding

LINE = "training logits are the base's"


@phase("certificate")
def check_own_code(
    certificate: Proof, model: AdaptedModel, batch: Mapping[str, Tensor], task: str
) -> CertificateLine | None:
    """Parts, attention and the last layer as training computes them give the base's logits.

    Judged by norms: of millions of logits in bfloat16, the one that rounding moves most may move by more than
    a wrong formula moves all.

    Args:
        certificate: Gets the line.
        model: The model, in eval mode; its deltas do not act here.
        batch: A collated batch with labels, on the model's device.
        task: The recipe's task.

    Returns:
        The line; None if the logits are not finite, which the first loss will say.

    Raises:
        TrainingError: The logits differ by more than rounding.
    """
    with torch.no_grad(), model.using():
        with model.fast.training(batch):
            found = logits(model, batch, task)
        with model.fast.last_layer.whole():
            wanted = logits(model, batch, task)
        limit = rounding(model)
    if not wanted.isfinite().all():
        require_finite_weights(model)
        return None
    difference = float((found - wanted).float().norm() / wanted.float().norm().clamp_min(1e-30))
    return certificate.check(
        LINE,
        difference <= limit,
        f"logits differ by {difference:.3g} of their norm from its own code's, allowed is {limit:.3g}",
        f"{type(model.base).__name__} computes something else here than deltatune takes it to; try an "
        "earlier version of Transformers, and please report it.",
        {"difference": difference if math.isfinite(difference) else None, "limit": limit},
    )
