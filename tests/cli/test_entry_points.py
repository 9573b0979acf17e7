"""The library takes the calls that the commands make: the fakes of the other tests cannot drift from it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

FOLDER = Path("run")
CALLS = [
    ("deltatune.training", "run", ("recipe", "entry", 0, FOLDER), ("resume", "overwrite", "observer")),
    ("deltatune.training", "plan", ("recipe", "entry", 0), ("observer", "context")),
    ("deltatune.runs", "evaluate_run", (FOLDER,), ("split", "observer")),
    ("deltatune.runs", "predict", (FOLDER, ["text"]), ()),
    ("deltatune.training.given.context", "Context.open", ("recipe", "observer"), ()),
    ("deltatune.comparison.runner", "compare", ("recipe", FOLDER), ("overwrite", "observer")),
    ("deltatune.report", "write_report", (FOLDER,), ()),
    ("deltatune.report", "render", (FOLDER,), ("format",)),
    ("deltatune.runs", "inspect", (FOLDER,), ("given", "trust_remote_code")),
    ("deltatune.runs", "merge", (FOLDER, FOLDER), ()),
]


@pytest.mark.parametrize(("module", "name", "arguments", "options"), CALLS, ids=lambda value: str(value)[:28])
def test_an_entry_point_takes_what_the_commands_give(
    module: str, name: str, arguments: tuple[object, ...], options: tuple[str, ...]
) -> None:
    target = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    inspect.signature(target).bind(*arguments, **dict.fromkeys(options))
