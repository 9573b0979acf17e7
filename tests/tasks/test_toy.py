"""A task in a file of its own, registered by one line with nothing else touched, works everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from deltatune import registry
from deltatune.errors import RecipeError
from deltatune.recipe import json_schema
from deltatune.registry import Registry
from deltatune.tasks import TASKS
from tests.extending import module

STARS = module("stars").TASK
MODULE = "stars"


@pytest.fixture
def _registered() -> Iterator[None]:
    TASKS.add("stars", f"{MODULE}:TASK")
    yield
    TASKS.remove("stars")


@pytest.fixture
def recipe(bert_folder: Path, tmp_path: Path) -> Path:
    texts = ("one bad book", "two fair songs", "three good ships", "four great stars")
    rows = [{"text": texts[number % 4], "stars": f"{number % 4 + 1}"} for number in range(48)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = tmp_path / "stars.yaml"
    path.write_text(
        f"task: stars\nmodel: {bert_folder}\n"
        "data:\n  source: rows.jsonl\n  columns: {input: text, target: stars}\n"
        "  split: {validation: 0.2, test: 0.2}\n"
        "methods: [lora, full]\ntrain: {epochs: 2, batch_size: 4}\nbaselines: true\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.usefixtures("_registered")
def test_recipe_check_plan_compare_report_and_predict(recipe: Path, run: Callable, tmp_path: Path) -> None:
    assert "stars" in json_schema()["properties"]["task"]["enum"]
    assert "How many stars" in run("tasks", "stars").out
    checked = run("check", recipe, "--json")
    assert (checked.code, json.loads(checked.out)["task"]) == (0, "stars"), checked.err
    planned = run("plan", recipe)
    assert planned.code == 0, planned.err
    compared = run("compare", recipe, "--out", tmp_path / "out")
    assert compared.code == 0, compared.err
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text(encoding="utf-8"))
    assert {row["name"] for row in board["rows"]} == {"lora", "full", "majority", "head"}
    assert run("report", tmp_path / "out").code == 0
    predicted = run("predict", tmp_path / "out" / "runs" / "lora-s0", "one bad book", "--json")
    assert predicted.code == 0, predicted.err
    assert json.loads(predicted.out)["prediction"] in "1234"


@pytest.mark.usefixtures("_registered")
def test_its_loss_is_what_is_trained(recipe: Path, run: Callable, tmp_path: Path) -> None:
    done = run("train", recipe, "--set", "methods=[full]", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first = next(step["loss"] for line in lines if "loss" in (step := json.loads(line)))
    # Of four classes that are about as probable: 14 / 4 at the ends, 6 / 4 between.
    assert 1.2 < first < 3.8


def test_a_packages_task_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("comets", f"{MODULE}:TASK", "deltatune.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point] if group == point.group else [])
    found: Registry[object] = Registry("task", {"stars": "nowhere:TASK"}, group="deltatune.tasks")
    assert "comets" in found
    assert found.names() == ["stars", "comets"]
    assert type(found.get("comets")).__name__ == "Stars"


def test_a_package_that_cannot_be_imported_harms_no_other(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS._entries, "broken", "no_such_package:TASK")
    with pytest.raises(
        RecipeError, match=r"'broken' \(no_such_package:TASK\) cannot be imported: ModuleNotFo"
    ):
        TASKS.get("broken")
    with pytest.warns(UserWarning, match="'broken'"):
        listed = run("tasks")
    assert listed.code == 0
    assert "causal-lm" in listed.out
    explained = run("tasks", "broken")
    assert explained.code == 2
    assert "Mend the package that brings it" in explained.err.replace("\n", " ")
