"""Runs and comparisons that version 0.1 wrote: read, reported, used, gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deltatune.comparison.runner import compare
from deltatune.report import render
from deltatune.runs import evaluate_run, merge, predict
from deltatune.training import run
from deltatune.training.given.extend import extension, open_extension
from tests.fixtures.make_version_0_1 import place, recipe


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files with their base and rows."""
    return place(tmp_path_factory.mktemp("old") / "files")


@pytest.fixture
def old(placed: Path, tmp_path: Path) -> Path:
    """Copies of the runs, whose recipes name the base and the rows of the first."""
    for name in ("run", "paused", "comparison"):
        shutil.copytree(placed / name, tmp_path / name)
    return tmp_path


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_is_evaluated_and_predicts(old: Path) -> None:
    noted = content(old / "run/result.json")["metrics"]["test"]
    assert evaluate_run(old / "run") == pytest.approx(noted, rel=1e-4)
    [answer] = predict(old / "run", ["6 of the songs "])
    first = json.loads((old / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert answer.prediction == first["prediction"]


def test_a_run_is_merged(old: Path) -> None:
    merge(old / "run", old / "merged")
    lines = content(old / "merged/certificate.json")["lines"]
    assert [line["check"] for line in lines[:-1]] == [
        line["check"] for line in content(old / "run/certificate.json")["lines"]
    ]
    assert lines[-1]["passed"]


def test_a_finished_run_is_returned_as_it_is(old: Path, placed: Path) -> None:
    alone = recipe(placed, {"lora": {"r": 2}})
    before = (old / "run/result.json").read_bytes()
    run(alone, alone.methods[0], 0, old / "run", resume=True)
    assert (old / "run/result.json").read_bytes() == before


def test_a_paused_run_goes_on(old: Path, placed: Path) -> None:
    alone = recipe(placed, {"lora": {"r": 2}})
    run(alone, alone.methods[0], 0, old / "paused", resume=True)
    there, here = (content(old / name / "result.json") for name in ("run", "paused"))
    assert here["status"] == "done"
    assert here["metrics"]["validation"] == pytest.approx(there["metrics"]["validation"], rel=1e-4)
    assert [line["check"] for line in here["certificate"]] >= [line["check"] for line in there["certificate"]]


def test_a_run_is_extended(old: Path) -> None:
    longer = extension(old / "run", ["train.max_steps=2"])
    from deltatune.observer import Silent

    context = open_extension(longer, longer.methods[0], 0, Silent())
    run(longer, longer.methods[0], 0, old / "longer", context=context)
    result = content(old / "longer/result.json")
    assert result["cost"]["steps"] == 2
    assert result["from"]["path"] == str(old / "run")


@pytest.mark.parametrize("format", ["html", "md", "csv", "json", "svg"])
def test_a_comparison_is_reported(old: Path, format: str) -> None:
    text = render(old / "comparison", format)
    assert all(name in text for name in ("untuned", "lora", "prompt"))


def test_a_comparison_goes_on(old: Path, placed: Path) -> None:
    """A run that is missing is trained anew, what was chosen stays, and the rest is ranked as before."""
    several = recipe(placed, "untuned", {"lora": {"r": 2}}, "prompt", tune={"lr": [0.001, 0.01]})
    before = content(old / "comparison/leaderboard.json")
    (old / "comparison/leaderboard.json").unlink()
    shutil.rmtree(old / "comparison/runs/prompt--lr-0.01-s0")
    compare(several, old / "comparison")
    after = content(old / "comparison/leaderboard.json")
    for was, now in zip(before["rows"], after["rows"], strict=True):
        assert (was["name"], was["rank"], was["runs"]) == (now["name"], now["rank"], now["runs"])
        assert now["metrics"] == pytest.approx(was["metrics"], rel=1e-4)
        if was["name"] != "prompt":
            assert now["metrics"] == was["metrics"]
            assert now["interval"] == pytest.approx(was["interval"], rel=1e-3)
