"""Runs that go on from a saved delta: what it is, and whether it can be trained on.

A delta comes from a run of ours or from peft. It brings its settings and its tensors, heads included. The
optimizer and the schedule of the learning rate start anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.checkpoint.folders import reading
from deltatune.checkpoint.foreign import adapter_folder
from deltatune.checkpoint.saved import SavedAdapter, read_adapter
from deltatune.core.method import MethodConfig
from deltatune.errors import AdapterError, RecipeError
from deltatune.methods import METHODS
from deltatune.recipe.schema import MethodEntry
from deltatune.results import RunResult
from deltatune.training.given.folder import delta_folder, finished_result

FIELD = "from"


@dataclass(frozen=True)
class Start:
    """A saved delta that an entry starts from."""

    path: Path
    """As the recipe names it."""
    folder: Path
    """That of the delta's files."""
    saved: SavedAdapter
    run: RunResult | None
    """The result, if the delta is that of a run."""


def other_head(run: RunResult, task: str, labels: list[str] | None) -> str | None:
    """How a run's head differs from one for this task and these labels, in words; None where it does not.

    Equal names do not make equal heads: those of one class a row and of any number learn other numbers.
    """
    theirs = run.data.labels
    if run.task not in (None, task) and (theirs is not None or labels is not None):
        return f"is of the task {run.task}, and this is {task}"
    return None if theirs == labels else f"tells other classes apart: {theirs}, and here they are {labels}"


def read_start(entry: MethodEntry) -> Start | None:
    """Read the delta that an entry starts from, and check that it can be trained on; None if there is none.

    Raises:
        RecipeError: There is no such folder, the delta is another method's, or the entry's settings
            contradict it.
        AdapterError: It is damaged, of a run that is not finished, or cannot be trained on.
    """
    if entry.start is None:
        return None
    path = Path(entry.start)
    if not path.is_dir():
        raise RecipeError(
            f"there is no folder '{path}'.",
            field=FIELD,
            remedy="Name the folder of a run, its adapter/, or a folder that peft wrote.",
        )
    try:
        start = _read(path)
    except AdapterError as error:
        raise AdapterError(error.what, field=FIELD, remedy=error.remedy) from error
    _require_same_method(entry, start)
    _require_trainable(start)
    return start


def settings_of(entry: MethodEntry) -> MethodConfig:
    """An entry's method, without its budget: with a saved delta's settings if it starts from one.

    Raises:
        DeltatuneError: As of `read_start`.
    """
    start = read_start(entry)
    return entry.build_config() if start is None else start.saved.config


def require_apart(entry: MethodEntry, out: Path) -> None:
    """Refuse to write a run over the delta that it starts from.

    Raises:
        RecipeError: Its folder is that of the delta, or holds it.
    """
    if entry.start is None:
        return
    there, here = Path(entry.start).resolve(), out.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise RecipeError(
            f"'{out}' holds the delta that the run starts from, '{entry.start}'.",
            field="--out",
            remedy="Choose another folder: a finished run is never changed.",
        )


def _read(path: Path) -> Start:
    """The delta in a run's folder, in the adapter/ of one, or in any other folder."""
    owner = path.parent if path.name == "adapter" and (path.parent / "result.json").exists() else path
    run = None
    if (owner / "result.json").exists() or (owner / "recipe.yaml").exists():
        run = finished_result(owner)
        path = delta_folder(owner)
        if run.cost.file_bytes == 0:
            raise AdapterError(
                f"the run in '{owner}' trained nothing, so it has no delta.", remedy="Leave from out."
            )
    folder = adapter_folder(path)
    return Start(owner, folder, read_adapter(folder), run)


def _require_same_method(entry: MethodEntry, start: Start) -> None:
    saved = start.saved
    if saved.method != entry.method:
        trained = start.run.method if start.run else saved.method
        was = f" (trained as {trained})" if trained != saved.method else ""
        raise RecipeError(
            f"the delta in '{start.path}' is one of {saved.method}{was}, and the entry {entry.name!r} is "
            f"{entry.method}.",
            field=FIELD,
            remedy=f"Write the entry as {saved.method}.",
        )
    settings = saved.config.model_dump(mode="json")
    for field, value in entry.config.items():
        if _plain(settings[field]) != _plain(value):
            raise RecipeError(
                f"is {value!r}, and the delta in '{start.path}' has {settings[field]!r}.",
                field=f"{entry.method}.{field}",
                remedy="Leave it out: the delta brings its settings.",
            )


def _plain(value: Any) -> Any:
    """Of names the order does not count; peft writes them in any."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value


def _require_trainable(start: Start) -> None:
    configs = [start.saved.config]
    if start.run is not None:  # as it was trained; what was saved may be another method
        with reading(start.path):
            configs.append(METHODS.get(start.run.method)(**start.run.config))
    for config in configs:
        if reason := config.lost_when_saved():
            raise AdapterError(
                f"the delta of {config.name} in '{start.path}' cannot be trained on: {reason}.",
                field=FIELD,
                remedy="Train it anew, for longer, from the base.",
            )
