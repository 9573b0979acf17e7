"""One run: attach, train, evaluate, and write down everything that came of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from deltatune.core.devices import device_of, own_random_states
from deltatune.core.ranks import joined
from deltatune.observer import Observer, Silent
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.results import PausedRun, RunResult
from deltatune.timeline import Timeline, phase
from deltatune.training.given.context import Context
from deltatune.training.given.machine import deterministic, fast_cpu
from deltatune.training.given.shared_run import begin_alike, own_folder, require_shareable, warn_of_idle
from deltatune.training.loop.trainer import Pause
from deltatune.training.single.begin import begin
from deltatune.training.single.compiling import compiled
from deltatune.training.single.end import end
from deltatune.training.single.opening import open_run


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
    measure: str | None = None,
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
        measure: A metric that a run which pauses shall have on its validation rows, of its best state.

    Returns:
        What is in result.json. A run that was paused has not looked at the test rows.

    Raises:
        DeltatuneError: Anything that the user can mend; nothing half-written is left behind.
        KeyboardInterrupt: Interrupted; `resume=True` goes on.
    """
    require_shareable(entry)
    observer, timeline = observer or Silent(), Timeline()
    with timeline.open(), joined(device_of(recipe.device)) as group, own_folder(group, out) as mine:
        heard = observer if group.first else Silent()
        warn_of_idle(entry.train, group, heard)
        opened = begin_alike(
            group,
            lambda: open_run(
                recipe,
                entry,
                seed,
                mine,
                resume=resume,
                overwrite=overwrite,
                observer=heard,
                context=context,
                timeline=timeline,
            ),
            lambda begun: None if isinstance(begun, RunResult) else begun.close(),
        )
        if isinstance(opened, RunResult):
            return opened
        try:
            device = opened.base.device
            same = deterministic(device, entry.train.deterministic)
            with opened.failing(), fast_cpu(device), same, own_random_states():
                begun = begin(opened, pause)
                trainer = begun.trainer
                with phase("training"), compiled(trainer) if trainer else contextlib.nullcontext():
                    progress = begun.seen if trainer is None else trainer.run(resume=opened.resumes)
                return end(begun, progress, opened.memory.peak(), measure)
        finally:
            opened.close()
