"""What a method sees of the training rows before anything else: their classes, and the rows themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.devices import to_device
from deltatune.evaluation.interfaces import evaluating, longest_first
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import labels_of
from deltatune.timeline import phase
from deltatune.training.given.beside import beside_rows, require_metric
from deltatune.training.loop.steps import Progress
from deltatune.training.single.parts import Run


def see(run: Run) -> Progress:
    """Show a run's method the training rows, and let it stand beside those that are evaluated.

    Returns:
        What it cost, of a method that keeps rows.

    Raises:
        DataError: The rows are of no use to the method.
        RecipeError: The recipe ranks by a loss, and the method has none.
        TargetError: The task's rows cannot be shown.
    """
    _see_classes(run)
    if type(run.adapter).see_rows is Adapter.see_rows and run.adapter.beside is None:
        return Progress()
    known = run.adapter.beside
    require_metric(run.recipe, run.entry, answers=known is not None and known.answers)
    started, tokens = time.perf_counter(), 0
    rows, encoded = run.data.dataset.train, run.data.encoded("train")

    def batches() -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        nonlocal tokens
        tokens = sum(encoded.lengths)
        for numbers in longest_first(encoded.lengths, run.recipe.evaluation.batch_size):
            batch = run.encoder.collate([encoded.features[row] for row in numbers])
            yield numbers, to_device(batch, run.model.device)

    with phase("training"), evaluating(run.model):
        run.adapter.see_rows(rows, batches)
    beside = beside_rows(run.adapter, run.model.base, run.recipe)
    if beside is not None:
        beside.require_fit(run.recipe.task, run.entry.method)
        run.stand_beside(beside)
    return Progress(seconds=time.perf_counter() - started, tokens=tokens)


def _see_classes(run: Run) -> None:
    labels = run.encoder.labels  # in the order of the model's outputs
    if not labels:
        return
    targets = [row.target for row in run.data.dataset.train]
    sets = TASKS.get(run.recipe.task).has_label_sets
    names = map(labels_of, targets) if sets else (row.class_names for row in run.data.dataset.train)
    counts = Counter(chain.from_iterable(names))
    run.adapter.see_classes([counts[label] for label in labels], len(targets))
