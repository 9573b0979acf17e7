"""What tasks share that turn texts into vectors: how the texts of a row are read, and losses over a batch.

A batch holds the texts of a row side by side, [rows, texts, length], so that its rows are those of the data.
Vectors have length 1, so that a product of two is their cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import INPUT, Cuts, Feature, Tools

if TYPE_CHECKING:
    from torch import Tensor

SCALE = 20.0
"""Factor on cosines in both losses, a temperature of 0.05: what Sentence Transformers has by default."""
OF_NEGATIVES = "triplet_accuracy"
"""The metric that only rows with negatives have."""
SENSELESS = {"data.target_template": "is for a text; the target of {task} is a number."}
WITHOUT_EFFECT = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")


def read(texts: Sequence[str], tools: Tools) -> tuple[Feature, Cuts]:
    """The tokens of a row's texts: `input_ids` of the first, `beside` of those behind it.

    All have one limit (`data.max_input_tokens`): they go through one model. A row is cut if one of them is.
    """
    made = [tools.tokens.with_specials(text, tools.spec.max_input_tokens) for text in texts]
    first, *others = [ids for ids, _ in made]
    return {"input_ids": first, "beside": others}, (any(cut for _, cut in made), False)


def texts_of(feature: Feature) -> list[list[int]]:
    """Tokens of each text of a row."""
    return [feature["input_ids"], *feature["beside"]]


def collate(features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [rows, texts, length]; every row has as many texts."""
    flat = tokens.padded([ids for feature in features for ids in texts_of(feature)], tools)
    return {name: tensor.unflatten(0, (len(features), -1)) for name, tensor in flat.items()}


def length(feature: Feature) -> int:
    """Tokens of all texts of a row."""
    return sum(map(len, texts_of(feature)))


def preview(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """The texts one after another, none of which is written by the model."""
    return [(piece, False) for ids in texts_of(feature) for piece in tools.tokens.pieces(ids)]


def shape(features: Sequence[Feature]) -> BatchShape:
    """Sizes of a batch: its length is that of the longest text."""
    lengths = [len(ids) for feature in features for ids in texts_of(feature)]
    return BatchShape(
        len(features),
        max(lengths),
        padded=min(lengths) < max(lengths),
        texts=len(texts_of(features[0])),
    )


def blank(sizes: BatchShape, labels: Tensor) -> dict[str, Tensor]:
    """A batch of zeros."""
    import torch

    size = (sizes.rows, sizes.texts, sizes.length)
    names = ("input_ids", "attention_mask")
    return {**{name: torch.zeros(*size, dtype=torch.long) for name in names}, "labels": labels}


def places(features: Sequence[Feature]) -> list[tuple[str, dict[str, int]]]:
    """The longest text."""
    return [("input", {INPUT: max(len(ids) for feature in features for ids in texts_of(feature))})]


def supports(config: Any, known: bool) -> bool:
    """Whether a base reads text and gives a state for each token: BERT and its kin, or a decoder alone."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    reads = type(config) in MODEL_FOR_MASKED_LM_MAPPING or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return known and reads and not getattr(config, "is_encoder_decoder", False)


def in_batch_negatives(vectors: Tensor, keys: Tensor, among: slice = slice(None)) -> Tensor:
    """Loss [rows] of finding each row's positive among the positives and negatives of all rows.

    -log softmax of 20 cos(anchor, candidate) at the row's positive: InfoNCE (van den Oord et al. 2018) with
    in-batch negatives (Henderson et al. 2017), as MultipleNegativesRankingLoss of Sentence Transformers. A
    candidate that is known to be right is no negative: the positive of a row with the same anchor, the same
    text once more, or the anchor itself.

    Args:
        vectors: Anchors, positives and then negatives of each row, [rows, texts, width].
        keys: What is equal for equal texts, [rows, texts].
        among: Rows whose loss is wanted; candidates are of all.
    """
    import torch

    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    rows = len(wide)
    candidates = wide[:, 1:].transpose(0, 1).flatten(0, 1)  # the positives of all rows first
    names, anchors = keys[:, 1:].transpose(0, 1).flatten(), keys[:, 0]
    logits = SCALE * wide[among, 0] @ candidates.T
    same_anchor = (anchors[among, None] == anchors[None]).to(wide.dtype)
    right = (keys[:, 1, None] == names[None]).to(wide.dtype)
    known = (same_anchor @ right > 0) | (anchors[among, None] == names[None])
    own = torch.eye(rows, len(names), dtype=torch.bool, device=keys.device)[among]
    logits = logits.masked_fill(known & ~own, -torch.inf)
    return torch.logsumexp(logits, dim=1) - logits.masked_fill(~own, 0.0).sum(dim=1)


def cosent(cosines: Tensor, scores: Tensor, among: slice = slice(None)) -> Tensor:
    """log(1 + sum of exp(20 (cos_i - cos_j)) over all rows i, j of which i has the lower score).

    CoSENT (Su 2022, kexue.fm/archives/8847), as CoSENTLoss of Sentence Transformers. It asks for the order of
    the scores alone, as Spearman's correlation does, so that their range does not matter.

    Args:
        cosines: Of each row's two texts, [rows].
        scores: The true ones, [rows].
        among: The rows i.
    """
    import torch

    differences = SCALE * (cosines[among, None] - cosines[None])
    differences = differences.masked_fill(scores[among, None] >= scores[None], -torch.inf)
    zero = differences.new_zeros(1)
    return torch.logsumexp(torch.cat([zero, differences.flatten()]), dim=0)
