"""Comparisons over several data sets, from the recipe to the page, on tiny models."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

import deltatune as dt
from deltatune.cli.app import app
from deltatune.comparison.runner import compare
from deltatune.comparison.sets import compare_sets
from deltatune.errors import DataError, DeltatuneError, RecipeError
from deltatune.recipe import Recipe
from deltatune.recipe.data_sets import load_sets, parse_sets
from deltatune.report import render
from deltatune.results import SCHEMA, Across, Curve, CurvePoint, Curves, Leaderboard
from deltatune.sharing.pack import pack
from tests.compare.test_killed import without_measured
from tests.tiny_recipe import WORDS

NAMES = ("ships", "songs")


def content(model: Path, folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Data sets of unlike sizes and columns, whose targets are words of their inputs."""
    data = []
    for number, name in enumerate(names):
        column = "text" if number else "words"
        rows = [
            {column: f"{i} {name} of the {WORDS[(i + number) % 8]}", "title": WORDS[(i + number) % 8]}
            for i in range(24 + 8 * number)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        split = {"validation": 0.2, "test": 0.3}
        columns = {"input": column, "target": "title"}
        data.append({"source": str(path), "split": split, "columns": columns, "max_target_tokens": 16})
    return {
        "task": "text-to-text", "model": str(model), "data": data, "methods": ["untuned", "lora", "ia3"],
        "train": {"max_steps": 2, "batch_size": 8, "lr": 0.1, "precision": "fp32"},
        "evaluation": {"metrics": ["loss"]},
    }  # fmt: skip


def run(recipe: Recipe, folder: Path) -> Leaderboard:
    return compare(recipe, folder)


@pytest.fixture(scope="module")
def unpredicted_module() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.import_module("deltatune.training.single.begin"), "predicted_run", lambda *_: None
        )
        yield


