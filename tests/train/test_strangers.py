"""A run that somebody else made: what its recipe asks for is not done unless the user says so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltatune.errors import AdapterError, DeltatuneError, RecipeError
from deltatune.recipe import Recipe
from deltatune.recipe.wanted import wanted
from deltatune.report.load import of_board
from deltatune.results import Leaderboard
from deltatune.runs import evaluate_run, merge, predict
from deltatune.training import run
from deltatune.training.given.extend import extension
from tests.cli.conftest import run as command

__all__ = ["command"]
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import T5Config, T5ForConditionalGeneration
class StrangeConfig(T5Config):
    model_type = "strange"
class Strange(T5ForConditionalGeneration):
    config_class = StrangeConfig
"""


@pytest.fixture
def stranger(
    tmp_path: Path, make_recipe: Callable[..., Recipe], t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run whose base lies in its folder, with code that leaves a mark when it is run."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    recipe = make_recipe("train.epochs=1")
    folder = tmp_path / "run"
    run(recipe, recipe.methods[0], 0, folder)
    base = folder / "base"
    shutil.copytree(t5_folder, base)
    config = json.loads((base / "config.json").read_text())
    maps = {"AutoConfig": "strange.StrangeConfig", "AutoModelForSeq2SeqLM": "strange.Strange"}
    (base / "config.json").write_text(json.dumps(config | {"model_type": "strange", "auto_map": maps}))
    (base / "strange.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    rewrite(folder, name="./base", trust_remote_code=True)
    return folder


def rewrite(folder: Path, **model: Any) -> None:
    """Change the model in the recipe of a run."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"model": model}))


USES: dict[str, Callable[..., object]] = {
    "predict": lambda folder, **options: list(predict(folder, ["1 of the ships"], **options)),
    "evaluate": evaluate_run,
    "merge": lambda folder, **options: merge(folder, folder.parent / "merged", **options),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_code_of_a_run_is_not_run_because_its_recipe_says_so(
    stranger: Path, tmp_path: Path, use: Callable[..., object]
) -> None:
    with pytest.raises(AdapterError, match=r"wants to run Python code.*came with the run") as refused:
        use(stranger)
    assert refused.value.field == "--trust-remote-code"
    assert not (tmp_path / "mark").exists()


def test_the_user_may_allow_it(stranger: Path, tmp_path: Path) -> None:
    list(predict(stranger, ["1 of the ships"], trust_remote_code=True))
    assert (tmp_path / "mark").exists()


def test_the_command_says_what_the_run_wants(stranger: Path, tmp_path: Path, command: Callable) -> None:
    done = command("predict", stranger, "1 of the ships")
    assert (done.code, done.out) == (2, "")
    assert "add --trust-remote-code" in done.err
    done = command("inspect", stranger)
    assert done.code == 0, done.err
    assert str(stranger / "base") in done.out
    wants = json.loads(command("inspect", stranger, "--json").out)["wants"]
    assert (wants["model"], wants["runs_code"]) == ("./base", True)
    assert "came with the run" in wants["loaded_from"]
    assert wants["reads"] == [str(tmp_path / "rows.jsonl")]
    assert not (tmp_path / "mark").exists()


def test_a_run_has_one_method_and_one_model(stranger: Path, tmp_path: Path, command: Callable) -> None:
    """A base that stands with the method would be one that no check of the run's model has seen."""
    content = yaml.safe_load((stranger / "recipe.yaml").read_text())
    (stranger / "manifest.json").unlink()
    [entry], evil = content["methods"], {"name": "./base", "trust_remote_code": True}
    content["model"]["trust_remote_code"] = False
    for methods in ([{**entry, "model": evil}], [entry, {"untuned": {}}]):
        (stranger / "recipe.yaml").write_text(yaml.safe_dump({**content, "methods": methods}))
        for use in (*USES.values(), extension):
            with pytest.raises(AdapterError, match=r"model of its own|has 2 methods"):
                use(stranger)
        assert "Put back the recipe" in " ".join(
            command("inspect", stranger).out.split()
        )  # wraps with the path
    assert not (tmp_path / "mark").exists()


@pytest.mark.filterwarnings("ignore:.*was changed since")
def test_a_recipe_that_is_a_pipe_is_refused(
    stranger: Path, make_recipe: Callable[..., Recipe], command: Callable
) -> None:
    (stranger / "recipe.yaml").unlink()
    os.mkfifo(stranger / "recipe.yaml")
    for use in USES.values():
        with pytest.raises(AdapterError, match="is no file"):
            use(stranger)
    assert "is no file" in " ".join(command("inspect", stranger).out.split())
    recipe = make_recipe("train.max_steps=1")
    with pytest.raises(RecipeError, match="a pipe or a device"):
        run(recipe, recipe.methods[0], 0, stranger, resume=True)


@pytest.mark.parametrize("name", ["../elsewhere", "./link", "./../run2/base"])
def test_a_relative_model_stays_within_the_folder_of_the_run(
    stranger: Path, t5_folder: Path, name: str, command: Callable
) -> None:
    (stranger / "link").symlink_to(t5_folder)
    rewrite(stranger, name=name)
    with pytest.raises(AdapterError, match="leads out of its folder"):
        list(predict(stranger, ["1 of the ships"]))
    done = command("inspect", stranger)
    assert done.code == 0
    assert "leads out of its folder" in " ".join(done.out.split())


def test_a_run_that_was_packed_with_its_base_works_anywhere(
    make_recipe: Callable[..., Recipe], t5_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe("train.epochs=1")
    folder = tmp_path / "run"
    run(recipe, recipe.methods[0], 0, folder)
    before = next(predict(folder, ["1 of the ships"])).prediction
    shutil.copytree(t5_folder, folder / "base")
    rewrite(folder, name="./base")
    moved = folder.rename(tmp_path / "moved")
    assert next(predict(moved, ["1 of the ships"])).prediction == before
    assert str(moved / "base") in wanted(moved).loaded_from


@pytest.mark.parametrize("name", ["/elsewhere/run", "../run", "runs/../../run", "a" * 300])
def test_a_report_reads_no_run_outside_of_its_comparison(name: str, tmp_path: Path) -> None:
    board = {"primary_metric": "loss", "rows": [{"name": "a", "runs": [name]}]}
    with pytest.raises(DeltatuneError, match=r"not within the folder|no folder can be called"):
        of_board(Leaderboard.of(board, "it", remedy=""), tmp_path)
