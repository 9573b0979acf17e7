"""Evaluate and predict with the delta of a finished run, or with an adapter without one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deltatune.core.devices import AUTO, device_of
from deltatune.core.ranks import joined
from deltatune.data.encode import Encoded
from deltatune.data.load import load_data
from deltatune.data.readers import Writing
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.evaluation import Evaluation, Prediction, answer, evaluate
from deltatune.files import meant, write_lines
from deltatune.launched import rank
from deltatune.observer import Observer, Silent
from deltatune.recipe import Recipe
from deltatune.recipe.given import Given
from deltatune.runs.asking import Failed, asked_row, encoded_rows, require_room
from deltatune.runs.inputs import Asked, named_inputs
from deltatune.runs.load import load_run
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.tasks import TASKS
from deltatune.training.before.longest_rows import new_tokens
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

    Processes that were launched together share the rows, and all get the metrics.

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
    with joined(device_of(device, field="--device")):
        found = _evaluated(
            folder, split, observer, trust_remote_code=trust_remote_code, given=given, device=device
        )
    if predictions is not None and rank() == 0:
        write_lines(meant(predictions), [prediction.as_dict() for prediction in found.predictions])
    return found.metrics


def _evaluated(
    folder: Path, split: str, observer: Observer, *, trust_remote_code: bool, given: Given | None, device: str
) -> Evaluation:
    """As `evaluate_run`, among the processes that have joined."""
    loaded = load_run(folder, trust_remote_code=trust_remote_code, given=given, device=device, shard=True)
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
    if split == "train" and loaded.model.configs[NAME].holds_rows:
        observer.warn(
            f"{loaded.method} has kept the training rows: each is its own nearest row, or is shown with its "
            "answer. What it scores on them says nothing."
        )
    encoded = loaded.encoder.encode(rows)
    for warning in require_room(loaded, {split: encoded}, new_tokens(loaded.recipe)):
        observer.warn(warning)
    return scored(loaded, rows, encoded, observer)


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

    place = loaded.model.device
    with joined(place), fast_cpu(place):
        spec = loaded.recipe.evaluation
        found = evaluate(loaded.model, rows, encoded, loaded.encoder, spec, advance, loaded.threshold)
    observer.finish(task)
    return found


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
    made = [asked_row(loaded, name, value) for name, value in chunk]
    encoded, made = encoded_rows(loaded, made)
    rows = [row for row in made if isinstance(row, Row)]
    answers = iter(_answers(loaded, rows, encoded) if encoded is not None else [])
    return [one if isinstance(one, Failed) else next(answers) for one in made]


def _answers(loaded: LoadedRun, rows: list[Row], encoded: Encoded) -> list[Prediction]:
    """What the model makes of rows."""
    spec = loaded.recipe.evaluation.model_copy(update={"batch_size": BATCH})
    return answer(loaded.model, rows, encoded, loaded.encoder, spec, loaded.threshold)
