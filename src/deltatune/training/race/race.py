"""The race: several runs over one frozen base make their steps together, and everything else by themselves.

A pass for several runs has fewer and larger operations than one pass for each, which pays where a batch is
small. The rows of one joint batch are routed to their deltas; each run's loss is the mean over its own
labels, and its clipping, optimizer, schedule, order of rows, validation, early stopping and files are its
own. What is trained so is what the run would train alone, to rounding: its rows are padded to the longest of
all, and products of other shapes are summed in another order.

The loops are generators (loop/steps.py), advanced one after another with their own adapter active.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry
from deltatune.results import PausedRun, RunResult
from deltatune.training.given.context import Context
from deltatune.training.given.machine import PeakMemory, fast_cpu
from deltatune.training.loop.steps import Gradients, Progress, Request, Steps, interruptible, recomputing
from deltatune.training.loop.trainer import Trainer
from deltatune.training.race.joint import joint_gradients, together_key
from deltatune.training.single.run import Run, open_run


@dataclass(frozen=True)
class Starter:
    """A run that takes part."""

    entry: MethodEntry
    seed: int
    out: Path


Outcome = RunResult | PausedRun | Exception | None
"""The result of a run, the error that ended the run, or None for one to be trained alone."""


def race(context: Context, starters: Sequence[Starter]) -> list[Outcome]:
    """Train runs on one base at once, or go on with them; evaluate each, and write its folder.

    Args:
        context: Data and bases.
        starters: The runs. Their entries have the same base, in the same precision, the same
            `train.gradient_checkpointing`, and read the rows in one way; `can_race` holds for each.

    Returns:
        What became of each; no error of one ends another.

    Raises:
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    try:
        model = context.base(starters[0].entry).adapted()
    except Exception as error:
        return [error for _ in starters]
    with contextlib.ExitStack() as stack:
        lanes = [_Lane(starter) for starter in starters]
        for place, lane in enumerate(lanes):
            lane.open(context, model, f"run{place}", stack)
        model.use()  # nobody, between those who are on
        with fast_cpu(), torch.random.fork_rng(range(torch.cuda.device_count())):
            memory = PeakMemory(model.device)
            for lane in lanes:
                lane.begin()
            memory.start()
            _train([lane for lane in lanes if lane.steps is not None], context.observer)
            peak = memory.peak()
            for lane in lanes:
                lane.end(peak)
    return [lane.outcome for lane in lanes]


def can_race(entry: MethodEntry) -> bool:
    """Whether the steps of an entry's runs may be made with those of others, as far as its settings tell.

    Not with dropout in the base, which draws from the global generator; nor in micro-batches, or with a
    tracker, of which a process has one.
    """
    spec = entry.train
    whole = spec.micro_batch_size in (None, spec.batch_size) and not spec.auto_micro_batch
    return entry.build_config().trains and whole and not (spec.base_dropout or spec.trackers)


def _shares(adapter: Adapter) -> bool:
    """Whether it leaves the base's parameters in their places, and asks for no other loss within a step."""
    return not adapter.own and type(adapter).before_step is Adapter.before_step


