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
        `samples` (tokens, each with whether it is supervised) and `tokens` by part (lengths, truncation), of
        each of `models` and of the first one at the top; what `DataCheck` found, and every warning.

    Raises:
        DataError: The data cannot be read or used.
        ModelError: The tokenizer or image processor cannot be loaded.
    """
    observer = observer or Silent()
    observer.stage("Reading the data")
    dataset = load_data(recipe.data, recipe.task)
    assert dataset.check is not None
    warnings, models = list(dataset.warnings), []
    parts = {part: getattr(dataset, part) for part in PARTS}
    shown = limit_rows(dataset.train, samples, seed=0)
    for spec in recipe.models:
        observer.stage(f"Loading the tokenizer of {spec.name}")
        processor, config = load_processor(spec, recipe.task)
        encoder = Encoder(recipe.task, processor, recipe.data, dataset.labels, config)
        tokens = {}
        whose = f" of {spec.name}" if len(recipe.models) > 1 else ""
        for part, rows in parts.items() if recipe.task != "image-classification" else ():
            if rows:
                encoded = encoder.encode(rows)
                tokens[part] = _counts(encoded)
                warnings += truncation_warnings(
                    encoded.report, "training" if part == "train" else part, whose
                )
        found = [_sample(encoder, row) for row in shown]
        models.append({"model": spec.name, "samples": found, "tokens": tokens})
    return {
        "task": recipe.task,
        "rows": {part: len(rows) for part, rows in parts.items()},
        **models[0],
        "models": models,
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
