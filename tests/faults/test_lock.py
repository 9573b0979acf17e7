"""Two processes in one folder: the second is refused, and the kernel frees the folder of one that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.checkpoint import lock
from deltatune.checkpoint.lock import Lock
from deltatune.comparison.runner import compare
from deltatune.errors import DeltatuneError, InUseError
from deltatune.recipe import Recipe
from deltatune.training import run

Make = Callable[..., Recipe]
HOLD = """
import sys, time
from pathlib import Path
from deltatune.checkpoint.lock import Lock
held = Lock(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_is_in_use_is_refused_until_its_holder_dies(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned"])
    process = holder(tmp_path)
    try:
        for begin in (
            lambda: run(recipe, recipe.methods[0], 0, tmp_path, overwrite=True),
            lambda: compare(recipe, tmp_path),
        ):
            with pytest.raises(InUseError, match=rf"another process \({process.pid} on .*\) is at work"):
                begin()
        assert [path.name for path in tmp_path.iterdir() if path.name != "rows.jsonl"] == [lock.NAME]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    compare(recipe, tmp_path)
    assert not (tmp_path / lock.NAME).exists()


def test_a_run_in_use_stops_the_comparison_and_is_no_failure_of_the_method(
    make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned"])
    folder = tmp_path / "out/runs/untuned-s0"
    folder.mkdir(parents=True)
    with Lock(folder, print), pytest.raises(InUseError):
        run(recipe, recipe.methods[0], 0, folder)
    (tmp_path / "out/runs/untuned-s0").rmdir()
    (tmp_path / "out/runs").rmdir()
    compare(recipe, tmp_path / "out")
    (folder / "result.json").unlink()
    with Lock(folder, print), pytest.raises(InUseError):
        compare(recipe, tmp_path / "out")
    assert not (folder / "result.json").exists()


def test_where_neither_locks_nor_links_are_supported_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(lock, "_flock", refuse)
    monkeypatch.setattr(os, "link", refuse)
    told: list[str] = []
    with Lock(tmp_path, told.append):
        assert len(told) == 1
        assert "cannot be locked" in told[0]
    with pytest.raises(DeltatuneError, match="processes cannot share it"):
        Lock(tmp_path, print, join=True)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_holder_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, its holder lets go: the file that is locked has no name."""
    first = Lock(tmp_path, print)
    calls = []

    def flock(descriptor: int) -> None:
        calls.append(descriptor)
        first.release()

    monkeypatch.setattr(lock, "_no_locks", lambda folder: "")
    monkeypatch.setattr(lock, "_flock", flock)
    with Lock(tmp_path, print):
        assert len(calls) == 2
        assert (tmp_path / lock.NAME).exists()
