"""What tasks share whose model reads a row of one text, or of two, and says one thing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import INPUT, Feature, Fidelity, Row, Tools

_SHOWN = 80
"""Characters of a text that a message shows."""


def read(row: Row, tools: Tools) -> tuple[Feature, bool]:
    """`input_ids` of the text, and whether it was cut.

    Of two texts also `token_type_ids`, where the base has them, and `cut_texts`, which of them were cut.

    Raises:
        DataError: The row's input is an image.
    """
    text, limit = tokens.text_of(row), tools.spec.max_input_tokens
    if row.pair is None:
        ids, cut = tools.tokens.with_specials(text, limit)
        return {"input_ids": ids}, cut
    feature, cuts = tools.tokens.with_pair(text, row.pair, limit)
    return {**feature, "cut_texts": cuts}, any(cuts)


def collate(features: Sequence[Feature], tools: Tools) -> dict[str, Any]:
    """`input_ids` and `attention_mask` [rows, length], and `token_type_ids` where rows have them."""
    batch = tokens.padded([feature["input_ids"] for feature in features], tools)
    if not any("token_type_ids" in feature for feature in features):
        return batch
    types = [feature.get("token_type_ids", [0] * len(feature["input_ids"])) for feature in features]
    return {**batch, "token_type_ids": tokens.pad(types, tools.tokens.pad_type)}


def preview(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """The texts in tokens, none of which is learned."""
    return [(piece, False) for piece in tools.tokens.pieces(feature["input_ids"])]


def look(fidelity: Fidelity, row: Row, feature: Feature, tools: Tools) -> None:
    """Look at what the tokenizer cannot write of the texts, and whether anything parts the two."""
    text = tokens.text_of(row)
    if row.pair is not None:
        text = f"{text} | {row.pair}"
        if not tools.tokens.parts_pairs:
            fidelity.joined.add(row, repr(text[:_SHOWN]))
    fidelity.look_at_input(row, text, feature["input_ids"], tools.tokens)


def shape(features: Sequence[Feature]) -> BatchShape:
    """Lengths of texts."""
    lengths = [len(feature["input_ids"]) for feature in features]
    typed = any("token_type_ids" in feature for feature in features)
    return BatchShape(len(features), max(lengths), padded=min(lengths) < max(lengths), typed=typed)


def longest(rows: int, data: Any) -> BatchShape:
    """Texts at their limit."""
    return BatchShape(rows, data.max_input_tokens)


def places(features: Sequence[Feature]) -> list[tuple[str, dict[str, int]]]:
    """The longest text."""
    return [("input", {INPUT: max(len(feature["input_ids"]) for feature in features)})]
