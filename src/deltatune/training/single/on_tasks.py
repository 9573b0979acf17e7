"""Scores of a run on tasks of lm-evaluation-harness: the base alone, and with the delta."""

from __future__ import annotations

import time

from deltatune.evaluation.harness import Scored, compared, lines, run_tasks
from deltatune.files import write_lines
from deltatune.models.positions import room_of
from deltatune.results import TaskScore
from deltatune.timeline import phase
from deltatune.training.single.parts import Run

WITHOUT_END = 2048
"""Positions of a base that says nothing of them."""


@phase("test rows")
def score_tasks(run: Run) -> list[TaskScore]:
    """Score the recipe's tasks, and write what each row adds; nothing without tasks."""
    run.context.tasks()
    if not run.context.task_files:
        return []
    started = time.perf_counter()
    run.observer.stage(f"Scoring {run.entry.name} on {len(run.context.task_files)} tasks of the harness")
    known, digest = run.context.base_on_tasks, run.base.fingerprint
    if digest not in known:
        with run.model.using():
            known[digest] = _scored(run, 0)
    base = known[digest]
    delta = _scored(run, room_of(run.model.base, run.adapter).taken) if run.config.trains else base
    write_lines(run.out / "tasks.jsonl", lines(base, delta))
    run.observer.log(f"{run.entry.name}: tasks scored in {time.perf_counter() - started:.0f} s")
    return compared(base, delta)


def _scored(run: Run, taken: int) -> dict[str, Scored]:
    """What acts at present; it takes so many positions of its own."""
    positions = room_of(run.model.base, run.adapter).positions
    encoder = run.encoder
    own = encoder.chats.template if run.recipe.data.chat_template else None
    return run_tasks(
        run.model,
        encoder.tokens,
        run.context.task_files,
        batch_size=run.recipe.evaluation.batch_size,
        chat=own or encoder.chat,
        room=(positions.input or positions.trained or WITHOUT_END) - taken,
    )
