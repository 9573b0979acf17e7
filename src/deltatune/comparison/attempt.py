"""One run of a comparison, whose failure is a result as well."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from deltatune.checkpoint.manifest import mark
from deltatune.comparison.team import Team
from deltatune.errors import DeltatuneError, HaltError
from deltatune.files import make_folder, require_disk, write_json, write_text
from deltatune.recipe.schema import MethodEntry
from deltatune.results import AnyResult, FailedRun, Tuning
from deltatune.training import Context, run
from deltatune.training.given.folder import KIND, failed_result, require_own_run
from deltatune.training.given.split_contexts import context_of
from deltatune.training.loop.trainer import Pause


@dataclass(frozen=True)
class Pick:
    """What is trained with all seeds for an entry."""

    entry: MethodEntry
    """With the settings that were chosen."""
    variant: str = ""
    """What its runs' folders are told apart by."""
    tuning: Tuning | None = None
    """What was tried for it, and at what cost; None if nothing was tuned."""


def run_folder(entry: MethodEntry, seed: int, variant: str = "") -> str:
    """Where a run lies within its comparison.

    Args:
        entry: Its entry.
        seed: Its seed.
        variant: What sets it apart from other runs of the entry, such as `lr-0.001`.
    """
    # Slugs hold no double hyphen, so a variant of one entry cannot be taken for another entry.
    return f"runs/{entry.slug}{f'--{variant}' if variant else ''}-s{seed}"


def attempt(  # noqa: PLR0917 - the order in which everything else passes them
    context: Context,
    team: Team,
    entry: MethodEntry,
    seed: int,
    folder: Path,
    pause: Pause | None = None,
    measure: str | None = None,
) -> AnyResult:
    """Train one run, or go on with it; give its result, whatever became of it.

    Arguments are those of `training.run`; the run has the rows of its seed.

    Raises:
        HaltError: As of `failure`; an `InUseError` if another process is at the run.
    """
    if told := team.told(folder):
        return told
    context = context_of(context, seed)
    try:
        return run(
            context.recipe,
            entry,
            seed,
            folder,
            resume=True,
            observer=context.observer,
            context=context,
            pause=pause,
            measure=measure,
        )
    except Exception as error:  # one method must not take the others down; its error is shown in its row
        return failure(context, entry, seed, folder, error)


def failure(context: Context, entry: MethodEntry, seed: int, folder: Path, error: Exception) -> FailedRun:
    """Write down the error that ended a run, as its result.

    Raises:
        HaltError: It says nothing of the method: a full disk, say. The comparison ends and can go on later.
    """
    if isinstance(error, HaltError):
        raise error
    require_disk(error, folder)
    message = str(error) or type(error).__name__
    context.observer.warn(f"{entry.name} (seed {seed}) failed: {message}")
    failed = failed_result(entry, seed, error)
    try:
        require_own_run(make_folder(folder))
    except HaltError:
        raise
    except DeltatuneError:  # the folder is somebody else's, which is the error, and is left alone
        return failed
    mark(folder, KIND)
    write_json(folder / "result.json", failed.as_dict())
    if not isinstance(error, DeltatuneError):
        write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
    return failed