class _Lane:
    """One run, as far as it has come."""

    def __init__(self, starter: Starter) -> None:
        self.starter = starter
        self.outcome: Outcome = None
        self.run: Run | None = None
        self.steps: Steps | None = None
        self.request: Request | None = None
        self.progress: Progress | None = None

    @property
    def trainer(self) -> Trainer:
        """Of a run that has begun."""
        assert self.run is not None
        assert self.run.trainer is not None
        return self.run.trainer

    @property
    def asked(self) -> tuple[Trainer, list[int]]:
        """Of a run that waits."""
        assert self.request is not None
        return self.trainer, self.request.rows

    def open(self, context: Context, model: AdaptedModel, name: str, stack: contextlib.ExitStack) -> None:
        """Attach the run's adapter, until the stack is left, unless the run is finished."""
        entry, seed = self.starter.entry, self.starter.seed
        observer = _Named(context.observer, f"{entry.name}, seed {seed}")
        with self._failing():
            opened = open_run(
                context.recipe, entry, seed, self.starter.out,
                resume=True, observer=observer, context=context, model=model, name=name,
            )  # fmt: skip
            if isinstance(opened, Run):
                stack.callback(opened.close)
                self.run = opened
            else:
                self.outcome = opened

    def begin(self) -> None:
        """Make the trainer and its loop, if the run can take part."""
        with self._on():
            if self.run is None or not _shares(self.run.adapter):
                return
            trainer = self.run.begin()
            if trainer is not None and not trainer.has_trunk:  # kept layers spare more
                self.steps = trainer.steps(resume=self.run.resumes)

    def go_on(self, found: Gradients | None = None) -> None:
        """Let the loop run to its next request, or its end; what it wants alone is answered on the way."""
        assert self.steps is not None
        self.request = None
        with self._on(), self.trainer.explained():
            try:
                request = next(self.steps) if found is None else self.steps.send(found)
                while request.alone:
                    request = self.steps.send(self.trainer.gradients(request.rows))
                self.request = request
            except StopIteration as end:
                self.progress = end.value

    def alone(self) -> None:
        """Answer the request by a pass of its own, and go on."""
        assert self.request is not None
        found = None
        with self._on(), self.trainer.explained():
            found = self.trainer.gradients(self.request.rows)
        if found is not None:
            self.go_on(found)

    def end(self, peak: int) -> None:
        """Evaluate the run and write its result."""
        if self.progress is not None:
            with self._on():
                assert self.run is not None
                self.outcome = self.run.end(self.progress, peak)

    @contextlib.contextmanager
    def _on(self) -> Iterator[None]:
        """Within the block the run's adapter is active; an error in it is the outcome."""
        with self._failing():
            if self.run is None:
                yield
                return
            with self.run.failing(), self.run.model.using(self.run.name):
                yield

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.outcome, self.request = error, None
            if self.steps is not None:
                self.steps.close()


def _train(lanes: Sequence[_Lane], observer: Observer) -> None:
    """Drive the loops to their ends, together.

    Raises:
        KeyboardInterrupt: Asked to stop; the states for resuming have been written.
    """
    if not lanes:
        return
    first, width = lanes[0].trainer, len(lanes)
    with (
        interruptible() as interrupted,
        recomputing(first.model, first.spec.gradient_checkpointing),
        contextlib.ExitStack() as stack,
    ):
        for lane in lanes:
            assert lane.steps is not None
            stack.callback(lane.steps.close)
            lane.go_on()
        while waiting := [lane for lane in lanes if lane.request is not None]:
            if interrupted.is_set():  # those that are at their end have written their states there
                for lane in waiting:
                    lane.trainer.save()
                break
            width = _step(waiting, width, observer)
    if interrupted.is_set():
        raise interrupted.error()


def _step(lanes: Sequence[_Lane], width: int, observer: Observer) -> int:
    """Answer every run's request, at most `width` in one pass, and let them go on.

    What goes wrong in a pass is done again in halves, down to single runs, of which the one that is to blame
    then fails alone.

    Returns:
        How many to take in one pass from now on.
    """
    groups: dict[Hashable, list[_Lane]] = {}
    for lane in lanes:
        groups.setdefault(together_key(*lane.asked), []).append(lane)
    queue = [group[at : at + width] for group in groups.values() for at in range(0, len(group), width)]
    while queue:
        part, queue = queue[0], queue[1:]
        if len(part) == 1:
            part[0].alone()
            continue
        error = None
        ticks = [lane.trainer.adapter.clock.tick for lane in part]
        try:
            found = joint_gradients([lane.asked for lane in part])
        except Exception as caught:
            error = str(caught).partition(". ")[0] or type(caught).__name__
        if error is None:
            for lane, gradients in zip(part, found, strict=True):
                lane.go_on(gradients)
            continue
        # Outside of `except`, whose traceback holds on to the tensors of the attempt.
        for lane, tick in zip(part, ticks, strict=True):
            lane.trainer.adapter.forget_pass(tick)
        width = math.ceil(len(part) / 2)
        observer.log(f"{len(part)} runs could not make a step together ({error}); {width} at once are tried.")
        queue = [part[:width], part[width:], *queue]
    failed = any(isinstance(lane.outcome, Exception) for lane in lanes)
    return len(lanes) if failed else width


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
