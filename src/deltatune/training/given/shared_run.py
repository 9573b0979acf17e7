"""A run that several processes make: what it needs for that, and where each of them writes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.core.ranks import Ranks
from deltatune.errors import DeltatuneError, RecipeError, TrainingError
from deltatune.launched import processes
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry, TrainSpec
from deltatune.training.given.folder import CHECKPOINTS, WRITES

Opened = TypeVar("Opened")


def require_shareable(entry: MethodEntry) -> None:
    """Refuse settings that several processes would not follow alike, before anything is loaded.

    Raises:
        RecipeError: There are several processes, and such a setting; or one, and a base to be shared.
    """
    spec, count = entry.train, processes()
    if count == 1:
        if spec.shard:
            raise RecipeError(
                "spreads the base over several processes, and this one is alone.",
                field="train.shard",
                remedy="Start `torchrun --nproc-per-node N -m deltatune train`, or set train.shard=false.",
            )
        return
    if spec.auto_micro_batch:
        raise RecipeError(
            f"is for one process, and {count} were launched: each would halve its own micro-batches.",
            field="train.auto_micro_batch",
            remedy="Set train.micro_batch_size to what the smallest GPU holds.",
        )
    if spec.base_dropout:
        raise RecipeError(
            f"is for one process, and {count} were launched: the dropout of a base follows no clock, so that "
            "the run would be another one.",
            field="train.base_dropout",
            remedy="Leave it out, or start the run without a launcher.",
        )


def warn_of_idle(spec: TrainSpec, group: Ranks, observer: Observer) -> None:
    """Say when steps have fewer micro-batches than there are processes."""
    rows = spec.micro_batch_size or spec.batch_size
    parts = -(-spec.batch_size // rows)
    if parts < group.count:
        observer.warn(
            f"a step has {parts} micro-batch{'es' if parts > 1 else ''} of {rows} rows, and there are "
            f"{group.count} processes: {group.count - parts} of them have nothing to do. Set "
            f"train.micro_batch_size={max(1, spec.batch_size // group.count)}."
        )


def begin_alike(group: Ranks, work: Callable[[], Opened], close: Callable[[Opened], None]) -> Opened:
    """Begin on all ranks or on none: the first one's reason is the one that counts.

    Args:
        group: The ranks.
        work: Begins here.
        close: Undoes it, where another could not begin.

    Raises:
        DeltatuneError: It cannot begin here, or another rank says why it cannot.
    """
    failure: DeltatuneError | None = None
    begun: list[Opened] = []
    try:
        begun = [work()]
    except DeltatuneError as error:
        failure = error
    failed = [place for place, fails in enumerate(group.gather(failure is not None)) if fails]
    if failure is not None and (group.first or not failed or failed[0] != 0):
        raise failure  # of others the folder in the message is a copy
    if failed:
        for opened in begun:
            close(opened)
        raise TrainingError(f"process {failed[0]} of this launch cannot begin the run, and says why.")
    return begun[0]


@contextlib.contextmanager
def own_folder(group: Ranks, out: Path) -> Iterator[Path]:
    """The folder that this process writes into: the run's is the first one's alone.

    The others do the same in a copy that goes away, from which they take up an interrupted run's state.
    """
    if group.first:
        group.gather(None)  # nothing is changed before the others have their copy
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="deltatune-") as scratch:
        mine = Path(scratch, out.name or "run")
        if out.is_dir():
            _copy_run(out, mine)
        group.gather(None)
        yield mine


def _copy_run(out: Path, mine: Path) -> None:
    """Copy what a run wrote. Of other files their names alone: these decide whether the folder is refused.

    They may be the user's whole data, or pipes that nobody writes to.
    """
    mine.mkdir()
    for entry in out.iterdir():
        if entry.name.startswith(".") or entry.name == CHECKPOINTS:
            continue
        if entry.name not in (*WRITES, MANIFEST):
            (mine / entry.name).touch()
        elif entry.is_dir():
            shutil.copytree(entry, mine / entry.name, symlinks=True, ignore=shutil.ignore_patterns(".*"))
        elif entry.is_file():
            shutil.copyfile(entry, mine / entry.name)
