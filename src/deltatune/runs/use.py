"""Evaluate and predict with the delta of a finished run, or with an adapter without one."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.core.devices import AUTO
from deltatune.data.cells import is_image
from deltatune.data.encode import Encoded
from deltatune.data.load import asked_columns, load_data, prompt_row
from deltatune.data.readers import Writing
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.evaluation import Evaluation, Prediction, answer, evaluate
from deltatune.files import meant, write_lines
from deltatune.models.positions import room_of
from deltatune.observer import Observer, Silent
from deltatune.recipe import Recipe
from deltatune.recipe.given import Given
from deltatune.recipe.sections import CHAT, DataSpec
from deltatune.recipe.templates import template_fields
from deltatune.runs.inputs import Asked, checked, named_inputs
from deltatune.runs.load import load_run
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.tasks import TASKS
from deltatune.training.before.longest_rows import new_tokens, require_positions
from deltatune.training.given.machine import fast_cpu

BATCH = 16


def evaluate_run(
    folder: Path,
    *,
    split: str = "test",
    predictions: Path | None = None,
    trust_remote_code: bool = False,
    given: Given | None = None,
    device: str = AUTO,
    observer: Observer | None = None,
) -> dict[str, float]:
    """Evaluate a run's delta, loaded from its files, on a part of its recipe's data.

    Args:
        folder: The run's folder.
        split: `train`, `validation` or `test`.
        predictions: A file to write a line for each row to, by its id, as a run's predictions.jsonl has it.
        trust_remote_code: As of `load_run`.
        given: As of `load_run`; its recipe says what an adapter without a run is evaluated on.
        device: As of `load_run`.
        observer: Is told of the progress.

    Returns:
        The metrics by name.

    Raises:
        AdapterError: The folder holds no finished run.
        DataError: The data are gone or have changed so that they cannot be used, or the part is empty.
    """
    observer = observer or Silent()
    observer.stage(f"Loading {folder}")
    loaded = load_run(folder, trust_remote_code=trust_remote_code, given=given, device=device)
    if not loaded.names_rows:
        raise DataError(
            f"the adapter in '{folder}' has no run that names rows to evaluate it on.",
            field="--recipe",
            remedy="Name a recipe with the task and the data; its data and evaluation sections are used.",
        )
    dataset = load_data(loaded.recipe.data, loaded.recipe.task)
    if loaded.result is not None and loaded.result.data.fingerprint != dataset.fingerprint:
        observer.warn("The data have changed since the run; its own metrics are in result.json.")
    rows = getattr(dataset, split)
    if not rows:
        raise DataError(f"there are no {split} rows.", field="--split", remedy="Choose another part.")
    encoded = loaded.encoder.encode(rows)
    for warning in _room(loaded, {split: encoded}, new_tokens(loaded.recipe)):
        observer.warn(warning)
    found = scored(loaded, rows, encoded, observer)
    if predictions is not None:
        write_lines(meant(predictions), [prediction.as_dict() for prediction in found.predictions])
    return found.metrics


def scored(
    loaded: LoadedRun,
    rows: Sequence[Row],
    encoded: Encoded,
    observer: Observer,
    task: str = "Evaluating",
) -> Evaluation:
    """Evaluate the active deltas of a loaded run on rows, as the run itself was evaluated.

    Args:
        loaded: The run.
        rows: The rows.
        encoded: The same, encoded.
        observer: Is told of the progress, as of `task`.
        task: The task's name.
    """
    observer.start(task, len(rows))
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        reached = round(done / total * len(rows))
        observer.advance(task, reached - shown)
        shown = reached

    with fast_cpu(loaded.model.device):
        spec = loaded.recipe.evaluation
        found = evaluate(loaded.model, rows, encoded, loaded.encoder, spec, advance, loaded.threshold)
    observer.finish(task)
    return found


@dataclass(frozen=True)
class Failed:
    """An input of `predict` that could not be used, in the place of its prediction."""

    id: str
    input: str
    error: str


def predict(
    folder: Path,
    inputs: Iterable[Asked] | Path,
    *,
    trust_remote_code: bool = False,
    given: Given | None = None,
    device: str = AUTO,
) -> Iterator[Prediction | Failed]:
    """Predict for inputs that go through the run's template, a few at a time.

    Args:
        folder: The run's folder.
        inputs: Texts, image files, or mappings with a row's columns; of a template with several columns also
            texts that hold such a mapping in JSON. Or one path: a file of them, or a folder of images, as
            `deltatune.runs.inputs` reads it.
        trust_remote_code: As of `load_run`.
        given: As of `load_run`.
        device: As of `load_run`.

    Yields:
        One for each input, in order: the generated text with whether the model ended it, or the class or
        labels with the probability of each; or what is wrong with the input, while the others go on. Its id
        is that of the recipe's `data.columns.id`, where the input has this column, or else its number, from
        0; that of an image is its path in the folder.

    Raises:
        AdapterError: The folder holds no finished run, or the run wants to run code.
        DataError: A file of inputs cannot be read at all.
    """
    if isinstance(inputs, Path) and not inputs.exists():
        raise DataError(f"cannot read '{inputs}': no such file or directory.", field="--file")
    loaded = load_run(folder, trust_remote_code=trust_remote_code, given=given, device=device)
    named: Iterator[tuple[str, Asked]]
    if isinstance(inputs, Path):
        spec = loaded.recipe.data
        writing = Writing(spec.delimiter, spec.encoding)
        named = named_inputs(inputs, images=TASKS.get(loaded.recipe.task).reads == "images", writing=writing)
    else:
        named = _numbered(inputs, loaded.recipe)
    while chunk := list(itertools.islice(named, BATCH)):
        yield from _predict(loaded, chunk)


def _numbered(inputs: Iterable[Asked], recipe: Recipe) -> Iterator[tuple[str, Asked]]:
    """The inputs by their numbers; warn of a text that was meant as a file of them, as it seems."""
    images = TASKS.get(recipe.task).reads == "images"
    for number, value in enumerate(inputs):
        if not images and isinstance(value, str) and _names_a_file(value):
            warnings.warn(
                f"'{value}' is taken as a text, and there is a file of this name. For predictions of what it "
                "holds name it by --file (in Python as a Path).",
                stacklevel=2,
            )
        yield str(number), value


def _names_a_file(text: str) -> bool:
    """Whether a text is the path of a file with a suffix; most texts are not."""
    if len(text) > 255 or "\n" in text or "." not in text:
        return False
    try:
        return bool(Path(text).suffix) and Path(text).is_file()
    except (OSError, ValueError):
        return False


def _predict(loaded: LoadedRun, chunk: list[tuple[str, Asked]]) -> list[Prediction | Failed]:
    made = [_row(loaded, name, value) for name, value in chunk]
    encoded, made = _encoded(loaded, made)
    rows = [row for row in made if isinstance(row, Row)]
    answers = iter(_answers(loaded, rows, encoded) if encoded is not None else [])
    return [one if isinstance(one, Failed) else next(answers) for one in made]


def _row(loaded: LoadedRun, row_id: str, value: Asked) -> Row | Failed:
    """The row that an input makes, or what is wrong with it."""
    recipe = loaded.recipe
    images = TASKS.get(recipe.task).reads == "images"
    value = checked(value, images=images)
    if isinstance(value, DataError):
        return Failed(row_id, "", _said(value))
    try:
        columns = _columns(value, recipe)
        if isinstance(columns, Mapping):
            row_id = str(columns.get(recipe.data.columns.id or "", row_id))
            if images and not any(map(is_image, columns.values())):
                columns = _image(columns, recipe.data)
        return prompt_row(columns, recipe.data, recipe.task, row_id, loaded.splitting)
    except DataError as error:
        shown = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, Mapping) else value
        return Failed(row_id, str(shown), _said(error))


def _said(error: DataError) -> str:
    """The error without the place, which the line tells that it is in."""
    return " ".join(part for part in (error.what, error.remedy) if part)


def _room(loaded: LoadedRun, parts: Mapping[str, Encoded], new: int) -> list[str]:
    """Refuse rows that leave no positions for `new` tokens that are generated; return warnings."""
    room = room_of(loaded.model.base, loaded.model.adapter(NAME))
    return require_positions(room, loaded.recipe.task, parts, new)


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


def _encoded(loaded: LoadedRun, made: list[Row | Failed]) -> tuple[Encoded | None, list[Row | Failed]]:
    """Encode the rows; those that cannot be (a broken image, a text too long) are found, and fail alone."""
    rows = [row for row in made if isinstance(row, Row)]
    if not rows:
        return None, made
    try:
        encoded = loaded.encoder.encode(rows, supervised=False)
        _room(loaded, {"given": encoded}, loaded.recipe.evaluation.max_new_tokens)
        return encoded, made
    except DataError as error:
        if len(rows) == 1:
            row, failure = rows[0], _said(error)
            return None, [Failed(row.id, row.input_text(), failure) if one is row else one for one in made]
    checked = [_encoded(loaded, [one])[1][0] for one in made]
    return _encoded(loaded, checked)


def _answers(loaded: LoadedRun, rows: list[Row], encoded: Encoded) -> list[Prediction]:
    """What the model makes of rows."""
    spec = loaded.recipe.evaluation.model_copy(update={"batch_size": BATCH})
    return answer(loaded.model, rows, encoded, loaded.encoder, spec, loaded.threshold)
