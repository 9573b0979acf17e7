"""Comparisons: all methods, failures as rows, continuing, the same leaderboard after an interruption."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.checkpoint.saved import TENSORS
from deltatune.comparison.runner import compare
from deltatune.comparison.scores import row_ids
from deltatune.errors import DataError, DeltatuneError, RecipeError
from deltatune.recipe import Recipe
from deltatune.recipe.written import as_written
from deltatune.results import Leaderboard
from deltatune.training import run
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]
METHODS = ["untuned", "lora", {"lora": {"r": 2}, "name": "lora r2", "train": {"lr": 0.02}}, "prompt"]


def comparable(board: Leaderboard) -> dict[str, Any]:
    """A leaderboard without times and memory."""
    rows = [row.as_dict() for row in board.rows]
    for row in rows:
        row.pop("cost")
        row.pop("train_seconds", None)
        if row["tuning"]:
            row["tuning"].pop("train_seconds")
    return {"rows": rows, "pairs": board.pairs, "primary": board.primary_metric}


def test_every_method_is_a_row_with_rank_and_interval(make_recipe: Make, tmp_path: Path) -> None:
    started = time.perf_counter()
    board = compare(make_recipe("seeds=[0,1]", methods=METHODS), tmp_path / "out")
    wall = time.perf_counter() - started
    times = {phase.name: phase.seconds for phase in board.timeline}
    assert sum(times.values()) < wall  # the report comes behind it
    assert {"read data", "load base", "training", "validation", "test rows"} < times.keys()
    assert {row.name for row in board.rows} == {"untuned", "lora", "lora r2", "prompt"}
    assert all(row.rank >= 1 and len(row.runs) == 2 for row in board.rows)
    assert len(board.pairs) == 6
    for row in board.rows:
        low, high = row.interval
        assert low <= row.metrics["rougeL_f"] <= high
    assert json.loads((tmp_path / "out/leaderboard.json").read_text(encoding="utf-8")) == board.as_dict()
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "lora r2" in page
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("runs/*/result.json")}
    judged = compare(make_recipe("seeds=[0,1]", "worth=0.5", methods=METHODS), tmp_path / "out")
    assert trained == {path: path.stat().st_mtime_ns for path in trained}, "what is worth trains nothing"
    assert [(pair.p, pair.tie) for pair in judged.pairs] == [(pair.p, pair.tie) for pair in board.pairs]
    assert {pair.equivalent for pair in board.pairs} == {None}
    assert None not in {pair.equivalent for pair in judged.pairs}
    assert "shown to differ by less than" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_all_methods_see_the_same_batches(make_recipe: Make, tmp_path: Path) -> None:
    compare(make_recipe(methods=METHODS), tmp_path / "out")
    seen = []
    for name in ("lora", "lora-r2", "prompt"):
        log = (tmp_path / f"out/runs/{name}-s0/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [line for line in map(json.loads, log) if "lr" in line]
        seen.append([step["tokens"] for step in steps])
    assert len(seen[0]) == 8
    assert seen[0] == seen[1] == seen[2]


def test_a_method_that_fails_is_a_row_and_the_others_go_on(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=["untuned", {"lora": {"targets": ["qurey"]}, "name": "typo"}, "lora"])
    board = compare(recipe, tmp_path / "out")
    row = next(row for row in board.rows if row.name == "typo")
    assert row.status == "failed"
    assert row.rank is None
    assert "Did you mean 'query'" in row.error.message
    assert [r.status for r in board.rows if r.name != "typo"] == ["done", "done"]
    assert "Did you mean" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_an_interrupted_comparison_ends_as_an_undisturbed_one(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=METHODS)
    whole = compare(recipe, tmp_path / "whole")
    for steps in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            compare(recipe, tmp_path / "parts", observer=StopAfter(steps))
    parts = compare(recipe, tmp_path / "parts")
    assert comparable(parts) == comparable(whole)


def test_a_folder_of_another_recipe_is_refused(make_recipe: Make, tmp_path: Path) -> None:
    compare(make_recipe("train.max_steps=1"), tmp_path / "out")
    with pytest.raises(RecipeError, match="train"):
        compare(make_recipe("train.max_steps=2"), tmp_path / "out")


def test_starting_anew_removes_only_what_a_comparison_wrote(make_recipe: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(make_recipe("train.max_steps=1"), out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    before = (out / "leaderboard.json").read_bytes()
    with pytest.raises(DataError, match="nowhere"):  # what cannot begin costs nothing
        compare(make_recipe("data.template='{nowhere}'"), out, overwrite=True)
    assert (out / "leaderboard.json").read_bytes() == before
    board = compare(make_recipe("train.max_steps=2"), out, overwrite=True)
    assert max(row.cost.steps for row in board.rows) == 2
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_recipe_that_a_person_wrote_is_not_replaced(
    make_recipe: Make, tmp_path: Path, overwrite: bool
) -> None:
    recipe = make_recipe("train.max_steps=1")
    text = "# mine\n" + as_written(recipe.dump())
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="was not written by deltatune"):
        compare(recipe, tmp_path, overwrite=overwrite)
    with pytest.raises(RecipeError, match="was not written by deltatune"):
        run(recipe, recipe.methods[0], 0, tmp_path, overwrite=overwrite)
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == text


def test_without_test_rows_nothing_is_trained(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("data.split={validation: 0.2, test: 0}")
    with pytest.raises(DataError, match="no test rows"):
        compare(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


def test_a_recipe_that_cannot_begin_does_not_claim_the_folder(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        compare(make_recipe("data.template='{nowhere}'"), tmp_path / "out")
    compare(make_recipe("train.max_steps=1"), tmp_path / "out")


@pytest.mark.parametrize("metric", ["bleu", "chrf", "macro_f1"])
def test_corpus_metrics_give_intervals_pairs_and_ranks(
    make_recipe: Make, tmp_path: Path, metric: str
) -> None:
    recipe = make_recipe(f"evaluation.primary={metric}", methods=["untuned", "lora"])
    board = compare(recipe, tmp_path / "out")
    assert all(row.rank for row in board.rows)
    for row in board.rows:
        low, high = row.interval
        value = row.metrics[metric]
        assert low - 1e-9 <= value <= high + 1e-9
    (pair,) = board.pairs
    values = {row.name: row.metrics[metric] for row in board.rows}
    assert pair.difference == pytest.approx(values[pair.a] - values[pair.b])
    assert pair.tie or pair["examples_needed"] is None


def test_warnings_about_the_data_are_kept(make_recipe: Make, rows: Path, tmp_path: Path) -> None:
    lines = rows.read_text(encoding="utf-8").splitlines()
    again = [line.replace('"id": "', '"id": "again') for line in lines]
    rows.write_text("\n".join(lines + again), encoding="utf-8")
    board = compare(make_recipe("data.max_input_tokens=24", methods=["untuned"]), tmp_path / "out")
    result = json.loads((tmp_path / "out" / board.rows[0].runs[0] / "result.json").read_text())
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for words in (
        "have the same input as a training row",
        "test inputs are longer than data.max_input_tokens",
    ):
        assert any(words in text for text in board.warnings)
        assert any(words in text for text in result["data"]["warnings"])
        assert words in page
    lines = (tmp_path / "out" / board.rows[0].runs[0] / "predictions.jsonl").read_text().splitlines()
    inputs = len({json.loads(line)["group"] for line in lines})
    assert inputs < len(lines)  # the rows are there twice
    assert any(f"{len(lines)} test rows have {inputs} different inputs" in text for text in board.warnings)


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_losses_are_ranked_from_the_lowest(make_recipe: Make, tmp_path: Path, metric: str) -> None:
    recipe = make_recipe(f"evaluation.primary={metric}", "seeds=[0,1]", methods=["untuned", "lora"])
    board = compare(recipe, tmp_path / "out")
    assert [(row.name, row.rank) for row in board.rows] == [("lora", 1), ("untuned", 2)]
    for row in board.rows:
        low, high = row.interval
        assert low <= row.metrics[metric] <= high
    (pair,) = board.pairs
    assert not pair.tie
    values = {row.name: row.metrics[metric] for row in board.rows}
    assert pair.difference == pytest.approx(values[pair.a] - values[pair.b])
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "lora is best" in re.sub(r"<[^>]+>", "", page)


def test_runs_without_numbers_for_rows_are_sorted_only(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("evaluation.primary=loss", methods=["untuned", "lora"])
    compare(recipe, tmp_path / "out")
    for path in (tmp_path / "out/runs").glob("*/predictions.jsonl"):  # as an older version left them
        (path.parent / "manifest.json").unlink()
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        bare = [{key: value for key, value in row.items() if key not in ("nll", "tokens")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in bare), encoding="utf-8")
    board = compare(recipe, tmp_path / "out")
    assert [row.rank for row in board.rows] == [None, None]
    assert board.pairs == []


def test_data_that_changed_between_runs_are_refused(make_recipe: Make, rows: Path, tmp_path: Path) -> None:
    recipe = make_recipe(methods=["untuned", "lora"])
    compare(recipe, tmp_path / "out")
    (tmp_path / "out/runs/lora-s0/result.json").unlink()
    rows.write_text(rows.read_text(encoding="utf-8").replace("of the", "of all"), encoding="utf-8")
    with pytest.raises(DataError, match="have seen different data"):
        compare(recipe, tmp_path / "out")


RESULT, PREDICTIONS, DELTA = "result.json", "predictions.jsonl", f"adapter/{TENSORS}"


def shorten(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def first_row_only(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[0])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (RESULT, lambda path: shorten(path, 300), r"' cannot be read"),
        (RESULT, lambda path: path.write_text("{}"), r"' is no result"),
        (RESULT, lambda path: path.write_text('{"status": "done"}'), r"' lacks name"),
        (RESULT, lambda path: path.write_text("[1]"), r"' holds a JSON list"),
        (PREDICTIONS, Path.unlink, r"' cannot be read"),
        (PREDICTIONS, lambda path: shorten(path, 500), r", line \d: is no JSON"),
        (PREDICTIONS, lambda path: path.write_text("{}"), r", line 1: lacks"),
        (PREDICTIONS, first_row_only, r"' has 1 of 10 rows"),
        (DELTA, Path.unlink, r"'"),
        (DELTA, lambda path: shorten(path, 0), r"' is damaged"),
        (DELTA, flip, r"'.*checksum differs"),
    ],
)
def test_damage_is_found_before_training_and_mended_by_one_run(
    name: str, damage: Callable[[Path], Any], message: str, make_recipe: Make, tmp_path: Path
) -> None:
    recipe, out = make_recipe("train.max_steps=1", methods=["untuned", "lora"]), tmp_path / "out"
    whole = compare(recipe, out)
    damage(out / "runs/lora-s0" / name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DeltatuneError, match=name + message) as caught:
        compare(recipe, out)
    assert f"Remove the folder '{out / 'runs/lora-s0'}'" in str(caught.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shutil.rmtree(out / "runs/lora-s0")
    assert comparable(compare(recipe, out)) == comparable(whole)


def test_a_recipe_that_was_damaged_is_named(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned"])
    compare(recipe, tmp_path)
    for text in ("a: [", "- a"):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError, match=r"recipe\.yaml'.*--overwrite"):
            compare(recipe, tmp_path)


def test_an_untuned_model_has_no_delta_to_damage(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=["untuned"])
    compare(recipe, tmp_path)
    shutil.rmtree(tmp_path / "runs/untuned-s0/adapter")
    (tmp_path / "runs/untuned-s0/manifest.json").unlink()  # of version 0.1, which wrote no checksums
    compare(recipe, tmp_path)


def test_line_breaks_of_unicode_in_a_text_do_not_break_a_line(tmp_path: Path) -> None:
    row = {"id": "1", "input": "", "prediction": "one\u2028two\x85three", "reference": "one", "scores": {}}
    (tmp_path / PREDICTIONS).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert row_ids(tmp_path / PREDICTIONS) == ["1"]