@pytest.fixture(scope="module")
def given(t5_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(t5_folder, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def out(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, unpredicted_module: None) -> Path:
    """A comparison that was interrupted behind its first data set, and has gone on."""
    folder = tmp_path_factory.mktemp("out") / "all"
    sets = parse_sets(given)

    def interrupted(recipe: Recipe, place: Path) -> Leaderboard:
        if place.name == "songs":
            raise KeyboardInterrupt
        return compare(recipe, place)

    with pytest.raises(KeyboardInterrupt):
        compare_sets(sets, folder, interrupted)
    assert (folder / "sets/ships/leaderboard.json").exists()
    assert not (folder / "across.json").exists()
    compare_sets(sets, folder, run)
    return folder


@pytest.fixture
def result(out: Path) -> Across:
    return Across.of(json.loads((out / "across.json").read_text()), "it", remedy="")


def test_each_set_is_an_ordinary_comparison_and_its_scores_are_taken(out: Path, result: Across) -> None:
    assert [each.name for each in result.sets] == list(NAMES)
    for place, each in enumerate(result.sets):
        board = Leaderboard.of(
            json.loads((out / each.folder / "leaderboard.json").read_text()), "it", remedy=""
        )
        assert {row.name: (row.metrics or {})["loss"] for row in board.rows} == {
            row.name: row.on_sets[place].score for row in result.rows
        }
        assert (out / each.folder / "report.html").exists()


def test_losses_become_shares_of_the_way_from_the_untuned_base_to_the_best(result: Across) -> None:
    rows = {row.name: row for row in result.rows}
    assert result.yardstick == "untuned"
    assert [each.normalised for each in rows["untuned"].on_sets] == [0.0] * 2
    assert rows["untuned"].iqm is None  # it is the mark, and no contestant
    for place in range(2):
        zero, *scores = (rows[name].on_sets[place].score for name in ("untuned", "lora", "ia3"))
        assert zero is not None
        best = min(score for score in scores if score is not None)
        for name, score in zip(("lora", "ia3"), scores, strict=True):
            assert score is not None
            assert rows[name].on_sets[place].normalised == pytest.approx((zero - score) / (zero - best))
    cells = [each.normalised for each in rows["lora"].on_sets]
    assert rows["lora"].iqm == pytest.approx(stats.trim_mean(cells, 0.25))


def test_two_sets_tell_nothing_of_tasks_like_these(result: Across) -> None:
    assert result.critical is not None
    assert (result.critical.difference, result.critical.least) == (None, 6)
    assert "two data sets are too few, and six are the least" in result.answer
    assert all(pair.apart_on_tasks is None for pair in result.pairs)
    assert all(row.interval_on_tasks is None for row in result.rows)


@pytest.mark.slow
def test_called_again_all_is_finished_and_the_answer_the_same(
    out: Path, given: dict[str, Any], result: Across
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("sets/*/runs/*/result.json")}
    again = compare_sets(parse_sets(given), out, run)
    assert without_measured(again.as_dict()) == without_measured(result.as_dict())
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("sets/*/runs/*/result.json")}


def test_page_and_tables(out: Path, result: Across) -> None:
    page = (out / "report.html").read_text()
    assert 'href="sets/ships/report.html"' in page
    assert "Performance profile" in page
    assert "Mean rank" in page
    assert str(out) not in render(out, "json")
    lines = render(out, "csv").splitlines()
    assert len(lines) == 1 + 3 * 2
    assert result.answer.split(",")[0].replace("\u00a0", " ") in render(out, "md").replace("\u00a0", " ")
    with pytest.raises(DeltatuneError, match="several data sets"):
        render(out, "svg")


def test_what_takes_one_comparison_names_the_folders_of_the_sets(out: Path) -> None:
    with pytest.raises(DeltatuneError, match="several data sets") as caught:
        dt.open_board(out)
    assert "sets/NAME" in str(caught.value)
    with pytest.raises(DeltatuneError, match="several data sets") as caught:
        pack(out)
    assert "sets/NAME" in str(caught.value)
    assert len(dt.open_board(out / "sets/songs").rows) == 3


def test_a_folder_of_data_sets_is_no_comparisons_and_the_other_way_round(
    out: Path, given: dict[str, Any]
) -> None:
    sets = parse_sets(given)
    with pytest.raises(RecipeError, match="holds a comparison of data sets"):
        compare(sets["ships"], out)
    with pytest.raises(RecipeError, match="holds a comparison"):
        compare_sets(sets, out / "sets/ships", run)


def test_a_set_that_cannot_be_read_is_told_before_anything_is_trained(
    given: dict[str, Any], tmp_path: Path
) -> None:
    data = [given["data"][0], {**given["data"][1], "source": str(tmp_path / "none.jsonl")}]

    def never(recipe: Recipe, place: Path) -> Leaderboard:
        raise AssertionError

    with pytest.raises(DataError, match="data set none") as caught:
        compare_sets(parse_sets({**given, "data": data}), tmp_path / "out", never)
    assert "data set none" in caught.value.what


def test_a_point_of_a_curve_that_failed_on_a_set_is_no_success(
    given: dict[str, Any], result: Across, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = CurvePoint(at=6, asked=6, status="failed")
    curve = Curve(axis="rows", name="lora", method="lora", own=12, points=[point])
    drawn = Curves(schema_=SCHEMA, primary_metric="loss", higher_is_better=False, seeds=[0], curves=[curve])
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(given), encoding="utf-8")
    (out / "sets/songs").mkdir(parents=True)
    (out / "sets/songs/curve.json").write_text(json.dumps(drawn.as_dict()), encoding="utf-8")
    monkeypatch.setattr("deltatune.comparison.sets.compare_sets", lambda *_, **__: result)
    done = CliRunner().invoke(app, ["compare", str(recipe), "--out", str(out), "--json"])
    assert done.exit_code == 2
    assert "a curve failed on songs" in done.stderr
    told = json.loads(done.stdout)
    assert (told["answer"], told["curves"]["songs"]["seeds"]) == (result.answer, [0])
    done = CliRunner().invoke(app, ["compare", str(recipe), "--out", str(out)])
    assert re.search(r"Data set songs\n\nHow many rows\?\n.*rows", done.stdout)


def test_who_joins_has_the_same_data_sets(given: dict[str, Any], tmp_path: Path) -> None:
    """Else each would answer for sets of its own, and the file would say which came last."""

    def never(recipe: Recipe, place: Path) -> Leaderboard:
        raise AssertionError

    class Reached(Exception):
        pass

    def joined(recipe: Recipe, place: Path) -> Leaderboard:
        with pytest.raises(RecipeError, match="differs in data"):
            compare_sets(parse_sets({**given, "data": less}), tmp_path, never, join=True)
        raise Reached

    less = [{**data, "name": f"{number}"} for number, data in enumerate(given["data"])]
    with pytest.raises(Reached):
        compare_sets(parse_sets(given), tmp_path, joined, join=True)
    assert load_sets(tmp_path / "recipe.yaml") == parse_sets(given)


def test_sets_that_other_metrics_would_decide_on_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    plain = {"source": given["data"][0]["source"], "columns": {"input": "words", "target": None}}
    data = [given["data"][1], {**plain, "split": {}}]
    sets = parse_sets({
        **given, "task": "causal-lm", "data": data, "methods": ["lora"], "evaluation": {},
    })  # fmt: skip
    with pytest.raises(RecipeError, match="by one metric"):
        compare_sets(sets, tmp_path / "out", run)


def test_python_takes_sets_in_memory_and_says_where_one_is_wanted(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    rows = [{"input": f"a {word}", "target": word} for word in WORDS * 4]
    sets = dt.make_sets(given, data=[rows, {"source": rows[:30], "split": {}, "name": "less"}])
    assert list(sets) == ["set 1", "less"]
    assert list(dt.make_sets(given, data=rows)) == [""]
    with pytest.raises(RecipeError, match="has 2 data sets"):
        dt.compare(given, tmp_path / "out")
    with pytest.raises(RecipeError, match="is one data set"):
        dt.compare_sets({**given, "data": given["data"][0]}, tmp_path / "out")


@pytest.mark.slow
def test_a_failure_takes_the_method_out_and_a_set_may_be_added(
    given: dict[str, Any], tmp_path: Path, unpredicted_module: None
) -> None:
    """What failed is tried again, and the set that is added is trained beside those that are finished."""
    out = tmp_path / "out"

    def broken(recipe: Recipe, place: Path) -> Leaderboard:
        if place.name == "songs":
            with pytest.MonkeyPatch.context() as patch:
                from deltatune.methods.ia3 import Ia3Config

                def fail(*_: object, **__: object) -> None:
                    raise RecipeError("is broken here.")

                patch.setattr(Ia3Config, "build", fail)
                return compare(recipe, place)
        return compare(recipe, place)

    first = compare_sets(parse_sets(given), out, broken)
    assert "ia3 failed on songs" in first.answer
    assert [row.name for row in first.rows if row.iqm is not None] == ["lora"]
    more = content(Path(given["model"]), tmp_path, (*NAMES, "stars"))
    more["data"][:2] = given["data"]
    second = compare_sets(parse_sets(more), out, run)
    assert [each.name for each in second.sets] == [*NAMES, "stars"]
    assert {row.name for row in second.rows if row.iqm is not None} == {"lora", "ia3"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_and_an_uninterrupted_process_give_the_same_answer(
    given: dict[str, Any], tmp_path: Path, result: Across
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(given))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    found = {}
    for name, more in (("plain", []), ("workers", ["--workers", "2"])):
        command = [
            sys.executable,
            "-m",
            "deltatune",
            "compare",
            str(path),
            "--out",
            str(tmp_path / name),
            "--json",
        ]
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        found[name] = without_measured(json.loads(done.stdout))
    for each in (found["plain"], found["workers"], whole := without_measured(result.as_dict())):
        del each["warnings"]  # that processes shared the machine is one more
    assert found["plain"] == found["workers"] == whole
    assert list(load_sets(tmp_path / "plain/recipe.yaml")) == list(NAMES)


@pytest.mark.slow
def test_anew_clears_every_set(given: dict[str, Any], tmp_path: Path, unpredicted_module: None) -> None:
    out = tmp_path / "out"
    compare_sets(parse_sets(given), out, run)
    other = parse_sets({**given, "train": {**given["train"], "max_steps": 1}})
    with pytest.raises(RecipeError, match="data set ships"):
        compare_sets(other, out, run)

    def interrupted(recipe: Recipe, place: Path) -> Leaderboard:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_sets(other, out, interrupted, overwrite=True)
    assert not list(out.glob("sets/*/leaderboard.json"))
    assert not (out / "across.json").exists()  # nor the old answer, beside nothing
    assert not (out / "report.html").exists()
    assert compare_sets(other, out, run).answer
