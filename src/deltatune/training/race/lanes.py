"""What a run of a race is: opened, training, waiting for gradients, trained, or out of the race.

Each state has the functions that lead on from it. An error in a run is the run's own outcome.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry
from deltatune.results import PausedRun, RunResult
from deltatune.timeline import Timeline, phase
from deltatune.training.given.context import Context
from deltatune.training.loop.steps import Gradients, Progress, Request, Steps
from deltatune.training.loop.trainer import Trainer
from deltatune.training.single.begin import begin
from deltatune.training.single.end import end
from deltatune.training.single.opening import open_run
from deltatune.training.single.parts import Begun, Run


@dataclass(frozen=True)
class Starter:
    """A run that takes part."""

    entry: MethodEntry
    seed: int
    out: Path


Outcome = RunResult | PausedRun | Exception | None
"""The result of a run, the error that ended the run, or None for one to be trained alone."""


@dataclass(frozen=True)
class Out:
    """No longer in the race, or never in it."""

    outcome: Outcome


@dataclass(frozen=True)
class Training:
    """In its loop."""

    begun: Begun
    trainer: Trainer
    steps: Steps


@dataclass(frozen=True)
class Waiting:
    """Its loop waits for gradients, which may come from a pass for several."""

    training: Training
    request: Request

    @property
    def trainer(self) -> Trainer:
        """Of its loop."""
        return self.training.trainer

    @property
    def asked(self) -> tuple[Trainer, list[int]]:
        """Who asks, and for which rows."""
        return self.trainer, self.request.rows


@dataclass(frozen=True)
class Trained:
    """Its loop is at its end."""

    begun: Begun
    progress: Progress


Lane = Run | Training | Waiting | Trained | Out
"""One run, as far as it has come: first it is opened."""


def opened(
    starter: Starter, context: Context, model: AdaptedModel, name: str, stack: contextlib.ExitStack
) -> Run | Out:
    """Attach the run's adapter, until the stack is left, unless the run is finished."""
    entry, seed = starter.entry, starter.seed
    observer, timeline = _Named(context.observer, f"{entry.name}, seed {seed}"), Timeline()
    try:
        with timeline.open():
            run = open_run(
                context.recipe, entry, seed, starter.out,
                resume=True, observer=observer, context=context, model=model, name=name, timeline=timeline,
            )  # fmt: skip
    except Exception as error:
        return _out(error)
    if isinstance(run, RunResult):
        return Out(run)
    stack.callback(run.close)
    return run


def started(run: Run) -> Training | Out:
    """Make the trainer and its loop, if the run can take part."""
    if not _shares(run.adapter):
        return Out(None)
    try:
        with _acting(run):
            begun = begin(run)
            if begun.trainer is None or begun.trainer.has_trunk:  # kept layers spare more
                return Out(None)
            return Training(begun, begun.trainer, begun.trainer.steps(resume=run.resumes))
    except Exception as error:
        return _out(error)


def advanced(training: Training, gradients: Gradients | None = None) -> Waiting | Trained | Out:
    """Let the loop run to its next request, or its end; what it wants alone is answered on the way."""
    steps, trainer, run = training.steps, training.trainer, training.begun.run
    if gradients is not None and gradients.raced > 1:
        run.timeline.add("training", gradients.spent.seconds, gradients.processor_seconds)
    try:
        with _acting(run), trainer.explained(), phase("training"):
            try:
                request = next(steps) if gradients is None else steps.send(gradients)
                while request.alone:
                    request = steps.send(trainer.gradients(request.rows))
            except StopIteration as at_end:
                return Trained(training.begun, at_end.value)
            return Waiting(training, request)
    except Exception as error:
        return _failed(training, error)


def advanced_alone(waiting: Waiting) -> Waiting | Trained | Out:
    """Answer the request by a pass of its own, and go on."""
    training, trainer = waiting.training, waiting.trainer
    try:
        with _acting(training.begun.run), trainer.explained(), phase("training"):
            gradients = trainer.gradients(waiting.request.rows)
    except Exception as error:
        return _failed(training, error)
    return advanced(training, gradients)


def ended(trained: Trained, peak: int) -> Out:
    """Evaluate the run and write its result."""
    try:
        with _acting(trained.begun.run):
            return Out(end(trained.begun, trained.progress, peak))
    except Exception as error:
        return _out(error)


def _failed(training: Training, error: Exception) -> Out:
    training.steps.close()
    return _out(error)


def _out(error: Exception) -> Out:
    """Out with this error, of which no tensor is left: its traceback would hold them while others train."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    return Out(error)


@contextlib.contextmanager
def _acting(run: Run) -> Iterator[None]:
    """Within the block the run's adapter is active, and a certificate that fails is written down."""
    with run.timeline.open(), run.failing(), run.model.using(run.name):
        yield


def _shares(adapter: Adapter) -> bool:
    """Whether it leaves the base's parameters in their places, and asks for no other loss within a step."""
    return not adapter.own and type(adapter).before_step is Adapter.before_step


class _Named:
    """An observer that says which run a task is of."""

    def __init__(self, observer: Observer, label: str) -> None:
        self._observer, self._label = observer, label
        self.stage, self.log, self.warn = observer.stage, observer.log, observer.warn

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Pass it on."""
        self._observer.start(f"{self._label}: {task}", total, done)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Pass it on."""
        self._observer.advance(f"{self._label}: {task}", amount, numbers)

    def finish(self, task: str) -> None:
        """Pass it on."""
        self._observer.finish(f"{self._label}: {task}")
