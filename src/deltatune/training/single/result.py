"""What a run writes down of itself: its result, made of the run's parts."""

from __future__ import annotations

import datetime

from deltatune import quant
from deltatune.checkpoint.saved import TENSORS
from deltatune.core.ranks import ranks
from deltatune.evaluation import Evaluation
from deltatune.evaluation.harness import require_harness
from deltatune.recipe.train_section import TrainSpec
from deltatune.results import (
    SCHEMA,
    Cost,
    DataUsed,
    Lost,
    Metrics,
    Padding,
    PausedCost,
    PausedMetrics,
    PausedRun,
    PausedSelection,
    Rates,
    RunResult,
    Selected,
    StepBytes,
    StepMemory,
    TaskScore,
)
from deltatune.training.given.course import course_of
from deltatune.training.given.energy import meter_of
from deltatune.training.given.machine import git_state, versions
from deltatune.training.loop.steps import Progress
from deltatune.training.single.parts import Begun, Run


def finished(
    begun: Begun,
    progress: Progress,
    *,
    peak: int,
    evaluation: Evaluation,
    validation: dict[str, float],
    on_tasks: list[TaskScore],
    lost: Lost | None,
    threshold: float | None,
    one_answer: str | None,
    description: str | None,
) -> RunResult:
    """The result of a run whose delta is saved and evaluated.

    Args:
        begun: The run.
        progress: Where its training ended.
        peak: The process's peak memory in it, in bytes.
        evaluation: Of the test rows.
        validation: Metrics on the validation rows, by key.
        threshold: The probability from which on they have labels given; None where a row has one answer.
        on_tasks: Scores on the harness's tasks.
        lost: What is lost by the delta; None where that was not asked for.
        one_answer: What is said of it if it has one answer for almost all rows.
        description: What the delta became, of methods that can say it.
    """
    run = begun.run
    return RunResult(
        schema_=SCHEMA,
        status="done",
        error=None,
        name=run.entry.name,
        method=run.entry.method,
        config=run.config.model_dump(mode="json"),
        budget=run.budget,
        origin=run.origin,
        seed=run.seed,
        task=run.recipe.task,
        model=run.about_base,
        data=rows_used(run),
        metrics=Metrics(validation=validation, test=evaluation.metrics),
        tasks=on_tasks,
        lost=lost,
        signatures=evaluation.signatures | ({"lm-eval": require_harness()} if on_tasks else {}),
        cost=_cost(run, progress, peak, evaluation.seconds),
        padding=_padding(begun, progress),
        memory=_memory(run.entry.train, begun.predicted, progress),
        selected=Selected(
            step=progress.step if progress.best is None else progress.best_step,
            by=run.recipe.evaluation.select_by,
            stopped_early=progress.stopped,
        ),
        threshold=threshold,
        rates=_rates(begun),
        new_heads=list(run.base.loaded.new_modules),
        one_answer=one_answer,
        method_result=run.adapter.finish(),
        description=description,
        certificate=run.certificate.lines,
        versions=versions(run.base.device),
        git=git_state(),
        started=run.started.isoformat(timespec="seconds"),
        finished=_now(),
    )


def paused_at(run: Run, progress: Progress, peak: int, steps: int) -> PausedRun:
    """What is known of a run that is not at its end: how far it came of its steps, and its validation."""
    return PausedRun(
        schema_=SCHEMA,
        status="paused",
        error=None,
        name=run.entry.name,
        method=run.entry.method,
        config=run.config.model_dump(mode="json"),
        seed=run.seed,
        metrics=PausedMetrics(validation=progress.best_validation),
        cost=PausedCost(
            train_seconds=progress.seconds, peak_memory_bytes=peak, steps=progress.step, planned_steps=steps
        ),
        selected=PausedSelection(
            step=progress.best_step,
            by=run.recipe.evaluation.select_by,
            value=progress.best,
            stopped_early=progress.stopped,
        ),
        started=run.started.isoformat(timespec="seconds"),
        finished=_now(),
    )


def rows_used(run: Run) -> DataUsed:
    """What the rows are, and what must be known of them."""
    data, report = run.data.dataset, run.data.encoded("train").report
    return DataUsed(
        fingerprint=run.inputs.rows,
        tokens=run.inputs.tokens,
        reading=run.data.reading,
        labels=run.encoder.labels,
        scale=run.encoder.scale,
        pair=data.pair and list(data.pair),
        splitting=data.splitting,
        train=len(data.train),
        validation=len(data.validation),
        test=len(data.test),
        supervised_tokens=report.supervised_tokens,
        truncated_inputs=report.truncated_inputs,
        truncated_targets=report.truncated_targets,
        warnings=run.data.warnings(),
    )


def _rates(begun: Begun) -> Rates | None:
    """The peak rates, and where that of the delta comes from; None if nothing was trained."""
    if begun.trainer is None:
        return None
    run, rates = begun.run, begun.trainer.rates
    because = run.entry.train.lr_because(run.config, course_of(run.context, run.entry))
    return Rates(lr=rates.lr, because=because, head_lr=rates.head)


def _cost(run: Run, progress: Progress, peak: int, evaluation_seconds: float) -> Cost:
    trained = sum(parameter.numel() for _, parameter in run.adapter.trainable())
    total = quant.parameter_count(run.base.loaded.model)
    stored = run.adapter.stored()
    race = progress.raced > 1  # what a race takes at its peak is no run's own
    meter, alone = meter_of(run.base.device), ranks().count == 1
    return Cost(
        trained_parameters=trained,
        stored_parameters=sum(tensor.numel() for tensor in stored.values()),
        total_parameters=total,
        trained_share=trained / total,
        peak_memory_bytes=None if race else peak,
        memory_kind=run.memory.kind,
        raced=progress.raced,
        joined=run.context.joined,
        processes=ranks().count,
        race_peak_memory_bytes=peak if race else None,
        train_seconds=progress.seconds,
        energy_joules=progress.joules if meter.of and alone else None,
        energy_of=meter.of if alone else None,
        evaluation_seconds=evaluation_seconds,
        tokens_per_second=progress.tokens / progress.seconds if progress.seconds else None,
        file_bytes=(run.out / "adapter" / TENSORS).stat().st_size if stored else 0,
        steps=progress.step,
        micro_batch_size=progress.micro_batch,
        epochs=progress.step * run.entry.train.batch_size / len(run.data.dataset.train),
    )


def _padding(begun: Begun, progress: Progress) -> Padding | None:
    """What padding came to; a run that went on packed its rows, or not, as it had begun."""
    return begun.padding and begun.padding.model_copy(update={"packed": progress.packs})


def _memory(spec: TrainSpec, predicted: dict[str, int] | None, progress: Progress) -> StepMemory:
    """Of a step, as predicted (unless micro-batches became smaller than asked for) and as measured."""
    if progress.micro_batch not in (0, spec.micro_batch_size or spec.batch_size):
        predicted = None
    return StepMemory(
        predicted=StepBytes.model_validate(predicted) if predicted else None,
        measured=StepBytes.model_validate(progress.memory) if progress.memory else None,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
