"""`methods`, `schema`, `inspect` and `merge`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.data.bundled import BUNDLED_DATA
from deltatune.methods import METHODS
from deltatune.models.bundled import BUNDLED_MODELS
from deltatune.recipe import load_recipe
from deltatune.results import Certificate, CertifiedFolder
from deltatune.tasks import TASKS
from tests.cli.typed import merged, saved


def test_every_method_is_listed_with_its_idea(run: Callable) -> None:
    done = run("methods")
    assert done.code == 0, done.err
    for name in METHODS.names():
        assert f"{name} " in done.out
    listed = json.loads(run("methods", "--json").out)
    assert [each["name"] for each in listed] == METHODS.names()
    assert all(each["title"] for each in listed)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_setting_of_a_method_is_explained(run: Callable, name: str) -> None:
    explained = json.loads(run("methods", name, "--json").out)
    assert [setting["name"] for setting in explained["settings"]] == list(METHODS.get(name).model_fields)
    assert [s["name"] for s in explained["settings"] if len(s["description"]) < 10] == []
    text = run("methods", name).out
    assert explained["title"] in text
    for part in ("idea", "formula", "when", "cost", "learning rate", "defaults", "paper"):
        assert part in text


def test_lora_shows_defaults_as_a_recipe_would(run: Callable) -> None:
    lines = run("methods", "lora").out.splitlines()
    assert any(line.split()[:3] == ["r", "=", "8"] for line in lines)
    assert any("[query, value]" in line for line in lines)


@pytest.mark.parametrize("name", TASKS.names())
def test_the_recipe_to_begin_with_names_what_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TASKS.get(name).example, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.task == name
    assert str(recipe.model.name).removeprefix("bundled:") in BUNDLED_MODELS.names()
    source = str(recipe.data.source)
    assert source.removeprefix("bundled:") in BUNDLED_DATA.names() or not source.startswith("bundled:")


def test_the_matrix_has_every_method_and_architecture(run: Callable) -> None:
    done = run("methods", "--matrix")
    assert done.code == 0, done.err
    assert all(f"{name} " in done.out for name in METHODS.names())
    tables, _, reasons = done.out.partition("Checks of the contract")
    assert max(map(len, tables.splitlines())) <= 100  # the reasons are sentences, which a terminal wraps
    assert "refused by a TargetError" in reasons
    found = json.loads(run("methods", "lora", "--matrix", "--json").out)
    assert list(found) == ["lora"]
    assert {"t5", "deberta-v2", "clip", "mixtral"} <= set(found["lora"])
    assert found["lora"]["t5"]["passed"] > 40


def test_an_unknown_method_suggests_the_nearest(run: Callable) -> None:
    done = run("methods", "lorra")
    assert done.code == 2
    assert "Did you mean 'lora'?" in done.err


def test_schema_is_json_and_can_be_written(tmp_path: Path, run: Callable) -> None:
    printed = json.loads(run("schema").out)
    assert {"task", "model", "data", "methods", "train"} <= set(printed["properties"])
    file = tmp_path / "new" / "recipe.schema.json"
    assert run("schema", "--out", file).out.strip() == str(file)
    assert run("schema", "--out", tmp_path).code == 2, "a folder is no file"
    assert json.loads(file.read_text(encoding="utf-8")) == printed


def test_inspect_prints_what_is_found(run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.runs", "inspect", saved())
    done = run("inspect", "some/adapter")
    assert calls[0].arguments == (Path("some/adapter"),)
    assert "1,234" in done.out
    assert json.loads(run("inspect", "some/adapter", "--json").out)["loads_in_peft"] is True


def test_inspect_shows_the_certificate(run: Callable, fake: Callable) -> None:
    lines = [
        {"check": "every tap fired", "passed": True, "detail": "12 sites"},
        {"check": "base unchanged", "passed": False, "detail": "\x1b[31mab", "remedy": "Report it."},
    ]
    fake("deltatune.runs", "inspect", saved({"passed": False, "lines": lines}, certified=False))
    done = run("inspect", "some/run")
    assert done.code == 0, done.err
    assert "Certificate (of other tensors than these): FAILED" in done.out
    assert re.search(r"every tap fired +passed: 12 sites", done.out)
    assert re.search(r"base unchanged +FAILED: .*ab Report it\.", done.out)
    assert "\x1b" not in done.out
    proof = Certificate.model_validate({"passed": True, "lines": lines[:1]})
    fake("deltatune.runs", "inspect", CertifiedFolder(files="as they were written", certificate=proof))
    assert "Certificate: passed" in run("inspect", "some/run").out


def test_merge_reports_the_divergence(tmp_path: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.runs", "merge", merged())
    done = run("merge", "r", "--out", tmp_path / "m")
    assert calls[0].arguments == (Path("r"), tmp_path / "m")
    assert "1.5e-06" in done.out


def test_merge_takes_several_runs(tmp_path: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.runs", "merge", merged())
    assert run("merge", "a", "b", "--rule", "ties", "--weights", "1,0.5", "--out", tmp_path / "m").code == 0
    assert calls[0].arguments == (Path("a"), tmp_path / "m")
    combining = {"others": [Path("b")], "rule": "ties", "weights": [1.0, 0.5], "density": 0.2}
    assert combining.items() <= calls[0].options.items()
    for weights in ("half", "nan,1", "inf,1"):
        done = run("merge", "a", "b", "--weights", weights, "--out", tmp_path / "m")
        assert done.code == 2
        assert "no list of numbers" in done.err
    assert len(calls) == 1


@pytest.mark.parametrize("option", [("--weights", "0.5"), ("--rule", "ties"), ("--density", "0.3")])
def test_what_combines_runs_is_refused_for_one(
    tmp_path: Path, run: Callable, fake: Callable, option: tuple[str, str]
) -> None:
    calls = fake("deltatune.runs", "merge", merged())
    done = run("merge", "a", *option, "--out", tmp_path / "m")
    assert (done.code, calls) == (2, [])
    assert option[0] in done.err


def test_merge_spares_a_folder_with_content(tmp_path: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.runs", "merge", merged())
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    done = run("merge", "r", "--out", tmp_path)
    assert (done.code, calls) == (2, [])
    assert "exists and is not an empty folder" in done.err
    assert run("merge", "r", "--out", tmp_path, "--overwrite").code == 0
