"""What an export loses: outputs beside the run's own, and the run's metric on its own test rows."""

from __future__ import annotations

import torch
from torch import Tensor

from deltatune.comparison.scores import groups_of, sample_of
from deltatune.comparison.statistics import paired_bootstrap
from deltatune.core.devices import to_device
from deltatune.data.load import load_data
from deltatune.errors import DataError
from deltatune.evaluation import primary_metric
from deltatune.exporting.low_rank import EXPORTED
from deltatune.observer import Observer
from deltatune.results import Comparison, KeptMetric, Prediction
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.runs.sample import sample_batch
from deltatune.runs.use import scored
from deltatune.tasks import TASKS
from deltatune.tasks.classes import positive_last
from deltatune.training.proof.equal_logits import Logits, rounding


class Outputs:
    """What the run's model gives for a few rows, with the run's delta, with the export, and alone."""

    def __init__(self, loaded: LoadedRun) -> None:
        self.batch, self.on = sample_batch(loaded)
        self._loaded = loaded
        self.run, self.base = self._of(NAME), self._of()
        self.share = rounding(loaded.model)

    @torch.inference_mode()
    def _of(self, *names: str) -> Tensor:
        model = self._loaded.model
        with model.using(*names):
            found: Tensor = TASKS.get(self._loaded.recipe.task).outputs(
                model, to_device(self.batch, model.device)
            )
        return found.float().cpu()

    def exported(self) -> Tensor:
        """Of what was exported and attached as `EXPORTED`."""
        return self._of(EXPORTED)

    def beside(self, wanted: Tensor) -> Logits:
        """Some of these outputs, to compare another computation with."""
        return Logits(wanted, self.base, self.on, self.share)

    def comparison(self, found: Tensor, computed_by: str) -> Comparison:
        """Of the run's outputs with others."""
        run = self.beside(self.run)
        return Comparison(
            computed_by=computed_by,
            on=self.on,
            largest_difference=run.distance(found),
            effect=run.distance(self.base),
        )


def kept_metric(loaded: LoadedRun, most: int | None, observer: Observer) -> KeptMetric | str:
    """Evaluate the run's delta and the export on the same test rows.

    Args:
        loaded: The run, with the export attached as `EXPORTED`.
        most: Test rows at most; 0 for none.
        observer: Is told of the progress.

    Returns:
        The run's metric before and after with a 95 % interval of the difference, by a paired bootstrap over
        the rows; or why there is none, as a sentence.
    """
    if most == 0:
        return "The run's metric was not measured, as asked for."
    try:
        if not loaded.names_rows:
            raise DataError("the adapter names none.")
        dataset = load_data(loaded.recipe.data, loaded.recipe.task)
    except DataError as error:
        return f"The run's metric could not be measured: there are no test rows ({error.what.rstrip('.')})."
    rows = dataset.test[:most]
    if not rows:
        return "The run's metric could not be measured: there are no test rows."
    recipe, task = loaded.recipe, TASKS.get(loaded.recipe.task)
    encoded = loaded.encoder.encode(rows)
    metric = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    found = {}
    for name, label in ((NAME, "Evaluating the run"), (EXPORTED, "Evaluating the export")):
        with loaded.model.using(name):
            found[name] = scored(loaded, rows, encoded, observer, label)
    before, after = (found[name].metrics[metric] for name in (NAME, EXPORTED))
    labels = loaded.labels
    if labels and task.has_classes:
        labels = positive_last(labels, recipe.evaluation.positive)
    predictions = [found[name].predictions for name in (EXPORTED, NAME)]
    low, high = _interval(predictions, metric, labels, task.scored_as)
    return KeptMetric(
        metric=metric,
        rows=len(rows),
        before=before,
        after=after,
        difference=after - before,
        low=low,
        high=high,
    )


def _interval(
    predictions: list[list[Prediction]], metric: str, labels: list[str] | None, kind: str
) -> tuple[float | None, float | None]:
    """That of the difference of the first minus the second; nothing if the metric follows from no rows."""
    first, second = (sample_of([rows], metric, labels, kind) for rows in predictions)
    groups = groups_of(predictions)
    if first is None or second is None:
        return None, None
    found = paired_bootstrap(first.grouped(groups), second.grouped(groups))
    return found.low, found.high
