"""Evaluate and predict with the delta of a finished run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from deltatune.core.observer import Observer, Silent
from deltatune.data.load import load_data, prompt_row
from deltatune.errors import DataError
from deltatune.evaluate import Prediction, classify, evaluate, generate
from deltatune.recipe.rules import template_fields
from deltatune.recipe.sections import CHAT, DataSpec
from deltatune.runs.load import LoadedRun, load_run
from deltatune.train.machine import fast_cpu

BATCH = 16
CLASSIFICATION = ("text-classification", "image-classification")


def evaluate_run(
    folder: Path,
    *,
    split: str = "test",
    trust_remote_code: bool = False,
    observer: Observer | None = None,
) -> dict[str, float]:
    """Evaluate a run's delta, loaded from its files, on a part of its recipe's data.

    Args:
        folder: The run's folder.
        split: `train`, `validation` or `test`.
        trust_remote_code: As of `load_run`.
        observer: Is told of the progress.

    Returns:
        The metrics by name.

    Raises:
        AdapterError: The folder holds no finished run.
        DataError: The data are gone or have changed so that they cannot be used, or the part is empty.
    """
    observer = observer or Silent()
    observer.stage(f"Loading {folder}")
    loaded = load_run(folder, trust_remote_code=trust_remote_code)
    dataset = load_data(loaded.recipe.data, loaded.recipe.task)
    if dataset.fingerprint != loaded.result["data"]["fingerprint"]:
        observer.warn("The data have changed since the run; its own metrics are in result.json.")
    rows = getattr(dataset, split)
    if not rows:
        raise DataError(f"there are no {split} rows.", field="--split", remedy="Choose another part.")
    encoded = loaded.encoder.encode(rows)
    observer.start("Evaluating", len(rows))
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        reached = round(done / total * len(rows))
        observer.advance("Evaluating", reached - shown)
        shown = reached

    with fast_cpu():  # as the run itself was evaluated
        found = evaluate(loaded.model, rows, encoded, loaded.encoder, loaded.recipe.evaluation, advance)
    observer.finish("Evaluating")
    return found.metrics


def predict(
    folder: Path, inputs: Iterable[str | Path], *, trust_remote_code: bool = False
) -> Iterator[Prediction]:
    """Predict for inputs that go through the run's template, a few at a time.

    Args:
        folder: The run's folder.
        inputs: Texts, or image files for a model of images; objects in JSON with the columns, if the run's
            template names several.
        trust_remote_code: As of `load_run`.

    Yields:
        One prediction for each input, in order: the generated text with whether the model ended it, or the
        class with the probability of each.

    Raises:
        AdapterError: The folder holds no finished run.
        DataError: An input is empty or no image.
    """
    loaded = load_run(folder, trust_remote_code=trust_remote_code)
    numbered = enumerate(inputs)
    while chunk := list(itertools.islice(numbered, BATCH)):
        yield from _predict(loaded, chunk)


def _columns(value: str | Path, spec: DataSpec) -> str | Path | Mapping[str, Any]:
    """The input, or the columns in it if the template names several, which one text cannot fill.

    Raises:
        DataError: It is no object in JSON then.
    """
    fields = [] if spec.template == CHAT else sorted(set(template_fields(spec.template)))
    if len(fields) < 2:
        return value
    try:
        columns = json.loads(str(value))
    except ValueError:
        columns = None
    if not isinstance(columns, dict):
        raise DataError(
            f"{str(value)[:40]!r} is one text, and the run's template names {', '.join(fields)}.",
            field="INPUT",
            remedy=f"Give an object in JSON: {json.dumps(dict.fromkeys(fields, '...'))}.",
        )
    return columns


def _predict(loaded: LoadedRun, chunk: list[tuple[int, str | Path]]) -> list[Prediction]:
    recipe, spec = loaded.recipe, loaded.recipe.evaluation
    rows = [
        prompt_row(_columns(value, recipe.data), recipe.data, recipe.task, str(number))
        for number, value in chunk
    ]
    encoded = loaded.encoder.encode(rows, supervised=False)
    found: dict[int, Prediction] = {}
    if recipe.task in CLASSIFICATION:
        labels = loaded.encoder.labels or []
        for index, scores, _ in classify(loaded.model, encoded, loaded.encoder, batch_size=BATCH):
            probabilities = torch.exp(scores).tolist()
            best = labels[int(scores.argmax())]
            row = rows[index]
            found[index] = Prediction(
                row.id, row.input_text(), "", best, None, dict(zip(labels, probabilities, strict=True))
            )
    else:
        for index, generation in generate(
            loaded.model,
            encoded,
            loaded.encoder,
            batch_size=BATCH,
            max_new_tokens=spec.max_new_tokens,
            num_beams=spec.num_beams,
        ):
            row = rows[index]
            found[index] = Prediction(row.id, row.input_text(), "", generation.text, generation.stopped)
    return [found[index] for index in range(len(rows))]
