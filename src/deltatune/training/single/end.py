"""What happens after the last step of a run: its delta is saved and evaluated, its result written."""

from __future__ import annotations

import time

from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.manifest import checksums, vouch
from deltatune.checkpoint.saved import TENSORS
from deltatune.evaluation import Evaluation, evaluate, loss_on, threshold_on
from deltatune.evaluation.monotony import one_answer
from deltatune.files import as_json, sha256, text_sha256, write_lines, write_text
from deltatune.models.fingerprint import checksum
from deltatune.results import PausedRun, RunResult, phases
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import HALF
from deltatune.timeline import phase
from deltatune.training.given.folder import KIND, WRITES, peak_before
from deltatune.training.loop.steps import Progress
from deltatune.training.single.lost import what_is_lost
from deltatune.training.single.on_tasks import score_tasks
from deltatune.training.single.parts import Begun, Run
from deltatune.training.single.result import finished, paused_at
from deltatune.training.single.untrained import asked_once


def end(begun: Begun, progress: Progress, peak: int, measure: str | None = None) -> RunResult | PausedRun:
    """Check, save and evaluate what was trained; write and give the result.

    Args:
        begun: The run.
        progress: Where training ended.
        peak: The process's peak memory in it.
        measure: As of `run`.
    """
    run, trainer = begun.run, begun.trainer
    if trainer is not None:
        peak = max(peak, trainer.memory.earlier_peak, peak_before(run.out))
    if trainer is not None and trainer.paused:
        if measure is not None and trainer.validation is not None:
            trainer.validation.restore(progress)
            value = trainer.validation.value(measure, _threshold(run))
            progress.best_validation = progress.best_validation | {measure: value}
        paused = paused_at(run, progress, peak, trainer.total)
        write_text(run.out / "result.json", as_json(paused.as_dict()))
        return paused
    result = _result(begun, progress, peak)
    with phase("write"):
        sums = checksums(run.out, [name for name in WRITES if name != "resume"])
    result = result.model_copy(update={"timeline": phases(run.timeline)})
    text = as_json(result.as_dict())
    # What vouches for it comes first, so that no finished run is without.
    vouch(run.out, KIND, sums | {"result.json": text_sha256(text)})
    write_text(run.out / "result.json", text)
    remove(run.out / "resume")
    return result


def _result(begun: Begun, progress: Progress, peak: int) -> RunResult:
    """What came of a run that is at its end."""
    run = begun.run
    run.model.eval()
    if begun.trainer is not None:
        run.certificate.final_budget(run.adapter)
    _save(run)
    threshold = _threshold(run)
    evaluation, validation = _evaluate(run, progress, threshold)
    on_tasks, lost = score_tasks(run), what_is_lost(run)
    monotonous = one_answer(evaluation.predictions) if run.config.trains else None
    if monotonous:
        run.observer.warn(f"{run.entry.name} {monotonous}")
    _check_base(run)
    run.certificate.write(run.out / "adapter" / CERTIFICATE)
    description = run.adapter.describe()
    if description is not None:
        run.observer.log(f"{run.entry.name}: {description}")
    return finished(
        begun,
        progress,
        peak=peak,
        evaluation=evaluation,
        validation=validation,
        on_tasks=on_tasks,
        lost=lost,
        threshold=threshold,
        one_answer=monotonous,
        description=description,
    )


def _save(run: Run) -> None:
    """Write the delta, and read it back."""
    folder, digest = run.out / "adapter", run.base.fingerprint
    with phase("write"):
        run.write_delta(folder)
    run.certificate.about["delta"] = {"sha256": sha256(folder / TENSORS)}
    run.certificate.reloaded(
        run.model, run.name, folder, run.shortest_rows(), task=run.recipe.task, fingerprint=digest
    )


@phase("hash base")
def _check_base(run: Run) -> None:
    """The base has the bytes that it was loaded with, after training and evaluation."""
    base = run.base
    with run.model.using():
        now = checksum(base.loaded.model)
    if now != base.checksum:
        run.context.forget(base)  # runs to come shall have a sound one
    run.certificate.base_unchanged(base.checksum, now, "checksum")


@phase("validation")
def _threshold(run: Run) -> float | None:
    """The probability from which on a label is given, where a row may have several: never by test rows."""
    if not TASKS.get(run.recipe.task).has_label_sets:
        return None
    if not run.data.dataset.validation:
        run.observer.warn(
            "there are no validation rows to choose a threshold by: a label counts from a probability of "
            f"{HALF}."
        )
        return HALF
    encoded = run.data.encoded("validation")
    return threshold_on(run.model, encoded, run.encoder, run.recipe.evaluation.batch_size)


def _evaluate(run: Run, progress: Progress, threshold: float | None) -> tuple[Evaluation, dict[str, float]]:
    """The test rows, once; and the validation rows' loss for runs that did not measure it."""
    task, data = f"Evaluating {run.entry.name}", run.data.dataset
    run.observer.start(task, len(data.test))
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        reached = round(done / total * len(data.test))
        run.observer.advance(task, reached - shown)
        shown = reached

    started = time.perf_counter()
    test = run.data.encoded("test")
    spec = run.recipe.evaluation
    with phase("test rows"):
        evaluation = asked_once(
            run,
            "test rows",
            lambda: evaluate(run.model, data.test, test, run.encoder, spec, advance, threshold),
        )
    run.observer.finish(task)
    run.observer.log(f"{run.entry.name}: evaluated in {time.perf_counter() - started:.0f} s")
    with phase("write"):
        write_lines(run.out / "predictions.jsonl", [p.as_dict() for p in evaluation.predictions])
    validation = progress.best_validation
    if not validation and data.validation:
        encoded = run.data.encoded("validation")
        with phase("validation"):
            validation = asked_once(
                run, "validation", lambda: loss_on(run.model, encoded, run.encoder, spec.batch_size)
            )
    return evaluation, validation
