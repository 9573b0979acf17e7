"""The training loop: AdamW on one adapter over one frozen base."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune import quant
from deltatune.checkpoint.resume import load_state, save_state
from deltatune.core.ahead import AHEAD, Ahead
from deltatune.core.devices import on_gpu, random_states, set_random_states
from deltatune.core.fast.trunk import trunk_of
from deltatune.core.loss import weight_of
from deltatune.core.model import AdaptedModel
from deltatune.core.ranks import ranks
from deltatune.data.encode import Encoded, Encoder
from deltatune.memory.batch import epoch_of, largest_micro_batches
from deltatune.observer import Observer
from deltatune.recipe.kinds import seconds_of
from deltatune.recipe.schema import TrainSpec
from deltatune.tasks import TASKS
from deltatune.training.given.digests import Inputs
from deltatune.training.given.energy import meter_of
from deltatune.training.loop.accelerate import Accelerate
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.clip import clipped
from deltatune.training.loop.filling import Filling
from deltatune.training.loop.log import RunLog
from deltatune.training.loop.losses import Losses
from deltatune.training.loop.micro_batches import (
    MicroBatches,
    code_explained,
    out_of_memory_explained,
    try_batch,
)
from deltatune.training.loop.optimizer import Rates, build_optimizer
from deltatune.training.loop.schedule import lr_factor
from deltatune.training.loop.shared_step import SharedSteps
from deltatune.training.loop.state import (
    adapter_state,
    load_adapter_state,
    load_optimizer_state,
    optimizer_state,
    state_explained,
    state_lines,
)
from deltatune.training.loop.step_memory import StepMemory
from deltatune.training.loop.steps import (
    Gradients,
    MicroBatch,
    Progress,
    Request,
    Steps,
    interruptible,
    recomputing,
)
from deltatune.training.loop.trunk_cache import TrunkCache, record_trunk
from deltatune.training.loop.validation import Validation
from deltatune.training.proof.certificate import Proof, snapshot

Pause = Callable[[Progress, int], bool]
"""Asked after every validation, with the run's number of steps; yes: save the state and stop for now."""


