"""The validation rows of a run: they choose its adapter's best state, and end it when none better comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded, Encoder
from deltatune.evaluation import evaluate, higher_is_better, losses_on
from deltatune.observer import Observer
from deltatune.recipe.schema import EvaluationSpec
from deltatune.timeline import phase
from deltatune.training.loop.state import adapter_state, load_adapter_state
from deltatune.training.loop.steps import Progress

DIGITS = 5
"""Of the loss of a row, as it is written."""


@dataclass
class Validation:
    """Measures one adapter and remembers its best state."""

    model: AdaptedModel
    adapter: Adapter
    encoder: Encoder
    rows: list[Any]
    encoded: Encoded
    spec: EvaluationSpec
    patience: int | None
    """Evaluations without a better result after which to stop."""
    observer: Observer
    best: dict[str, Any] = field(default_factory=dict)
    """The best state; nothing before the first."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Of the last measurement, as metrics.jsonl has it: `validation`, by key, and `rows`, what each row adds
    to the loss (nothing where the loss is one of all rows)."""

    @phase("validation")
    def measure(self) -> dict[str, float]:
        """The loss and, if another metric decides, that one, by key; it is in `seen`, too."""
        measured, rows = losses_on(self.model, self.encoded, self.encoder, self.spec.batch_size)
        if self.spec.select_by not in measured:
            only = self.spec.model_copy(update={"metrics": [self.spec.select_by], "primary": "auto"})
            measured |= evaluate(self.model, self.rows, self.encoded, self.encoder, only).metrics
        self.seen = {"validation": measured, "rows": [float(f"{row.nll:.{DIGITS}g}") for row in rows]}
        return measured

    @phase("validation")
    def value(self, metric: str, threshold: float | None) -> float:
        """A metric of the adapter as it is.

        Args:
            metric: Its key.
            threshold: The probability from which on labels are given, where a row may have several.
        """
        only = self.spec.model_copy(update={"metrics": [metric], "primary": "auto"})
        found = evaluate(self.model, self.rows, self.encoded, self.encoder, only, threshold=threshold)
        return found.metrics[metric]

    def judge(self, measured: dict[str, float], progress: Progress) -> None:
        """Remember the state if it is the best so far, and decide about stopping.

        Args:
            measured: What `measure` gave.
            progress: Where the run stands; is told.
        """
        progress.evaluated = progress.step
        if not self.adapter.settled:
            return  # a schedule is under way; this state is not what the method promises
        key = self.spec.select_by
        value = measured[key]
        sign = 1 if higher_is_better(key) else -1
        if progress.best is None or sign * value > sign * progress.best:
            progress.best, progress.best_step, progress.worse = value, progress.step, 0
            progress.best_validation = measured
            self.best = adapter_state(self.adapter)
        else:
            progress.worse += 1
            if self.patience is not None and progress.worse >= self.patience:
                progress.stopped = True
                self.observer.log(f"Stopped early: {key} was best at step {progress.best_step}.")

    def restore(self, progress: Progress) -> None:
        """Let the adapter have its best state, if there is one."""
        if self.best:
            load_adapter_state(self.adapter, self.best, self.model.device)
            if progress.best_step == 0:
                key = self.spec.select_by
                self.observer.warn(f"training made {key} no better, so the delta stays what it started from.")
