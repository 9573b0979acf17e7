"""What a recipe's data look like to the model, before anything is trained: no weights are loaded."""

from __future__ import annotations

import statistics
from typing import Any

from deltatune.core.observer import Observer, Silent
from deltatune.data.checks import truncation_warnings
from deltatune.data.encode import Encoded, Encoder
from deltatune.data.load import load_data
from deltatune.data.rows import Row
from deltatune.data.splits import limit_rows
from deltatune.models.processor import load_processor
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import PARTS


def preview(recipe: Recipe, samples: int = 5, observer: Observer | None = None) -> dict[str, Any]:
    """Encode a recipe's rows and describe them.

    Args:
        recipe: The recipe.
        samples: How many training rows to show token by token.
        observer: Is told of the progress.

    Returns:
        `samples` (tokens, each with whether it is supervised), `tokens` by part (lengths, truncation),
        what `DataCheck` found, and every warning.

    Raises:
        DataError: The data cannot be read or used.
        ModelError: The tokenizer or image processor cannot be loaded.
    """
    observer = observer or Silent()
    observer.stage("Reading the data")
    dataset = load_data(recipe.data, recipe.task)
    observer.stage(f"Loading the tokenizer of {recipe.model.name}")
    processor, config = load_processor(recipe.model, recipe.task)
    encoder = Encoder(recipe.task, processor, recipe.data, dataset.labels, config)
    assert dataset.check is not None
    warnings, tokens = list(dataset.warnings), {}
    parts = {part: getattr(dataset, part) for part in PARTS}
    if recipe.task != "image-classification":
        for part, rows in parts.items():
            if rows:
                encoded = encoder.encode(rows)
                tokens[part] = _counts(encoded)
                warnings += truncation_warnings(encoded.report, "training" if part == "train" else part)
    return {
        "task": recipe.task,
        "model": recipe.model.name,
        "rows": {part: len(rows) for part, rows in parts.items()},
        "samples": [_sample(encoder, row) for row in limit_rows(dataset.train, samples, seed=0)],
        "tokens": tokens,
        **dataset.check.as_dict(),
        "warnings": warnings,
    }


def _counts(encoded: Encoded) -> dict[str, Any]:
    report = encoded.report
    return {
        "total": sum(encoded.lengths),
        "supervised": report.supervised_tokens,
        "median_length": statistics.median(encoded.lengths),
        "longest": max(encoded.lengths),
        "truncated_inputs": report.truncated_inputs,
        "truncated_targets": report.truncated_targets,
    }


def _sample(encoder: Encoder, row: Row) -> dict[str, Any]:
    encoded = encoder.encode([row])
    shown = encoder.preview(encoded.features[0])
    return {
        "id": row.id,
        "length": encoded.lengths[0],
        "supervised": encoded.report.supervised_tokens,
        "tokens": [{"text": _readable(piece, encoder), "supervised": learned} for piece, learned in shown],
    }


def _readable(piece: str, encoder: Encoder) -> str:
    """A token as the text that it stands for; vocabularies write blanks and other bytes in their own ways."""
    if encoder.task == "image-classification" or "▁" in piece:
        return piece.replace("▁", " ")
    return str(encoder.processor.convert_tokens_to_string([piece])) or piece
