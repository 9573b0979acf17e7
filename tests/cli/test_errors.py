"""What a user sees when something goes wrong, in this process and in a real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.errors import DataError


def test_an_error_is_one_paragraph_and_exit_code_2(recipe: Path, run: Callable, fake: Callable) -> None:
    problem = DataError("no column 'titel'.", field="data.columns.target", remedy="Did you mean 'title'?")
    fake("deltatune.train", "run", problem)
    done = run("train", recipe, "-m", "untuned")
    assert done.code == 2
    assert done.err == "Error: data.columns.target: no column 'titel'. Did you mean 'title'?\n"
    assert done.out == ""


def test_a_defect_is_short_and_exit_code_1(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.train", "run", ZeroDivisionError("division by zero"))
    done = run("train", recipe, "-m", "untuned")
    assert done.code == 1
    assert done.err.startswith("Error: ZeroDivisionError: division by zero.")
    assert "DELTATUNE_DEBUG=1" in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(
    recipe: Path, run: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("deltatune.train", "run", ZeroDivisionError("division by zero"))
    done = run("--debug", "train", recipe, "-m", "untuned")
    assert done.code == 1
    assert "Traceback" in done.err
    monkeypatch.setenv("DELTATUNE_DEBUG", "1")
    assert "Traceback" in run("train", recipe, "-m", "untuned").err


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deltatune", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "missing.yaml"), "missing.yaml"),
        (("compare", "tables.yaml", "--set", "trian.lr=1"), "trian"),
        (("compare", "tables.yaml", "--set", "train.lr=fast"), "train.lr"),
        (("train", "tables.yaml", "-m", "loar r4"), "Did you mean 'lora r4'?"),
        (("methods", "lorra"), "Did you mean 'lora'?"),
    ],
)
def test_a_mistake_in_a_real_process(recipe: Path, arguments: tuple[str, ...], message: str) -> None:
    done = command(*arguments, cwd=recipe.parent)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["tables.yaml"]


def test_wrong_options_are_shown_with_the_usage(tmp_path: Path) -> None:
    done = command("train", "--mehtod", "lora", cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "--mehtod" in done.stderr


def test_an_ended_pipe_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deltatune", "schema"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert b"Traceback" not in errors
    assert b"Error" not in errors
