"""Whether a row gets the same scores alone as beside others, padded to the longest of them.

Where it does not, every number depends on the size of batches. It happens if a model counts padding as text:
a classifier that looks for the last token by another id than batches are filled with, positions that are
counted from the left of rows padded there, a convolution or a norm over all positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded, Encoder
from deltatune.evaluation.generation import next_token_logits
from deltatune.tasks import TASKS
from deltatune.tasks.task import Feature
from deltatune.timeline import phase
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import logits, require_finite_weights, rounding

LINE = "same alone as in a batch"
ROWS = 8
TRIED = 3
"""Of them, the shortest, the longest and one between: each goes through the model alone as well."""
LOGITS = 2**25
"""Of all rows together, beyond which no more rows are taken: 128 MiB."""


@phase("certificate")
def check_padding(
    certificate: Proof, model: AdaptedModel, encoder: Encoder, encoded: Encoded, batch_size: int
) -> None:
    """Compare the scores of a few short rows of different lengths, alone and as one batch.

    They are judged by norms, as the other logits before training are.

    Args:
        certificate: Gets the line.
        model: The model with its active deltas, in eval mode.
        encoder: Whose batches are made.
        encoded: Rows with labels.
        batch_size: The largest number of rows that the run puts into one batch.

    Raises:
        TrainingError: The scores differ by more than rounding.
    """
    features = _spread(short_rows(encoded, model))[:batch_size]
    if len(features) < 2:
        why = "batches are of one row" if batch_size < 2 else "all rows have the same length"
        certificate.check(LINE, True, f"nothing is padded, since {why}", "", {"rows": len(features)})
        return
    with torch.no_grad():
        together = _scores(model, encoder, features)
        alone = [
            torch.cat(kind) for kind in zip(*(_scores(model, encoder, [f]) for f in features), strict=True)
        ]
    limit = rounding(model)
    if not all(scores.isfinite().all() for scores in alone):
        require_finite_weights(model)
    difference = max(map(_distance, together, alone))
    lengths = [len(feature.get("input_ids", ())) for feature in features]
    padded = f" of {min(lengths)} to {max(lengths)} tokens, padded to the longest" if max(lengths) else ""
    certificate.check(
        LINE,
        difference <= limit,
        f"{len(features)} rows{padded}: logits differ by {difference:.3g} of their norm from those of each "
        f"row alone, allowed is {limit:.3g}",
        f"{type(model.base).__name__} takes padding for text, so that scores would depend on the size of "
        "batches. Set evaluation.batch_size and train.micro_batch_size to 1, so that nothing is padded, or "
        "take another model; and please report it.",
        {
            "rows": len(features),
            "difference": difference if math.isfinite(difference) else None,
            "limit": limit,
        },
    )


def short_rows(encoded: Encoded, model: AdaptedModel) -> list[Feature]:
    """The shortest rows, one of each length: their padding differs. Images are all alike."""
    vocabulary = int(getattr(model.view.config, "vocab_size", 1))
    by_length: dict[int, Feature] = {}
    total = 0
    for row in sorted(range(len(encoded.lengths)), key=encoded.lengths.__getitem__):
        feature = encoded.features[row]
        length = len(feature["input_ids"]) if "input_ids" in feature else -row
        if length in by_length:
            continue
        total += encoded.lengths[row]
        if len(by_length) == ROWS or (len(by_length) > 1 and total * vocabulary > LOGITS):
            break
        by_length[length] = feature
    return list(by_length.values())


def _spread(features: list[Feature]) -> list[Feature]:
    """`TRIED` of them from the first to the last, at equal distances."""
    last = len(features) - 1
    return [features[place] for place in sorted({round(last * i / (TRIED - 1)) for i in range(TRIED)})]


def _scores(model: AdaptedModel, encoder: Encoder, features: Sequence[Feature]) -> list[Tensor]:
    """What a batch is scored by, [n, vocabulary] or [rows, classes] of each kind, row after row.

    The logits of the classes or at the labels; and, of decoder-only models, those of the first token behind
    each prompt: prompts are padded on the other side.
    """
    scores = [logits(model, to_device(encoder.collate(features), model.device), encoder.task)]
    if TASKS.get(encoder.task).continues and all(feature["prompt_length"] for feature in features):
        prompts = to_device(encoder.collate_prompts(features), model.device)
        scores.append(next_token_logits(model, prompts).float())
    return scores


def _distance(scores: Tensor, wanted: Tensor) -> float:
    """As a share of the norm of `wanted`; infinite if a number is not finite where it is not in `wanted`."""
    if not wanted.isfinite().all():
        return 0.0  # the first loss will say so
    difference = float((scores - wanted).norm() / wanted.norm().clamp_min(1e-30))
    return difference if math.isfinite(difference) else math.inf
