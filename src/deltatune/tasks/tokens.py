"""What tasks about text share: padding, label masks, and what is wrong with a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from deltatune.errors import DataError, SilentRowError
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import IGNORED, Row, Tools

if TYPE_CHECKING:
    from torch import Tensor

TEXT_METRICS = ("rouge", "bleu", "chrf", "exact_match", "stop_rate", "repetition_rate", "mean_length")
"""Metrics of written texts that are meant for any of them."""
LOSSES = ("loss", "perplexity")
BETWEEN = "\n\n"
"""What stands between a row that is shown and the next one, as in lm-evaluation-harness."""
_ALL = 1 << 30
"""A limit that no text reaches."""

IMAGE_SIZE = {"model.image_size": "is for image-classification; {task} reads text."}
"""The field of a recipe that text has no use for."""


def text_of(row: Row) -> str:
    """The row's input.

    Raises:
        DataError: It is an image.
    """
    if not isinstance(row.input, str):
        raise DataError(
            "holds an image, not a text.", field=f"row {row.id}", remedy="Use image-classification."
        )
    return row.input


def behind_shots(
    row: Row, tools: Tools, read: Callable[[str, int], tuple[list[int], bool]], after: str = ""
) -> tuple[list[int], bool]:
    """The tokens of a row's text behind the rows that are shown before it, and whether the text was cut.

    They are one text, tokenised as one. The limit is of the row's own text; where that was cut, what is left
    of it stands behind the tokens of the others.

    Args:
        row: The row.
        tools: The tokenizer and the limit.
        read: Gives the tokens of a text, at most so many, and whether it was cut.
        after: What stands between input and target of a row that is shown.
    """
    text = text_of(row)
    ids, cut = read(text, tools.spec.max_input_tokens)
    if not row.shots:
        return ids, cut
    before = "".join(f"{shot.input}{after}{shot.target}{BETWEEN}" for shot in row.shots)
    if not cut:
        return read(before + text, _ALL)[0], False
    begin = ids[:1] if ids[0] == tools.tokens.bos_id else []
    return [*begin, *tools.tokens.bare(before), *ids[len(begin) :]], True


def target_ids(row: Row, tools: Tools, supervised: bool, *, as_target: bool) -> tuple[list[int], bool]:
    """The tokens of a row's target with its end token, and whether they were cut.

    Args:
        row: The row.
        tools: The tokenizer and the limit.
        supervised: Whether there must be a target.
        as_target: Whether the tokenizer has a way of its own for targets.

    Raises:
        DataError: It teaches nothing.
    """
    if not supervised and not row.target:
        return [], False
    ids, cut = tools.tokens.target(row.target, tools.spec.max_target_tokens, as_target=as_target)
    if not tools.tokens.has_content(ids):
        raise no_signal(row, f"no tokens for its target {row.target[:40]!r}")
    return ids, cut


def no_signal(row: Row, why: str) -> SilentRowError:
    """The error of a row that teaches nothing."""
    return SilentRowError(
        f"gives {why}: there is nothing to learn from it.", field=f"row {row.id}", remedy="Mend or remove it."
    )


def continues(config: Any, known: bool) -> bool:
    """Whether a base goes on with a text: a decoder alone; arguments as of `Task.supports`.

    BERT and its kin have a language-model class of this kind, but they look at both sides of a token.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    both_sides = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return known and not getattr(config, "is_encoder_decoder", False) and not both_sides


def count_behind(labels: Tensor) -> Tensor:
    """Labels of each row that are not masked, but for the first token, which nothing predicts."""
    return labels[:, 1:].ne(IGNORED).sum(dim=1)


def blank_behind(shape: BatchShape) -> dict[str, Tensor]:
    """A batch of zeros with as many labels at the end of each row as the shape says."""
    import torch

    labels = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    labels[:, : -max(1, shape.labelled // shape.rows)] = IGNORED
    return {**shape.inputs(), "labels": labels}


def padded(rows: Sequence[Sequence[int]], tools: Tools, *, left: bool = False) -> dict[str, Any]:
    """`input_ids` and `attention_mask` [rows, length] of rows of tokens."""
    ones = [[1] * len(row) for row in rows]
    return {"input_ids": pad(rows, tools.tokens.pad_id, left), "attention_mask": pad(ones, 0, left)}


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad rows to the longest: an int64 tensor [rows, length]."""
    import torch

    width = max(map(len, rows), default=0)
    filled = torch.full((len(rows), width), value, dtype=torch.long)
    for index, row in enumerate(rows):
        if row:
            place = slice(width - len(row), width) if left else slice(len(row))
            filled[index, place] = torch.tensor(row)
    return filled
