"""A run is opened: its folder in order and locked, its base loaded, its adapter attached."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import mark
from deltatune.checkpoint.rehearsal import rehearse_saving
from deltatune.checkpoint.resume import dtype_of_state
from deltatune.core.model import AdaptedModel
from deltatune.evaluation import metric_keys
from deltatune.files import make_folder, write_text
from deltatune.observer import Observer, Silent
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.written import as_written
from deltatune.results import RunResult
from deltatune.timeline import Timeline
from deltatune.training.before.longest_rows import require_room
from deltatune.training.given.attach import attach
from deltatune.training.given.context import Context
from deltatune.training.given.folder import KIND, clear_folder, prepare_folder
from deltatune.training.given.start import require_apart
from deltatune.training.proof.certificate import Proof
from deltatune.training.single.parts import Run

NAME = "run"


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
    timeline: Timeline | None = None,
) -> Run | RunResult:
    """Make everything ready for a run, with its adapter attached, unless it is finished.

    Arguments are those of `run`, and `model`: the entry's base, with the adapters of other runs, in which the
    run's adapter gets the name `name`. By default the run has a view of the base to itself. `timeline` is
    open while the run is worked at.

    Returns:
        The run, to be closed; or the result of one that is finished.
    """
    observer = observer or Silent()
    metric_keys(recipe.evaluation, recipe.task, targets=recipe.has_targets)  # fails before hours of training
    alone = recipe.alone(entry, seed)
    require_apart(entry, out)
    with contextlib.ExitStack() as closing:  # the run's, once it is open
        closing.callback(Lock(make_folder(out), observer.warn).release)
        finished = prepare_folder(out, alone, resume=resume, overwrite=overwrite)
        if finished is not None:
            remove(out / "resume")  # of a run that was killed while it removed this
            return finished
        context = context or Context.open(alone, observer)
        certificate = Proof(
            out / CERTIFICATE, {"name": entry.name, "method": entry.method, "seed": seed, "delta": None}
        )
        started = datetime.datetime.now(datetime.UTC)
        context.tasks()
        resumes = resume and not overwrite and (out / "resume").exists()
        if resumes:
            context.goes_on_in(entry, dtype_of_state(out / "resume"))
        base = context.base(entry)
        context.data(entry, base).encoded("train")
        model = model or base.adapted(base_dropout=entry.train.base_dropout)
        model.fast.lean.kernels = frozenset(entry.train.kernels or ())
        adapter, budget, origin = attach(context, entry, base, model, name=name, seed=seed)
        closing.callback(model.detach, name)
        require_room(context, alone, base, model, adapter)
        if base.original is not None:
            base.original.forget()
        rehearse_saving(model, name, out)
        mark(out, KIND)
        if overwrite:
            clear_folder(out)
        for left in (CERTIFICATE, "error.txt"):  # of an attempt that failed
            remove(out / left)
        write_text(out / "recipe.yaml", as_written(alone.dump()))
        return Run(
            context, alone, base, model, name, entry, seed, out, observer, certificate, budget,
            origin,
            resumes=resumes, started=started,
            timeline=timeline or Timeline(), closing=closing.pop_all(),
        )  # fmt: skip
