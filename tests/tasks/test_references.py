"""Several references from a file to the report: learned one by one, one row of statistics for an input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deltatune as dt
from deltatune.data.load import load_data
from deltatune.results import read_predictions
from deltatune.runs import evaluate_run
from tests.cli.conftest import Outcome
from tests.tiny_recipe import WORDS, t5_folder

__all__ = ["t5_folder"]

Run = Callable[..., Outcome]


def described(count: int = 32) -> list[dict[str, Any]]:
    """Inputs that are described in one, two or three ways."""
    return [
        {
            "input": f"{n} {WORDS[n % 8]}",
            "target": [f"{w} {WORDS[n % 8]}" for w in ("a", "some", "few")[: 1 + n % 3]],
        }
        for n in range(count)
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def recipe_of(model: Path, **changes: Any) -> dt.Recipe:
    sections: dict[str, Any] = {
        "task": "text-to-text",
        "model": str(model),
        "data": {"source": described(), "split": {"validation": 0.1, "test": 0.3}},
        "methods": ["untuned", "lora"],
        "train": {"max_steps": 3, "batch_size": 8, "precision": "fp32"},
        "evaluation": {"max_new_tokens": 4, "primary": "bleu"},
    }
    return dt.make_recipe(**(sections | changes))


def test_from_lists_to_a_report(t5_folder: Path, tmp_path: Path, run: Run) -> None:
    recipe, out = recipe_of(t5_folder), tmp_path / "out"
    data = load_data(recipe.data, recipe.task)
    assert data.references is not None
    board = dt.compare(recipe, out, quiet=True)
    folder = out / "runs/lora-s0"
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["data"]["train"] == data.references["train"][1] == len(data.train)
    assert result["data"]["test"] == data.references["test"][0] == len(data.test)
    assert "nrefs:" in result["signatures"]["bleu"]
    lines = read_predictions(folder / "predictions.jsonl", remedy="")
    known = {row["input"]: row["target"] for row in described()}
    assert [(line.references or [line.reference]) for line in lines] == [known[line.input] for line in lines]
    assert evaluate_run(folder) == pytest.approx(result["metrics"]["test"], rel=1e-5)
    assert {row.name for row in board.rows} == {"untuned", "lora"}
    assert all(row.interval is not None for row in board.rows)
    several = next(line for line in lines if line.references and len(line.references) == 3)
    page = (out / "report.html").read_text("utf-8")
    assert "Reference 3" in page
    assert all(text in page for text in several.references or [])


def test_check_counts_them(t5_folder: Path, tmp_path: Path, run: Run) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in described()), "utf-8")
    recipe = {
        "task": "text-to-text",
        "model": str(t5_folder),
        "data": {"source": str(rows), "split": {"validation": 0.25, "test": 0.25}},
        "methods": ["lora"],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    found = json.loads(run("check", tmp_path / "recipe.yaml", "--json").out)
    inputs, references = found["references"]["train"]
    assert inputs == 16
    assert found["rows"]["train"] == references > inputs
    assert found["repeated_training_rows"] == 0
    shown = run("check", tmp_path / "recipe.yaml").out
    assert f"train {references} for 16 inputs" in shown
