"""What a recipe's data look like to the model, before anything is trained: no weights are loaded."""

from __future__ import annotations

import copy
import statistics
from typing import Any

from transformers import PreTrainedConfig

from deltatune.core.devices import device_of
from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoded, Encoder
from deltatune.data.general import read_general
from deltatune.data.positives import told_columns
from deltatune.data.rows import Row
from deltatune.data.splits import limit_rows
from deltatune.data.tag_set import described
from deltatune.errors import DataError
from deltatune.memory.predict import Setup, planned_room
from deltatune.models.labels import set_outputs
from deltatune.models.processor import load_processor, processor_name
from deltatune.observer import Observer, Silent
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import PARTS
from deltatune.recipe.spaces import readings_of
from deltatune.results import DataPreview, Padding
from deltatune.tasks import TASKS
from deltatune.training.before.forecast import planned_padding, setup_of, sized
from deltatune.training.before.longest_rows import new_tokens, require_positions
from deltatune.training.given.readings import RunData, read_data, reading_label, whose
from deltatune.training.given.start import settings_of


def preview(recipe: Recipe, samples: int = 5, observer: Observer | None = None) -> DataPreview:
    """Encode a recipe's rows and describe them.

    Args:
        recipe: The recipe.
        samples: How many training rows to show token by token.
        observer: Is told of the progress.

    Raises:
        DataError: The data cannot be read or used, or rows are longer than the positions of the model.
        ModelError: The tokenizer or image processor cannot be loaded.
        TargetError: A method cannot act on its model.
    """
    observer = observer or Silent()
    observer.stage("Reading the data")
    datasets = read_data(recipe)
    if recipe.evaluation.general is not None:
        read_general(recipe.evaluation.general)  # nothing of it is shown, and no run begins without it
    warnings = [text for dataset in datasets.values() for text in dataset.warnings]
    models = []
    for spec in recipe.models:
        observer.stage(f"Loading the {processor_name(recipe.task)} of {spec.name}")
        processor, of_model = load_processor(spec, recipe.task)
        used = [entry for entry in recipe.methods if recipe.model_of(entry) == spec]
        for data in dict.fromkeys(data for entry in used for data in readings_of(recipe, entry)):
            dataset = datasets[data.template]
            encoder = Encoder(recipe.task, processor, data, dataset.labels, of_model, dataset.scale)
            rows = RunData(dataset, encoder, whose(recipe, spec, data), warnings.append)
            tokens = {}
            for part in PARTS:
                if TASKS.get(recipe.task).reads == "text" and getattr(dataset, part):
                    tokens[part] = _counts(rows.encoded(part))
            padding: list[Padding | None] = []
            for entry in used if tokens else ():
                if data in readings_of(recipe, entry):
                    setup = _setup(recipe, entry, rows, of_model.config)
                    warnings += _require_positions(recipe, entry, rows, setup)
                    if setup.method.trains:
                        padding.append(planned_padding(setup, recipe, entry, rows.encoded("train")))
            found = [_sample(encoder, row) for row in limit_rows(dataset.train, samples, seed=0)]
            label = reading_label(recipe, data)
            models.append({
                "model": spec.name, "reading": label, "samples": found, "tokens": tokens,
                "padding": next(iter(padding), None),
            })  # fmt: skip
    first = next(iter(datasets.values()))
    assert first.check is not None
    pair = first.pair or told_columns(first.train[0].columns, recipe.data.columns, recipe.task)
    content = {
        "task": recipe.task,
        "rows": {part: len(getattr(first, part)) for part in PARTS},
        "conversations": _conversations(first),
        "tags": _tags(recipe, first),
        "pair": list(pair) if pair else None,
        "references": None
        if first.references is None
        else {part: list(counts) for part, counts in first.references.items()},
        "groups": {part: len({row.group for row in getattr(first, part)}) for part in PARTS}
        if first.train[0].group is not None
        else None,
        **{name: value for name, value in models[0].items() if name != "padding"},
        "models": models,
        **first.check.as_dict(),
        "warnings": list(dict.fromkeys(warnings)),
    }
    return DataPreview.model_validate(content)


def _setup(recipe: Recipe, entry: MethodEntry, rows: RunData, config: PreTrainedConfig) -> Setup:
    """The entry on its model."""
    config = copy.deepcopy(config)
    set_outputs(config, recipe.task, rows.dataset.labels)
    device = device_of(recipe.device)
    return setup_of(recipe.task, recipe.model_of(entry), entry, settings_of(entry), config, device)


def _require_positions(recipe: Recipe, entry: MethodEntry, rows: RunData, setup: Setup) -> list[str]:
    """Refuse rows that are longer than the base's positions, with the entry's own tokens; return warnings.

    Raises:
        DataError: There are such rows.
        DeltatuneError: The entry's method cannot act on this base.
    """
    room = planned_room(sized(setup.changed(processor=rows.encoder.processor), entry))
    parts = {part: rows.encoded(part) for part in PARTS if getattr(rows.dataset, part)}
    try:
        return require_positions(room, recipe.task, parts, new_tokens(recipe))
    except DataError as error:
        if len(recipe.methods) == 1:
            raise
        what = f"{error.what.removesuffix('.')} (entry {entry.name})."
        raise DataError(what, field=error.field, remedy=error.remedy) from error


def _conversations(dataset: Dataset) -> dict[str, Any] | None:
    """How sources write conversations, and how many messages and answers they hold; None of other data."""
    talks = [row.conversation for part in PARTS for row in getattr(dataset, part) if row.conversation]
    if not talks:
        return None
    counts = [len(talk.messages) for talk in talks]
    return {
        "forms": list(dict.fromkeys(talk.form for talk in talks)),
        "median_messages": statistics.median(counts),
        "most_messages": max(counts),
        "learned_answers": sum(sum(talk.learned) for talk in talks),
        "with_tools": sum(bool(talk.tools) for talk in talks),
    }


def _tags(recipe: Recipe, dataset: Dataset) -> dict[str, Any] | None:
    """How words are tagged; None of other data."""
    if not TASKS.get(recipe.task).tags_words:
        return None
    return described({part: getattr(dataset, part) for part in PARTS}, dataset.labels or [])


def _counts(encoded: Encoded) -> dict[str, Any]:
    report = encoded.report
    seen = report.fidelity
    return {
        "total": report.tokens,
        "supervised": report.supervised_tokens,
        "median_length": statistics.median(encoded.lengths),
        "longest": max(encoded.lengths),
        "truncated_inputs": report.truncated_inputs,
        "truncated_targets": report.truncated_targets,
        "lost_words": seen.words_lost + seen.words_cut if seen.words else None,
        "truncated_texts": report.truncated_texts and list(report.truncated_texts),
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
    if TASKS.get(encoder.task).reads == "images" or "▁" in piece:
        return piece.replace("▁", " ")
    return str(encoder.processor.convert_tokens_to_string([piece])) or piece
