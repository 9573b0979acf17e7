"""One run: attach, train, evaluate, and write down everything that came of it."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deltatune import quant, units
from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import checksums, mark, vouch
from deltatune.checkpoint.rehearsal import rehearse_saving
from deltatune.checkpoint.saved import TENSORS
from deltatune.checkpoint.store import save_adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError
from deltatune.evaluation import Evaluation, evaluate, loss_on, metric_keys
from deltatune.evaluation.monotony import one_answer
from deltatune.files import as_json, make_folder, sha256, text_sha256, write_json, write_lines, write_text
from deltatune.memory.fit import fits
from deltatune.models.fingerprint import fingerprint
from deltatune.observer import Observer, Silent
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.written import as_written
from deltatune.results import BaseUsed, Origin, PausedRun, RunResult
from deltatune.training.before.expected_memory import ample_memory, predicted_run
from deltatune.training.before.forecast import this_machine
from deltatune.training.before.longest_rows import require_room
from deltatune.training.given.attach import attach
from deltatune.training.given.budget import Budget
from deltatune.training.given.context import Context, SharedBase
from deltatune.training.given.folder import (
    CHECKPOINTS,
    KIND,
    WRITES,
    clear_folder,
    failed_result,
    peak_before,
    prepare_folder,
)
from deltatune.training.given.machine import PeakMemory, fast_cpu
from deltatune.training.given.start import require_apart
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.micro_batches import code_explained
from deltatune.training.loop.optimizer import Rates
from deltatune.training.loop.steps import Progress
from deltatune.training.loop.trainer import Pause, Trainer
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.padding import check_padding
from deltatune.training.single.result import finished, paused_at, rows_used

NAME = "run"
REREAD = 4  # shortest training rows, on which the reloaded delta is compared; no more than a batch


def run(
    recipe: Recipe,
    entry: MethodEntry,
    seed: int,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    context: Context | None = None,
    pause: Pause | None = None,
) -> RunResult | PausedRun:
    """Train one method of a recipe with one seed, evaluate it on the test rows and write the run's folder.

    Args:
        recipe: The recipe.
        entry: Which of its methods.
        seed: Seed of initial values, data order and dropout.
        out: The run's folder.
        resume: Go on where an interrupted run stopped; a finished one is returned as it is.
        overwrite: Replace what an earlier run left in the folder.
        observer: Is told of the progress.
        context: Data and bases that other runs of the same recipe share.
        pause: Asked after every validation whether to stop for now; `resume=True` goes on.

    Returns:
        What is in result.json. A run that was paused has not looked at the test rows.

    Raises:
        DeltatuneError: Anything that the user can mend; nothing half-written is left behind.
        KeyboardInterrupt: Interrupted; `resume=True` goes on.
    """
    one = open_run(
        recipe, entry, seed, out, resume=resume, overwrite=overwrite, observer=observer, context=context
    )
    if isinstance(one, RunResult):
        return one
    try:
        with one.failing(), fast_cpu(), torch.random.fork_rng(range(torch.cuda.device_count())):
            trainer = one.begin(pause)
            progress = Progress() if trainer is None else trainer.run(resume=one.resumes)
            return one.end(progress, one.memory.peak())
    finally:
        one.close()


def open_run(
    recipe: Recipe,
    entry: MethodEntry,
    seed: int,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    context: Context | None = None,
    model: AdaptedModel | None = None,
    name: str = NAME,
) -> Run | RunResult:
    """Make everything ready for a run, with its adapter attached; or give the result of one that is finished.

    Arguments are those of `run`, and `model`: the entry's base, with the adapters of other runs, in which the
    run's adapter gets the name `name`. By default the run has a view of the base to itself.
    """
    observer = observer or Silent()
    metric_keys(recipe.evaluation, recipe.task, targets=recipe.has_targets)  # fails before hours of training
    own = recipe.alone(entry, seed)
    require_apart(entry, out)
    with contextlib.ExitStack() as closing:  # the run's, once it is open
        closing.callback(Lock(make_folder(out), observer.warn).release)
        finished = prepare_folder(out, own, resume=resume, overwrite=overwrite)
        if finished is not None:
            remove(out / "resume")  # of a run that was killed while it removed this
            return finished
        context = context or Context.open(own, observer)
        certificate = Proof(
            out / CERTIFICATE, {"name": entry.name, "method": entry.method, "seed": seed, "delta": None}
        )
        started = datetime.datetime.now(datetime.UTC)
        base = context.base(entry)
        context.data(entry, base).encoded("train")
        model = model or base.adapted(base_dropout=entry.train.base_dropout)
        adapter, budget, origin = attach(context, entry, base, model, name=name, seed=seed)
        closing.callback(model.detach, name)
        require_room(context, own, base, model, adapter)
        if base.original is not None:
            base.original.forget()
        rehearse_saving(model, name, out)
        mark(out, KIND)
        if overwrite:
            clear_folder(out)
        for left in (CERTIFICATE, "error.txt"):  # of an attempt that failed
            remove(out / left)
        write_text(out / "recipe.yaml", as_written(own.dump()))
        return Run(
            context, own, base, model, name, entry, seed, out, observer, certificate, budget,
            origin,
            resumes=resume and not overwrite and (out / "resume").exists(), started=started,
            closing=closing.pop_all(),
        )  # fmt: skip


@dataclass
class Run:
    """The parts of one run, in the order in which they happen: `begin`, its training, `end`.

    All of it belongs inside `failing`, with the run's adapter active.
    """

    context: Context
    recipe: Recipe
    """The run's own: of the entry alone, with all that it has of its own."""
    base: SharedBase
    model: AdaptedModel
    name: str
    """Of its adapter in the model."""
    entry: MethodEntry
    seed: int
    out: Path
    observer: Observer
    certificate: Proof
    budget: Budget | None
    origin: Origin | None
    """The saved delta that it started from."""
    resumes: bool
    """Whether there is a state to go on from."""
    started: datetime.datetime
    closing: contextlib.ExitStack
    """Lets go of the folder and takes the adapter off the model."""

    def close(self) -> None:
        """Let others have the folder, and the model without the adapter."""
        self.closing.close()

    def __post_init__(self) -> None:
        self.data = self.context.data(self.entry, self.base)
        self.encoder = self.data.encoder
        self.inputs = self.data.inputs(self.base.fingerprint, self.origin.digest if self.origin else None)
        self.about_base = BaseUsed(
            name=self.base.spec.name,
            revision=self.base.spec.revision,
            dtype=self.base.dtype,
            quantization=quant.describe(self.base.loaded.model),
            fingerprint=self.base.fingerprint,
            parameters=quant.parameter_count(self.base.loaded.model),
            head=self._head(),
        )
        self.config = self.model.configs[self.name]
        self.adapter = self.model.adapter(self.name)
        self.memory = PeakMemory(self.base.device)
        self.trainer: Trainer | None = None

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """A failed certificate in the block is written down as the result.

        Raises:
            TrainingError: As the block does.
        """
        try:
            yield
        except TrainingError as error:
            if self.certificate.failed:
                failed = failed_result(self.entry, self.seed, error)
                write_json(self.out / "result.json", failed.as_dict())
            raise

    def begin(self, pause: Pause | None = None) -> Trainer | None:
        """Make the trainer; None for a method that trains nothing.

        Args:
            pause: As of `run`.
        """
        name = f"{self.entry.name} (seed {self.seed})"
        self.context.hold(name, self.about_base, rows_used(self), self.base.fingerprint, self.origin)
        torch.manual_seed(self.seed)
        trains, labels = self.config.trains, self.data.dataset.labels
        if labels:
            counts = Counter(row.target for row in self.data.dataset.train)
            self.adapter.see_classes([counts[label] for label in labels])
        self.ample = trains and ample_memory(self.context, self.entry, self.base, self.seed)
        self.predicted = None if self.ample else self._predicted()
        self.model.eval()
        if trains:
            self.certificate.targets(self.model, self.name)
            self.certificate.supervised(self.data.supervised)
            with code_explained(self.model, None):
                self.certificate.trains_the_base(self.model, self._shortest_rows())
        rows, at_once = self.data.encoded("train"), self._rows_at_once(trains)
        with code_explained(self.model, self.entry.method if trains else None):
            check_padding(self.certificate, self.model, self.encoder, rows, at_once)
        self.memory.start()
        if not trains:
            (self.out / "metrics.jsonl").write_text("", encoding="utf-8")
            return None
        validation = self.data.dataset.validation
        self.trainer = Trainer(
            model=self.model,
            name=self.name,
            encoder=self.encoder,
            train=self.data.encoded("train"),
            validation=self.data.encoded("validation") if validation else None,
            validation_rows=validation,
            spec=self.entry.train,
            evaluation=self.recipe.evaluation,
            rates=Rates.of(self.entry.train, self.config.default_lr),
            seed=self.seed,
            out=self.out,
            observer=self.observer,
            certificate=self.certificate,
            inputs=self.inputs,
            checkpoints=Checkpoints(
                self.out / CHECKPOINTS, self.entry.train.keep_checkpoints, self._write_delta
            ),
            pause=pause,
            continues=self.origin is not None,
        )
        return self.trainer

    def end(self, progress: Progress, peak: int) -> RunResult | PausedRun:
        """Check, save and evaluate what was trained; write and give the result.

        Args:
            progress: Where training ended.
            peak: The process's peak memory in it.
        """
        if self.trainer is not None:
            peak = max(peak, self.trainer.memory.earlier_peak, peak_before(self.out))
        if self.trainer is not None and self.trainer.paused:
            paused = paused_at(self, progress, peak, self.trainer.total)
            write_text(self.out / "result.json", as_json(paused.as_dict()))
            return paused
        result = self._result(progress, peak)
        text = as_json(result.as_dict())
        # What vouches for it comes first, so that no finished run is without.
        sums = checksums(self.out, [name for name in WRITES if name != "resume"])
        vouch(self.out, KIND, sums | {"result.json": text_sha256(text)})
        write_text(self.out / "result.json", text)
        remove(self.out / "resume")
        return result

    def _result(self, progress: Progress, peak: int) -> RunResult:
        """What came of a run that is at its end."""
        if self.ample:
            self.predicted = self._predicted()
        self.model.eval()
        if self.trainer is not None:
            self.certificate.final_budget(self.adapter)
        self._save()
        evaluation, validation = self._evaluate(progress)
        monotonous = one_answer(evaluation.predictions) if self.config.trains else None
        if monotonous:
            self.observer.warn(f"{self.entry.name} {monotonous}")
        self._check_base()
        self.certificate.write(self.out / "adapter" / CERTIFICATE)
        description = self.adapter.describe()
        if description is not None:
            self.observer.log(f"{self.entry.name}: {description}")
        return finished(self, progress, peak, evaluation, validation, monotonous, description)

    def _rows_at_once(self, trains: bool) -> int:
        """The largest number of rows in a batch."""
        spec, evaluated = self.entry.train, self.recipe.evaluation.batch_size
        return max(evaluated, spec.micro_batch_size or spec.batch_size) if trains else evaluated

    def _head(self) -> str | None:
        """Whether a classifier's head is the base's own or a new one."""
        if self.encoder.labels is None:
            return None
        return "new" if self.base.loaded.new_modules else "the base's"

    def _predicted(self) -> dict[str, int] | None:
        """Bytes by part of the step that will be measured; None for a method that trains nothing."""
        if not self.config.trains:
            return None
        found = predicted_run(self.context, self.entry, self.config, self.base, self.seed)
        limit = this_machine()["memory_bytes"]
        if found is not None and not fits(found["total"], limit):
            self.observer.warn(
                f"{self.entry.name}: a training step takes {units.size(found['total'])}, and there are "
                f"{units.size(limit)}; `deltatune plan` says what to change."
            )
        return found

    def _save(self) -> None:
        """Write the delta, and read it back."""
        folder, digest = self.out / "adapter", self.base.fingerprint
        self._write_delta(folder)
        self.certificate.about["delta"] = {"sha256": sha256(folder / TENSORS)}
        self.certificate.reloaded(self.model, self.name, folder, self._shortest_rows(), digest)

    def _write_delta(self, folder: Path) -> None:
        base = self.base
        save_adapter(self.model, self.name, folder, base_name=base.spec.name, fingerprint=base.fingerprint)

    def _shortest_rows(self) -> dict[str, Tensor]:
        """A batch of the shortest training rows."""
        train = self.data.encoded("train")
        shortest = sorted(range(len(train.lengths)), key=train.lengths.__getitem__)
        features = [train.features[row] for row in shortest[: min(REREAD, self.recipe.evaluation.batch_size)]]
        return {k: v.to(self.model.device) for k, v in self.encoder.collate(features).items()}

    def _check_base(self) -> None:
        """The base has the bytes that it was loaded with, after training and evaluation."""
        with self.model.using():
            now = fingerprint(self.base.loaded.model)
        if now != self.base.fingerprint:
            self.context.forget(self.base)  # runs to come shall have a sound one
        self.certificate.base_unchanged(self.base.fingerprint, now)

    def _evaluate(self, progress: Progress) -> tuple[Evaluation, dict[str, float]]:
        """The test rows, once; and the validation rows' loss for runs that did not measure it."""
        task, data = f"Evaluating {self.entry.name}", self.data.dataset
        self.observer.start(task, 2 * len(data.test))
        shown = 0

        def advance(done: int, total: int) -> None:
            nonlocal shown
            reached = round(done / total * 2 * len(data.test))
            self.observer.advance(task, reached - shown)
            shown = reached

        started = time.perf_counter()
        test = self.data.encoded("test")
        evaluation = evaluate(self.model, data.test, test, self.encoder, self.recipe.evaluation, advance)
        self.observer.finish(task)
        self.observer.log(f"{self.entry.name}: evaluated in {time.perf_counter() - started:.0f} s")
        write_lines(self.out / "predictions.jsonl", [p.as_dict() for p in evaluation.predictions])
        validation = progress.best_validation
        if not validation and data.validation:
            encoded = self.data.encoded("validation")
            validation = loss_on(self.model, encoded, self.encoder, self.recipe.evaluation.batch_size)
        return evaluation, validation
