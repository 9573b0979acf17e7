"""Whether rows that are packed into one get the logits that they get padded, on this very base."""

from __future__ import annotations

import torch

from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded, Encoder
from deltatune.timeline import phase
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import logits, rounding
from deltatune.training.proof.padding import short_rows

LINE = "packed as padded"


@phase("certificate")
def try_packing(certificate: Proof, model: AdaptedModel, encoder: Encoder, encoded: Encoded) -> str | None:
    """Pack a few short rows of different lengths, as training does, with the delta that acts.

    Architectures mix tokens in more ways than attention: by convolutions, recurrences, norms over a row. What
    they do is not looked up but tried. Judged by norms, as the other logits before training are.

    Args:
        certificate: Gets the line, if the rows can be packed.
        model: The model, in eval mode.
        encoder: Whose batches are made.
        encoded: The training rows.

    Returns:
        Why rows cannot be packed; None if they can.
    """
    rows = short_rows(encoded, model)
    if len(rows) < 2:
        return "all rows have the same length, so that nothing is padded"
    batch, base = to_device(encoder.collate(rows), model.device), type(model.base).__name__
    try:
        with torch.no_grad():
            with model.fast.packing.use(False), model.fast.training(batch):
                padded = logits(model, batch, encoder.task)
            with model.fast.packing.use(True), model.fast.training(batch):
                packed = logits(model, batch, encoder.task)
    except Exception as error:  # whatever an unknown architecture makes of this, it can be trained without
        return f"the code of {base} does not run on packed rows ({type(error).__name__})"
    limit = rounding(model)
    difference = float((packed - padded).norm() / padded.norm().clamp_min(1e-30))
    if padded.isfinite().all() and not difference <= limit:
        return f"logits of {base} differ then by {difference:.3g} of their norm, allowed is {limit:.3g}"
    certificate.check(
        LINE,
        True,
        f"{len(rows)} rows: logits differ by {difference:.3g} of their norm, allowed is {limit:.3g}",
        "",
        {"rows": len(rows), "difference": difference, "limit": limit},
    )
    return None
