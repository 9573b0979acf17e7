"""Signals save the state, times are measured by a clock that nobody sets, disks are told from methods."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.checkpoint.resume import load_state
from deltatune.cli.app import stoppable
from deltatune.comparison import attempt
from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError, Stopped, StorageError
from deltatune.files import disk_error
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.kinds import seconds_of
from deltatune.training import run
from deltatune.training.loop.steps import interruptible
from deltatune.training.loop.trainer import Trainer
from tests.train.test_run import lines, without_times

Make = Callable[..., Recipe]


class SignalAfter(Silent):
    def __init__(self, steps: int, *signums: int) -> None:
        self.left, self.signums = steps, signums

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task == "Training" and numbers:
            self.left -= 1
            for signum in self.signums if self.left == 0 else ():
                os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_what_schedulers_send_saves_the_state(make_recipe: Make, tmp_path: Path, signum: int) -> None:
    recipe = make_recipe("train.max_steps=4")
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped:
        run(recipe, recipe.methods[0], 0, tmp_path / "parts", observer=SignalAfter(2, signum))
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) == before
    assert load_state(tmp_path / "parts/resume")["progress"]["step"] == 2
    run(recipe, recipe.methods[0], 0, tmp_path / "parts", resume=True)
    run(recipe, recipe.methods[0], 0, tmp_path / "whole")
    logs = [without_times(lines(tmp_path / part / "metrics.jsonl")) for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_the_second_signal_breaks_off() -> None:
    with stoppable(), interruptible() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.is_set()
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.signum == signal.SIGTERM


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(), interruptible() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_has_no_signals() -> None:
    def quiet() -> None:
        with stoppable(), interruptible() as asked:
            told.append(asked.is_set())

    told: list[bool] = []
    thread = threading.Thread(target=quiet)
    thread.start()
    thread.join()
    assert told == [False]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10min", 600), ("1.5 h", 5400), ("epoch", None), (7, None)]
)
def test_a_time_is_read(text: Any, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0s", "-1min", "10", "10 parsecs", "min"])
def test_what_is_no_time_is_refused(make_recipe: Make, text: str) -> None:
    with pytest.raises(RecipeError, match="checkpoint_every"):
        make_recipe(f"train.checkpoint_every='{text}'")


def test_checkpoints_come_by_time_whatever_is_done_to_the_clock(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved, jumps = [0.0], [], iter(range(10_000))
    save = Trainer.save

    def note(self: Any) -> None:
        saved.append(self.progress.step)
        save(self)

    class Clock(Silent):
        def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
            now[0] += 60 if task == "Training" and numbers else 0

    monkeypatch.setattr("deltatune.training.loop.trainer.Trainer.save", note)
    monkeypatch.setattr("deltatune.training.loop.trainer.time.monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 1e9 * (-1) ** next(jumps))
    recipe = make_recipe("train.checkpoint_every=3min", "train.epochs=2")
    run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=Clock())
    assert saved == [3, 6, 8]


def test_a_full_disk_is_no_failure_of_a_method(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned", "lora"])

    def full(*_: Any, **__: Any) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise RuntimeError("a library's own") from error

    with monkeypatch.context() as patch:
        patch.setattr(attempt, "run", full)
        with pytest.raises(StorageError, match=r"No space left.*Make room"):
            compare(recipe, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("result.json"))
    board = compare(recipe, tmp_path / "out")
    assert [row.status for row in board.rows] == ["done", "done"]


def test_errors_of_a_disk_are_told_from_others() -> None:
    from safetensors import SafetensorError

    assert disk_error(SafetensorError("Error while serializing: I/O error (os error 28)")) == errno.ENOSPC
    assert disk_error(OSError(errno.EROFS, "read-only")) == errno.EROFS
    assert disk_error(OSError(errno.ENOENT, "no such file")) is None
    assert disk_error(ValueError("os error 28")) is None
