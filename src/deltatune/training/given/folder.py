"""The folder of a run: made ready, found finished, and what is written when a run fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.checkpoint.folders import remove, settle
from deltatune.checkpoint.manifest import require_own, require_unchanged
from deltatune.checkpoint.saved import CONFIG, OURS, read_adapter
from deltatune.errors import AdapterError, DeltatuneError, RecipeError
from deltatune.files import read_json
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.written import differences, is_written, rates_of_then
from deltatune.results import SCHEMA, AnyResult, FailedRun, Failure, PausedRun, RunResult, run_result

KIND = "run"
CHECKPOINTS = "checkpoints"
"""The folder of the deltas of its checkpoints, within its own."""
WRITES = (
    "result.json", "resume", "metrics.jsonl", "predictions.jsonl", "tasks.jsonl", "general.jsonl",
    "certificate.json", "error.txt",
    CHECKPOINTS, "adapter", "recipe.yaml",
)  # fmt: skip
"""All that a run writes into its folder besides its manifest, in the order in which it may be removed."""
DECIDES = ("result.json", f"adapter/{CONFIG}", f"adapter/{OURS}")
"""Files of a run that decide what it does, besides its tensors, of whose checksum the last of them knows."""
CHANGED = "Copy or train it again; or, if the change is meant, remove manifest.json, which vouches for it."
ANEW = "Choose another folder, or start anew with --overwrite."
FINISH = "Finish it first: give its `deltatune train` again with --resume, or its `deltatune compare` again."


def prepare_folder(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> RunResult | None:
    """Check the folder and put it in order, or return the result of a run that is finished.

    It is there, and locked. With `overwrite` nothing is removed yet: `clear_folder` does so once data and
    base are there.

    Raises:
        RecipeError: The folder holds a run that the user did not say what to do with, or another recipe's; or
            a comparison, or files of somebody else's that a run would replace.
        AdapterError: What an earlier run left there is damaged.
    """
    state = out / "resume"
    for name in ("leaderboard.json", "runs"):
        if (out / name).exists():
            raise RecipeError(
                f"'{out}' holds a comparison.", field="--out", remedy="Choose another folder for the run."
            )
    require_own_run(out)
    settle(out)
    if overwrite:
        return None
    result = read_result(out, remedy=ANEW)
    done = isinstance(result, RunResult)
    if (done or state.exists()) and not resume:
        what, flags = (
            ("a finished run", "--overwrite") if done else ("an interrupted run", "--resume or --overwrite")
        )
        raise RecipeError(
            f"'{out}' holds {what}.", field="--out", remedy=f"Choose another folder, or add {flags}."
        )
    stored = out / "recipe.yaml"
    begun = done or state.exists()
    if begun and not stored.exists():
        raise RecipeError(
            f"the run in '{out}' has lost its recipe.yaml, which says what it was begun with.",
            field="--resume",
            remedy=ANEW,
        )
    train = recipe.dump()["train"]
    changed = differences(stored, recipe.dump(), remedy=ANEW) if begun else {}
    changed.pop("device", None)  # where a run goes on is not what it is
    if changed.keys() == {"train"} and _apart_from_place(changed["train"]) == _apart_from_place(train):
        changed = {}
    if list(changed) == ["train"] and (longer := _other_length(changed["train"], train)):
        raise RecipeError(
            f"the run in '{out}' has another length: {longer}.",
            field="--resume",
            remedy="Its learning rate was scheduled for that length, so longer training is another run. "
            + ("" if done else "First finish this one, at its own length. ")
            + f"`deltatune train --extend {out} --out NEW --set train.epochs=N` goes on from it, for N "
            "epochs more; or train anew with another --out.",
        )
    if changed:
        raise RecipeError(
            f"the run in '{out}' has another recipe; it differs in {', '.join(changed)}.",
            field="--resume",
            remedy=rates_of_then(changed, recipe.dump())
            or "Use the recipe it was started with, another folder, or --overwrite.",
        )
    if not isinstance(result, RunResult):
        return None
    require_delta(out, result, remedy=ANEW)
    return result


def _apart_from_place(train: Any) -> Any:
    """A section `train` without what says where the base is, and not what is trained."""
    return {key: train[key] for key in train if key != "shard"} if isinstance(train, dict) else train


def _other_length(before: Any, now: dict[str, Any]) -> str:
    """How two sections `train` differ, if in their length alone."""
    differ = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
    if not set(differ) <= {"epochs", "max_steps"}:
        return ""
    return ", ".join(f"train.{key} {before[key]} there, {now[key]} here" for key in differ if key in before)


def read_result(out: Path, *, remedy: str) -> AnyResult | None:
    """A run's result.json; None if there is none. A file of another program may have its name.

    Raises:
        AdapterError: It cannot be read, or is no result of a run.
    """
    path = out / "result.json"
    if not path.exists():
        return None
    content = read_json(path, remedy=remedy, error=AdapterError)
    return run_result(content, f"'{path}'", remedy=remedy, error=AdapterError)


def finished_result(folder: Path) -> RunResult:
    """The result of a finished run, whose files are those that it wrote.

    Raises:
        AdapterError: It is no finished run, or was changed.
    """
    result = read_result(folder, remedy="Name the folder of a finished run, or train this one again.")
    if result is None:
        raise AdapterError(
            f"'{folder}' is no finished run: it has no result.json.",
            remedy=FINISH
            if (folder / "resume").exists()
            else "Name a folder that `deltatune train` or `deltatune compare` wrote (out/.../runs/NAME).",
        )
    require_unchanged(folder, DECIDES, remedy=CHANGED)
    if not isinstance(result, RunResult):
        raise AdapterError(f"the run in '{folder}' did not finish.", remedy=FINISH)
    return result


def delta_folder(run: Path) -> Path:
    """Where a run keeps its delta; one that was pushed to the Hub has it at the top, where peft looks."""
    inner = run / "adapter"
    return run if not inner.is_dir() and (run / CONFIG).is_file() else inner


def require_delta(out: Path, result: RunResult, *, remedy: str) -> None:
    """Check that the delta of a finished run is the one it saved.

    Raises:
        AdapterError: A file of it is missing or damaged.
    """
    if result.cost.file_bytes == 0:  # of a method that stores nothing
        return
    try:
        read_adapter(out / "adapter")
    except AdapterError as error:
        raise AdapterError(error.what, field=error.field, remedy=remedy) from error


def require_own_run(out: Path) -> None:
    """Refuse a folder with files of somebody else's that a run would replace.

    Raises:
        RecipeError: There is one, or it is deltatune's and holds no run.
        AdapterError: Its manifest cannot be read.
    """
    require_own(out, KIND, WRITES, _run_of_0_1)


def _run_of_0_1(out: Path) -> bool:
    """Whether version 0.1 wrote what is in the folder: it is a run's, as far as there is anything to tell."""
    for folder, file in (("adapter", "deltatune.json"), ("resume", "state.json")):
        if (out / folder).exists() and not (out / folder / file).is_file():
            return False
    try:
        result = read_result(out, remedy=ANEW)
    except DeltatuneError:
        result = None
    ours = result is not None and "schema_" in result.model_fields_set and result.schema_ == SCHEMA
    return ours or is_written(out / "recipe.yaml")


def clear_folder(out: Path) -> None:
    """Remove what an earlier run left in a folder that is deltatune's own."""
    for name in WRITES:
        remove(out / name)


def is_done(out: Path) -> bool:
    """Whether the folder holds a finished run."""
    return isinstance(read_result(out, remedy=ANEW), RunResult)


def peak_before(out: Path) -> int:
    """Peak memory of the part of this run that was trained before it paused."""
    before = read_result(out, remedy=ANEW)
    return int(before.cost.peak_memory_bytes) if isinstance(before, PausedRun) else 0


def failed_result(entry: MethodEntry, seed: int, error: Exception) -> FailedRun:
    """The result of a run that failed."""
    return FailedRun(
        schema_=SCHEMA,
        status="failed",
        error=Failure(kind=type(error).__name__, message=str(error) or type(error).__name__),
        name=entry.name,
        method=entry.method,
        config=entry.config,
        seed=seed,
    )
