"""What `predict` makes of an input before a model sees it: a row, and what is wrong with it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.data.cells import is_image
from deltatune.data.encode import Encoded
from deltatune.data.load import asked_columns, prompt_row
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.recipe import Recipe
from deltatune.recipe.sections import CHAT, DataSpec
from deltatune.recipe.templates import template_fields
from deltatune.results import Prediction
from deltatune.runs.inputs import Asked, checked
from deltatune.runs.loaded import LoadedRun
from deltatune.tasks import TASKS
from deltatune.training.before.longest_rows import require_positions


@dataclass(frozen=True)
class Failed:
    """An input of `predict` that could not be used, in the place of its prediction."""

    id: str
    input: str
    error: str


def line_of(prediction: Prediction | Failed) -> dict[str, Any]:
    """What `deltatune predict` prints of it."""
    if isinstance(prediction, Failed):
        return {"id": prediction.id, "input": prediction.input, "error": prediction.error}
    if prediction.vector is not None:
        return {"id": prediction.id, "input": prediction.input, "vector": prediction.vector}
    record = {
        "id": prediction.id,
        "input": prediction.input,
        **({} if prediction.pair is None else {"pair": prediction.pair}),
        "prediction": prediction.prediction,
    }
    if prediction.spans is not None:
        return record | {"spans": [span.as_dict() for span in prediction.spans]}
    if prediction.probabilities is not None:
        return record | {"probabilities": prediction.probabilities}
    return record | {"stopped": prediction.stopped}


def asked_row(loaded: LoadedRun, row_id: str, value: Asked) -> Row | Failed:
    """The row that an input makes, or what is wrong with it."""
    recipe = loaded.recipe
    images = TASKS.get(recipe.task).reads == "images"
    value = checked(value, images=images)
    if isinstance(value, DataError):
        return Failed(row_id, "", said(value))
    try:
        columns = _columns(value, recipe)
        if isinstance(columns, Mapping):
            row_id = str(columns.get(recipe.data.columns.id or "", row_id))
            if images and not any(map(is_image, columns.values())):
                columns = _image(columns, recipe.data)
        return prompt_row(columns, recipe.data, recipe.task, row_id, loaded.splitting)
    except DataError as error:
        shown = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, Mapping) else value
        return Failed(row_id, str(shown), said(error))


def said(error: DataError) -> str:
    """The error without the place, which the line tells that it is in."""
    return " ".join(part for part in (error.what, error.remedy) if part)


def require_room(loaded: LoadedRun, parts: Mapping[str, Encoded], new: int) -> list[str]:
    """Refuse rows that leave no positions for `new` tokens that are generated; return warnings.

    Raises:
        DataError: There are such rows.
    """
    return require_positions(loaded.room, loaded.recipe.task, parts, new)


def _columns(value: str | Path | Mapping[str, Any], recipe: Recipe) -> str | Path | Mapping[str, Any]:
    """The input, or the columns in it: if the model reads several, or a row may be more than a text.

    Raises:
        DataError: It is no object in JSON then.
    """
    spec = recipe.data
    if isinstance(value, Mapping):
        return value
    fields = [] if spec.template == CHAT else sorted(set(template_fields(spec.template)))
    pair, reads = spec.columns.pair, "run's template names"
    if pair is not None and pair not in fields:
        fields = [spec.columns.input if name == "input" else name for name in fields] + [pair]
        reads = "run reads"
    if len(fields) < 2:
        forms = asked_columns(spec, recipe.task)
        columns = _object(value) if forms else None
        return value if columns is None or columns.keys().isdisjoint(forms) else columns
    columns = _object(value)
    if columns is None:
        raise DataError(
            f"{str(value)[:40]!r} is one text, and the {reads} {', '.join(fields)}.",
            field="INPUT",
            remedy=f"Give an object in JSON: {json.dumps(dict.fromkeys(fields, '...'))}.",
        )
    return columns


def _object(value: str | Path) -> dict[str, Any] | None:
    """The object that a text is in JSON; None of another text."""
    try:
        columns = json.loads(str(value))
    except (ValueError, RecursionError):
        return None
    return columns if isinstance(columns, dict) else None


def _image(columns: Mapping[str, Any], spec: DataSpec) -> Path:
    """The file that a row names."""
    names = [spec.columns.input, "image", "file", "path"]
    name = next((name for name in names if isinstance(columns.get(name), str)), None)
    if name is None:
        raise DataError(
            f"names no image in a column {', '.join(names[1:])}.", remedy=f"It has {', '.join(columns)}."
        )
    return Path(columns[name])


def encoded_rows(loaded: LoadedRun, made: list[Row | Failed]) -> tuple[Encoded | None, list[Row | Failed]]:
    """Encode the rows; those that cannot be (a broken image, a text too long) are found, and fail alone."""
    rows = [row for row in made if isinstance(row, Row)]
    if not rows:
        return None, made
    try:
        encoded = loaded.encoder.encode(rows, supervised=False)
        require_room(loaded, {"given": encoded}, loaded.recipe.evaluation.max_new_tokens)
        return encoded, made
    except DataError as error:
        if len(rows) == 1:
            row, failure = rows[0], said(error)
            return None, [Failed(row.id, row.input_text(), failure) if one is row else one for one in made]
    checked = [encoded_rows(loaded, [one])[1][0] for one in made]
    return encoded_rows(loaded, checked)