@dataclass
class Trainer:
    """Everything that one run of the loop needs."""

    model: AdaptedModel
    name: str
    encoder: Encoder
    train: Encoded
    spec: TrainSpec
    evaluated_at_once: int
    """Rows of a batch where no gradients are needed."""
    rates: Rates
    seed: int
    out: Path
    observer: Observer
    certificate: Proof
    inputs: Inputs
    checkpoints: Checkpoints
    validation: Validation | None = None
    """None: there are no rows for it, and the last state is kept."""
    pause: Pause | None = None
    continues: bool = False
    """Whether it goes on from a saved delta, which is kept if training makes nothing better of it."""
    class_weights: Tensor | None = None
    """What a training row of each class counts for, [classes]; None: all the same."""
    progress: Progress = field(default_factory=Progress)
    """Where it stands; `packs` is settled before the first step, and by a state that is loaded."""
    filling: Filling | None = None
    """To which lengths batches are padded; None: each to its own."""

    def __post_init__(self) -> None:
        self.paused, self._saved_at = False, time.monotonic()
        self.log_digest: str | None = None
        self.adapter = self.model.adapter(self.name)
        self.parameters = [parameter for _, parameter in self.adapter.trainable()]
        self.accelerate = Accelerate(self.model.device, self.spec.trackers, self.out)
        self.log = RunLog(self.out, self.spec, self.accelerate)
        model, spec, task, packed = self.model, self.spec, self.encoder.task, self.progress.packs
        device, say, self.meter = model.device, self.observer, meter_of(model.device)
        self.optimizer = build_optimizer(self.adapter, model.view, spec, self.rates, device, say)
        rows = len(self.train.lengths)
        self.per_epoch, self.total = spec.steps_per_epoch(rows), spec.steps(rows)
        self._largest, measured = largest_micro_batches(self.train, task, spec, self.seed, packed=packed)
        self.shared = SharedSteps(self.parameters)
        self.memory = StepMemory(measured.rows, self.model, self.adapter, self.optimizer)
        self._fired = self.model.fired()
        self.batches = Ahead(self._collate, device)
        self._coming: list[list[int]] = []
        self.trunk: TrunkCache | None = None
        self.micro = MicroBatches(spec, self.adapter, say, device)
        # Full fine-tuning keeps its own parameters in float32 and computes in the base's precision.
        with self.model.using():  # else its parameters stand in the places of the base's
            dtype = next(self.model.base.parameters()).dtype
        self._speed = f"{TASKS.get(task).unit}/s"
        self._quantized = quant.describe(self.model.base) is not None
        self._method = self.model.configs[self.name].name
        self.autocasts = bool(self.adapter.own) and dtype != torch.float32
        self.losses = Losses(model, self.adapter.clock, task, self.class_weights, self.autocasts, spec.loss)

    @property
    def resume_folder(self) -> Path:
        """Where the state of the interrupted run is kept."""
        return self.out / "resume"

    def run(self, *, resume: bool) -> Progress:
        """Train to the end, keep the best state, and leave it in the adapter.

        A run that is asked to pause stops behind a validation, with `paused` set and its state saved;
        resumed, it goes on as if nothing had been. That holds at its last step too.

        Raises:
            TrainingError: The loss is not finite, or a part of the delta does not learn.
            KeyboardInterrupt: Asked to stop; the state for resuming has been written.
        """
        steps = self.steps(resume=resume)
        with (
            interruptible() as interrupted,
            self.explained(),
            recomputing(self.model, self.spec.gradient_checkpointing),
            contextlib.closing(steps),
        ):
            self.shared.watch(interrupted)
            try:
                request = next(steps)
                while not self.shared.stopping:
                    request = steps.send(self.gradients(request.rows))
                self.save()
            except StopIteration as end:
                progress: Progress = end.value
        self.shared.raise_if_asked()
        return progress

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, running out of a GPU's memory is an error that says what to change."""
        return out_of_memory_explained(self.spec, quantized=self._quantized)

    def steps(self, *, resume: bool) -> Steps:
        """The loop as a generator, to be driven while this run's adapter is active.

        Between two requests the state that `save` writes is that behind the latest step.
        """
        self.adapter.start(self.total)
        if resume:
            self._load()
        self.progress.log_lines = self.log.open(self.progress.log_lines, self.log_digest, self.observer.warn)
        self.observer.start("Training", self.total, self.progress.step)
        try:
            self._keep_trunk()
            self._try_largest()
            yield from self._steps()
        finally:
            self.observer.finish("Training")
            self.batches.close()
            self.trunk = None
            self.log.close()
        if self.validation is not None and not self.paused:
            self.validation.restore(self.progress)
        return self.progress

    @property
    def has_trunk(self) -> bool:
        """Whether there are layers below all deltas whose outputs are worth keeping."""
        asked = self.spec.cache_trunk and self.total > self.per_epoch
        return asked and trunk_of(self.model, self.name) is not None

    def _keep_trunk(self) -> None:
        """Record what the layers below all deltas make of the training rows, if that spares work."""
        if not (self.progress.step < self.total and self.progress.keeps_trunk and self.has_trunk):
            return
        self.trunk = record_trunk(
            self.model,
            self.name,
            self.encoder,
            self.train.features,
            rows_at_once=self.evaluated_at_once,
            folder=self.out,
            observer=self.observer,
        )
        self.progress.keeps_trunk = self.trunk is not None
        if self.trunk:
            self.progress.spend(self.trunk.spent)

    def _steps(self) -> Generator[Request, Gradients]:
        progress = self.progress
        if self.continues and progress.step == 0 and progress.best is None:
            self._evaluate()
        self.paused = self._asked_to_pause()  # a resumed run may stand where it shall stop
        while progress.step < self.total and not progress.stopped and not self.paused:
            epoch, index = divmod(progress.step, self.per_epoch)
            order = self._order(epoch)
            for at, rows in enumerate(order[index:], index):
                self._coming = order[at : at + 1 + AHEAD]
                with self.memory.of_step(rows, progress.memory, first=progress.step == 0) as measured:
                    yield from self._step(rows, epoch, alone=measured)
                last = progress.step == self.total
                end_of_epoch = progress.step % self.per_epoch == 0
                if self._due(self.spec.evaluate_every, end_of_epoch) or last:
                    self._evaluate()
                    self.paused = self._asked_to_pause()
                over = last or progress.stopped or self.paused
                if over or self._saving_due(end_of_epoch):
                    self.save()
                if over:
                    break

    def _try_largest(self) -> None:
        """Where memory can run out with an error, let it do so in the first seconds."""
        if on_gpu(self.model.device):
            self.micro.fitting(self._try)

    def _try(self, size: int) -> None:
        rows = self._largest.rows[:size]
        batch = self._collate(rows)
        with self._passing(rows):
            try_batch(self.model, self.adapter, batch, self.encoder.task, autocast=self.autocasts)

    def _asked_to_pause(self) -> bool:
        return bool(self.pause and self.progress.evaluated and self.pause(self.progress, self.total))

    def _order(self, epoch: int) -> list[list[int]]:
        return epoch_of(self.train, self.encoder.task, self.spec, self.seed, epoch)

    def _due(self, every: str | int, end_of_epoch: bool) -> bool:
        return end_of_epoch if every == "epoch" else self.progress.step % int(every) == 0

    def _saving_due(self, end_of_epoch: bool) -> bool:
        if (seconds := seconds_of(self.spec.checkpoint_every)) is None:
            return self._due(self.spec.checkpoint_every, end_of_epoch)
        return time.monotonic() - self._saved_at >= seconds  # a clock that nobody sets

    def _step(self, rows: list[int], epoch: int, *, alone: bool) -> Generator[Request, Gradients]:
        """One optimizer step on `rows`, in micro-batches whose losses are weighted by their targets."""
        begun = self.meter.read()
        progress, spec, first = self.progress, self.spec, self.progress.step == 0
        before = snapshot(self.adapter) if first else {}
        share = lr_factor(progress.step, self.total, spec.warmup, spec.schedule)
        self.rates.set(self.optimizer, self.adapter, share)
        prepared = self.meter.read().since(begun)
        answer = yield Request(rows, alone=alone or self.micro.size < len(rows))
        begun = self.meter.read()
        progress.raced = max(progress.raced, answer.raced)
        progress.micro_batch = self.micro.size
        limit, step = spec.max_grad_norm, progress.step + 1
        loss, norm = clipped(answer.losses, self.parameters, limit, step=step, lr=self.rates.lr)
        self.adapter.before_step(step, lambda: self._loss_of(answer))
        self.optimizer.step()
        progress.step += 1
        extra = self.adapter.after_step(progress.step)
        if first and ranks().first:  # others may have no micro-batch
            self.certificate.taps_fired(self.model, self._fired)
        if first:
            self.certificate.learned(self.adapter, before, lambda: self._loss_of(answer))
        self.optimizer.zero_grad(set_to_none=True)
        progress.tokens += sum(self.train.lengths[row] for row in rows)
        progress.spend(prepared, answer.spent, self.meter.read().since(begun))
        self._log(
            {
                "step": progress.step,
                "epoch": epoch + (progress.step - epoch * self.per_epoch) / self.per_epoch,
                "loss": loss,
                "lr": self.rates.lr * share,
                "grad_norm": norm,
                "tokens": progress.tokens,
                "seconds": progress.seconds,
                **extra,
            }
        )
        shown = {"loss": loss, self._speed: progress.tokens / progress.seconds}
        self.observer.advance("Training", 1, shown)

    def gradients(self, rows: list[int]) -> Gradients:
        """Answer the run's request for `rows`, which then are alone in the model."""
        begun = self.meter.read()
        self.train_mode()
        first = self.progress.step == 0
        with code_explained(self.model, self._method) if first else contextlib.nullcontext():
            losses, micro, weight = self.shared.step(
                lambda: self.micro.fitting(lambda size: self._backward(rows, size))
            )
        return Gradients(losses, micro, weight, self.meter.read().since(begun))

    def train_mode(self) -> None:
        """Switch to training, which an evaluation, of this run or another, may have left."""
        if not self.model.training:
            self.model.train()

    def _backward(self, rows: list[int], size: int) -> tuple[list[Tensor], list[MicroBatch], float]:
        """Gradients of the mean loss over `rows`, `size` at once: (parts, micro-batches, what it is over)."""
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        self.batches.expect(part[at : at + size] for part in self._coming for at in range(0, len(part), size))
        micro = [(part, self.batches.batch(part)) for part in parts]
        weight = sum(weight_of(part, self.encoder.task, self.class_weights) for _, part in micro)
        losses = []
        for index, (value, loss) in enumerate(self.losses.parts(micro, weight, self._passing)):
            penalty = self.adapter.penalty() if index == 0 and ranks().first else None
            self.memory.forward_done()
            losses.append(value)
            self.accelerate.backward(loss if penalty is None else loss + penalty)
        return losses, micro, weight

    @torch.no_grad()
    def _loss_of(self, answer: Gradients) -> float:
        """Mean loss of the step's rows, with the dropout masks that the step had."""
        self.train_mode()
        self.adapter.clock.tick -= len(answer.batches)
        return self.losses.total(answer.batches, self._passing) / answer.weight

    def _collate(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = self.encoder.collate([self.train.features[row] for row in rows])
        return batch if self.filling is None else self.filling.filled(batch)

    @contextlib.contextmanager
    def _passing(self, rows: list[int]) -> Iterator[None]:
        """Within the block, one forward pass on `rows` goes the ways that this run's do."""
        kept = self.trunk.replaying(rows) if self.trunk else contextlib.nullcontext()
        with kept, self.model.fast.packing.use(self.progress.packs):
            yield

    def _evaluate(self) -> None:
        """Measure on the validation rows, remember the best state, and decide about stopping."""
        if self.validation is None:
            return
        progress, measured = self.progress, self.validation.measure()
        self._log({"step": progress.step, "epoch": progress.step / self.per_epoch, **self.validation.seen})
        self.validation.judge(measured, progress)

    def _log(self, line: dict[str, Any]) -> None:
        self.log.write(line)
        self.progress.log_lines += 1

    def save(self) -> None:
        """Write the state from which the run goes on bit for bit; keep its delta where that is asked for."""
        self._saved_at = time.monotonic()
        if not ranks().first:  # its folder goes away, and a state may be larger than the room there
            return
        save_state(
            self.resume_folder,
            {
                "inputs": self.inputs.as_state(),
                "progress": self.progress.__dict__,
                "log": self.log.digest,
                "adapter": adapter_state(self.adapter),
                "best": self.validation.best if self.validation else {},
                "optimizer": optimizer_state(self.optimizer, self.parameters),
                "rng": random_states(),
                "certificate": [line.as_dict() for line in self.certificate.lines],
            },
        )
        self._keep_checkpoint()

    def _keep_checkpoint(self) -> None:
        if self.progress.step and self.adapter.settled:  # in a schedule it is not what the method promises
            self.checkpoints.add(self.progress.step)

    def _load(self) -> None:
        state = load_state(self.resume_folder)
        self.inputs.require_same(state.get("inputs"), self.observer.warn)
        with state_explained(self.resume_folder):
            self.progress = Progress(**{"joules": None} | state["progress"])
            spec, say, device = self.spec, self.observer, self.model.device
            self.micro = MicroBatches(spec, self.adapter, say, device, self.progress.micro_batch)
            if self.validation is not None:
                self.validation.best = state["best"]
            self.certificate.take(state_lines(state["certificate"], self.resume_folder))
            load_adapter_state(self.adapter, state["adapter"], device)
            load_optimizer_state(self.optimizer, self.parameters, state["optimizer"])
            set_random_states(state["rng"])
        self.log_digest = state.get("log")
        self._keep_checkpoint()  # a process killed behind the state did not come to it
