"""From what the command line names to a pool; whether all is on one base is known before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.checkpoint.foreign import CONFIG, TENSORS, adapter_folder
from deltatune.checkpoint.saved import OURS, read_adapter_json
from deltatune.core.devices import AUTO
from deltatune.errors import AdapterError
from deltatune.recipe.given import Given
from deltatune.runs.foreign import is_without_run
from deltatune.runs.load import load_run
from deltatune.serve.deltas.pool import BASE, Pool
from deltatune.serve.deltas.served import Served
from deltatune.training.given.folder import delta_folder, finished_result

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What a run may be called in requests."""


@dataclass(frozen=True, slots=True)
class Named:
    """A run to serve."""

    name: str
    folder: Path
    base: str
    """Of its base, as its files name it."""
    identity: tuple[Any, ...] | None
    """Equal of runs on one base; None of an adapter that does not tell, such as peft's."""
    bytes: int
    """Of the delta's file."""


def named(argument: str, taken: Sequence[str] = ()) -> Named:
    """A run by what the command line says: its folder, or NAME=FOLDER. Nothing of the base is loaded.

    Raises:
        AdapterError: It is no finished run and no adapter, or cannot be called so.
    """
    folder, name = Path(argument), ""
    if not folder.exists() and "=" in argument:
        name, _, rest = argument.partition("=")
        folder = Path(rest)
    name = name or _free(folder.resolve().name, taken)
    if not NAME.fullmatch(name) or name == BASE or name in taken:
        why = "is taken" if name in taken or name == BASE else "has other characters"
        raise AdapterError(
            f"{name!r} cannot be the name of a run: it {why}.",
            field="RUN",
            remedy="Write NAME=FOLDER, with a name of letters, digits, '.', '_' and '-' of your own.",
        )
    return read_named(folder, name)


def read_named(folder: Path, name: str) -> Named:
    """What the files of a run say of its base.

    Raises:
        AdapterError: It is no finished run and no adapter.
    """
    if is_without_run(folder):
        place = adapter_folder(folder)
    else:
        finished_result(folder)
        place = delta_folder(folder)
    tensors = place / TENSORS
    size = tensors.stat().st_size if tensors.is_file() else 0
    if not (place / OURS).exists():
        base = read_adapter_json(place / CONFIG).get("base_model_name_or_path") or ""
        return Named(name, folder, str(base), None, size)
    base = read_adapter_json(place / OURS).get("base")
    if not isinstance(base, dict):
        raise AdapterError(f"'{place / OURS}' lacks base.", remedy="Copy or train it again.")
    identity = (base.get("structure"), base.get("dtype"), base.get("fingerprint"))
    return Named(name, folder, str(base.get("name")), identity, size)


def require_one_base(runs: Sequence[Named]) -> None:
    """Refuse runs of different bases.

    Raises:
        AdapterError: There are such.
    """
    first = next((run for run in runs if run.identity is not None), None)
    for run in runs:
        if first is None or run.identity in (None, first.identity):
            continue
        assert run.identity is not None
        assert first.identity is not None
        parts = zip(("of other shapes or classes", "in another precision", "with other weights"),
                    run.identity, first.identity, strict=True)  # fmt: skip
        how = next(what for what, theirs, ours in parts if theirs != ours)
        raise AdapterError(
            f"'{first.folder}' is on {first.base}, and '{run.folder}' on {run.base}, a base {how}.",
            field="RUN",
            remedy="Serve runs of one base together, and others by another `deltatune serve`.",
        )


def open_pool(
    runs: Sequence[Named],
    most: int,
    try_out: Callable[[Served], None],
    *,
    trust_remote_code: bool = False,
    given: Given | None = None,
    device: str = AUTO,
) -> Pool:
    """Load the base with the first run, and attach the deltas of the others, as many as may be in memory.

    Args:
        runs: On one base.
        most: Deltas in memory at once.
        try_out: As of `Pool`.
        trust_remote_code: As of `load_run`.
        given: As of `load_run`, of the first.
        device: As of `load_run`.

    Raises:
        AdapterError: One of them is damaged, or on another base.
        ModelError: The base cannot be loaded.
    """
    first, *others = runs
    loaded = load_run(first.folder, trust_remote_code=trust_remote_code, given=given, device=device)
    pool = Pool(loaded, first.name, most, try_out, trust_remote_code=trust_remote_code)
    for run in others:
        pool.add(run.folder, run.name)
    return pool


def _free(name: str, taken: Sequence[str]) -> str:
    """A name that no other run has."""
    number, free = 2, name
    while free in taken or free == BASE:
        free, number = f"{name}-{number}", number + 1
    return free
