"""What a user sees when something goes wrong, in this process and in a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from deltatune.core.method import MethodConfig
from deltatune.errors import DataError
from deltatune.methods import METHODS


def test_an_error_is_one_paragraph_and_exit_code_2(recipe: Path, run: Callable, fake: Callable) -> None:
    problem = DataError("no column 'titel'.", field="data.columns.target", remedy="Did you mean 'title'?")
    fake("deltatune.training", "run", problem)
    done = run("train", recipe, "-m", "untuned")
    assert done.code == 2
    assert done.err == "Error: data.columns.target: no column 'titel'. Did you mean 'title'?\n"
    assert done.out == ""


def test_a_defect_is_short_and_exit_code_1(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", ZeroDivisionError("division by zero"))
    done = run("train", recipe, "-m", "untuned")
    assert done.code == 1
    assert done.err.startswith("Error: ZeroDivisionError: division by zero.")
    assert "DELTATUNE_DEBUG=1" in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(
    recipe: Path, run: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("deltatune.training", "run", ZeroDivisionError("division by zero"))
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
        pytest.param(("compare", "tables.yaml", "--set", "trian.lr=1"), "trian", marks=pytest.mark.slow),
        pytest.param(
            ("compare", "tables.yaml", "--set", "train.lr=fast"), "train.lr", marks=pytest.mark.slow
        ),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--json"], "Missing argument 'RECIPE'."),
        (["plan", "--json", "--nonsense"], "No such option: --nonsense"),
        (["init", "rows.csv", "more", "--json"], "Got unexpected extra argument(s) (rows.csv more)"),
    ],
)
def test_misused_options_are_json_on_stdout_beside_json(
    run: Callable, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert (done.code, json.loads(done.out)["error"]["message"]) == (2, message)
    assert not run(*(word for word in arguments if word != "--json")).out


def test_what_a_launcher_may_not_start_is_json_too(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    told = json.loads(run("compare", "recipe.yaml", "--json").out)["error"]
    assert "2 were launched" in told["message"]
    assert "--workers 2" in told["remedy"]


def test_errors_are_json_on_stdout_beside_json(recipe: Path, run: Callable, fake: Callable) -> None:
    problem = DataError("no column 'titel'.", field="data.columns.target", remedy="Did you mean 'title'?")
    fake("deltatune.training", "run", problem)
    done = run("train", recipe, "-m", "untuned", "--json")
    assert done.code == 2
    assert json.loads(done.out) == {
        "error": {
            "kind": "DataError",
            "field": "data.columns.target",
            "message": "no column 'titel'.",
            "remedy": "Did you mean 'title'?",
            "exit_code": 2,
        }
    }
    assert done.err.startswith("Error: data.columns.target: no column")
    fake("deltatune.training", "run", ZeroDivisionError("division by zero"))
    assert json.loads(run("train", recipe, "-m", "untuned", "--json").out)["error"]["exit_code"] == 1
    fake("deltatune.training", "run", KeyboardInterrupt())
    done = run("train", recipe, "-m", "untuned", "--json")
    assert (done.code, json.loads(done.out)["error"]["exit_code"]) == (130, 130)
    assert run("train", recipe, "-m", "untuned").out == "", "what one command asked for is not the next one's"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "pip install torch, the build for"),
        (ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image"), "pip install PIL"),
    ],
)
def test_a_missing_package_is_no_defect(
    recipe: Path, run: Callable, fake: Callable, error: Exception, words: str
) -> None:
    fake("deltatune.training", "run", error)
    done = run("train", recipe, "-m", "untuned")
    assert done.code == 2
    assert words in done.err
    assert "defect" not in done.err


class Mine(MethodConfig):
    """A method that a user has not finished."""

    def build(self, view: Any) -> Any:
        raise KeyError("rank")


class Less(MethodConfig):
    """A method without its main part."""


@pytest.mark.parametrize(
    ("method", "words"),
    [(Mine, ("a method of your own", "test_errors.py", "in build")), (Less, ("the function build",))],
)
def test_an_unfinished_method_of_the_users_is_no_defect_of_ours(
    recipe: Path, run: Callable, fake: Callable, method: type[MethodConfig], words: tuple[str, ...]
) -> None:
    def built(*_: Any, **__: Any) -> Any:
        return method().build(cast(Any, None))

    fake("deltatune.training", "run", built)
    METHODS.add("mine", method)
    try:
        done = run("train", recipe, "-m", "untuned")
    finally:
        METHODS.remove("mine")
    assert done.code == 2
    for word in words:
        assert word in done.err
    assert "defect" not in done.err


def test_an_unexpected_import_of_our_own_is_a_defect(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", ModuleNotFoundError("No module named 'x'", name="deltatune.x"))
    assert run("train", recipe, "-m", "untuned").code == 1
