"""One run: attach, train, evaluate, and write down everything that came of it."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune import quant
from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import checksums, mark, vouch
from deltatune.checkpoint.rehearsal import rehearse_saving
from deltatune.checkpoint.store import CERTIFICATE, TENSORS, save_adapter
from deltatune.core.model import AdaptedModel
from deltatune.core.observer import Observer, Silent
from deltatune.errors import TrainingError
from deltatune.evaluate import Evaluation, evaluate, loss_on, metric_keys
from deltatune.evaluate.monotony import one_answer
from deltatune.files import as_json, make_folder, sha256, text_sha256, write_json, write_lines, write_text
from deltatune.memory.fit import fits
from deltatune.models.fingerprint import fingerprint
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.written import as_written
from deltatune.train.budget import Budget
from deltatune.train.certificate import Certificate
from deltatune.train.context import Context, SharedBase
from deltatune.train.folder import (
    KIND,
    SCHEMA,
    WRITES,
    clear_folder,
    failed_result,
    peak_before,
    prepare_folder,
)
from deltatune.train.forecast import this_machine
from deltatune.train.loop import Pause, Trainer
from deltatune.train.machine import PeakMemory, fast_cpu, git_state, versions
from deltatune.train.optimizer import Rates
from deltatune.train.padding import check_padding
from deltatune.train.predicted import ample_memory, predicted_run
from deltatune.train.probe import code_explained
from deltatune.train.room import require_room
from deltatune.train.start import Origin, attach, require_apart
from deltatune.train.steps import Progress

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
) -> dict[str, Any]:
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
        The content of result.json. Its status is "done", or "paused": the test rows have not been looked at.

    Raises:
        DeltatuneError: Anything that the user can mend; nothing half-written is left behind.
        KeyboardInterrupt: Interrupted; `resume=True` goes on.
    """
    one = open_run(
        recipe, entry, seed, out, resume=resume, overwrite=overwrite, observer=observer, context=context
    )
    if isinstance(one, dict):
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
) -> Run | dict[str, Any]:
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
        certificate = Certificate(
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
    certificate: Certificate
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
        self.about_base = {
            "name": self.base.spec.name,
            "revision": self.base.spec.revision,
            "dtype": self.base.dtype,
            "quantization": quant.describe(self.base.loaded.model),
        }
        self.about_rows = {
            "fingerprint": self.inputs.rows,
            "tokens": self.inputs.tokens,
            "reading": self.data.reading,
        }
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
                write_json(self.out / "result.json", failed_result(self.entry, self.seed, error))
            raise

    def begin(self, pause: Pause | None = None) -> Trainer | None:
        """Make the trainer; None for a method that trains nothing.

        Args:
            pause: As of `run`.
        """
        name = f"{self.entry.name} (seed {self.seed})"
        origin = asdict(self.origin) if self.origin else None
        self.context.hold(name, self.about_base, self.about_rows, self.base.fingerprint, origin)
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
            pause=pause,
            continues=self.origin is not None,
        )
        return self.trainer

    def end(self, progress: Progress, peak: int) -> dict[str, Any]:
        """Check, save and evaluate what was trained; write and give the content of result.json.

        Args:
            progress: Where training ended.
            peak: The process's peak memory in it.
        """
        if self.trainer is not None:
            peak = max(peak, self.trainer.memory.earlier_peak, peak_before(self.out))
        if self.trainer is not None and self.trainer.paused:
            result = self._paused_result(progress, peak, self.trainer.total)
        else:
            result = self._result(progress, peak)
        result["started"] = self.started.isoformat(timespec="seconds")
        result["finished"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = as_json(result)
        if result["status"] == "done":  # what vouches for it comes first, so that no finished run is without
            sums = checksums(self.out, [name for name in WRITES if name != "resume"])
            vouch(self.out, KIND, sums | {"result.json": text_sha256(text)})
        write_text(self.out / "result.json", text)
        if result["status"] == "done":
            remove(self.out / "resume")
        return result

    def _result(self, progress: Progress, peak: int) -> dict[str, Any]:
        """The content of result.json."""
        if self.ample:
            self.predicted = self._predicted()
        self.model.eval()
        if self.trainer is not None:
            self.certificate.final_budget(self.adapter)
        trained = [p for _, p in self.adapter.trainable()]
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
        data, report = self.data.dataset, self.data.encoded("train").report
        spec = self.entry.train
        race = progress.raced > 1  # what a race takes at its peak is no run's own
        as_asked = progress.micro_batch in (0, spec.micro_batch_size or spec.batch_size)
        stored = self.adapter.stored()
        total = quant.parameter_count(self.base.loaded.model)
        return {
            "schema": SCHEMA,
            "status": "done",
            "error": None,
            "name": self.entry.name,
            "method": self.entry.method,
            "config": self.config.model_dump(mode="json"),
            "budget": self.budget and self.budget.as_dict(),
            "from": self.origin and asdict(self.origin),
            "seed": self.seed,
            "task": self.recipe.task,
            "model": {
                **self.about_base,
                "fingerprint": self.base.fingerprint,
                "parameters": total,
                "head": self._head(),
            },
            "data": {
                **self.about_rows,
                "labels": self.encoder.labels,
                "train": len(data.train),
                "validation": len(data.validation),
                "test": len(data.test),
                "supervised_tokens": report.supervised_tokens,
                "truncated_inputs": report.truncated_inputs,
                "truncated_targets": report.truncated_targets,
                "warnings": self.data.warnings(),
            },
            "metrics": {"validation": validation, "test": evaluation.metrics},
            "signatures": evaluation.signatures,
            "cost": {
                "trained_parameters": sum(p.numel() for p in trained),
                "stored_parameters": sum(t.numel() for t in stored.values()),
                "total_parameters": total,
                "trained_share": sum(p.numel() for p in trained) / total,
                "peak_memory_bytes": None if race else peak,
                "memory_kind": self.memory.kind,
                "raced": progress.raced,
                "race_peak_memory_bytes": peak if race else None,
                "train_seconds": progress.seconds,
                "evaluation_seconds": evaluation.seconds,
                "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
                "file_bytes": (self.out / "adapter" / TENSORS).stat().st_size if stored else 0,
                "steps": progress.step,
                "micro_batch_size": progress.micro_batch,
                "epochs": progress.step * self.entry.train.batch_size / len(data.train),
            },
            "memory": {
                "predicted": self.predicted if as_asked else None,
                "measured": progress.memory or None,
            },
            "selected": {
                "step": progress.step if progress.best is None else progress.best_step,
                "by": self.recipe.evaluation.select_by,
                "stopped_early": progress.stopped,
            },
            "rates": self.trainer and {"lr": self.trainer.rates.lr, "head_lr": self.trainer.rates.head},
            "new_heads": list(self.base.loaded.new_modules),
            "one_answer": monotonous,
            "method_result": self.adapter.finish(),
            "description": description,
            "certificate": self.certificate.lines,
            "versions": versions(),
            "git": git_state(),
        }

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
                f"{self.entry.name}: a training step takes {found['total'] / 1e9:.1f} GB, and there are "
                f"{limit / 1e9:.1f} GB; `deltatune plan` says what to change."
            )
        return found

    def _paused_result(self, progress: Progress, peak: int, steps: int) -> dict[str, Any]:
        """What is known of a run that is not at its end: how far it came, and its validation."""
        return {
            "schema": SCHEMA,
            "status": "paused",
            "error": None,
            "name": self.entry.name,
            "method": self.entry.method,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "metrics": {"validation": progress.best_validation},
            "cost": {
                "train_seconds": progress.seconds,
                "peak_memory_bytes": peak,
                "steps": progress.step,
                "planned_steps": steps,
            },
            "selected": {
                "step": progress.best_step,
                "by": self.recipe.evaluation.select_by,
                "value": progress.best,
                "stopped_early": progress.stopped,
            },
        }

    def _save(self) -> None:
        """Write the delta, and read it back."""
        folder, digest = self.out / "adapter", self.base.fingerprint
        save_adapter(self.model, self.name, folder, base_name=self.base.spec.name, fingerprint=digest)
        self.certificate.about["delta"] = {"sha256": sha256(folder / TENSORS)}
        self.certificate.reloaded(self.model, self.name, folder, self._shortest_rows(), digest)

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
