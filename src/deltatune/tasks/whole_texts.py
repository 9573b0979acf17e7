"""What tasks share whose model reads one text and says one thing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import INPUT, Feature, Fidelity, Row, Tools


def read(row: Row, tools: Tools) -> tuple[Feature, bool]:
    """`input_ids` of the text, and whether it was cut.

    Raises:
        DataError: The row's input is an image.
    """
    input_ids, cut = tools.tokens.with_specials(tokens.text_of(row), tools.spec.max_input_tokens)
    return {"input_ids": input_ids}, cut


def collate(features: Sequence[Feature], tools: Tools) -> dict[str, Any]:
    """`input_ids` and `attention_mask` [rows, length]."""
    return tokens.padded([feature["input_ids"] for feature in features], tools)


def preview(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """The text in tokens, none of which is learned."""
    return [(piece, False) for piece in tools.tokens.pieces(feature["input_ids"])]


def look(fidelity: Fidelity, row: Row, feature: Feature, tools: Tools) -> None:
    """Look at what the tokenizer cannot write of the text."""
    fidelity.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)


def shape(features: Sequence[Feature]) -> BatchShape:
    """Lengths of texts."""
    lengths = [len(feature["input_ids"]) for feature in features]
    return BatchShape(len(features), max(lengths), padded=min(lengths) < max(lengths))


def longest(rows: int, data: Any) -> BatchShape:
    """Texts at their limit."""
    return BatchShape(rows, data.max_input_tokens)


def places(features: Sequence[Feature]) -> list[tuple[str, dict[str, int]]]:
    """The longest text."""
    return [("input", {INPUT: max(len(feature["input_ids"]) for feature in features)})]
