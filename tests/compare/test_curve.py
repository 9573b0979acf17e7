"""Curves of rows and ranks: further runs beside the ranking, which is not touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltatune.comparison.curve import try_rows
from deltatune.comparison.runner import compare
from deltatune.comparison.scores import row_ids
from deltatune.errors import DataError
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.curve_section import CurveSpec
from deltatune.results import Curves, FailedRun
from deltatune.training import Context
from deltatune.training.given.folder import read_result
from deltatune.training.given.split_contexts import every_context
from tests.compare.test_killed import finish, finished, in_training, kill

Make = Callable[..., Recipe]


class Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.stages: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def stage(self, text: str) -> None:
        self.stages.append(text)


def curves(out: Path) -> Curves:
    return Curves.of(json.loads((out / "curve.json").read_bytes()), "curve.json", remedy="")


def trained(told: Told) -> list[str]:
    return [stage for stage in told.stages if ", seed " in stage]


class Interrupting(Told):
    """Ends the comparison when this stage begins."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def stage(self, text: str) -> None:
        super().stage(text)
        if text == self.at:
            raise KeyboardInterrupt


SHORT = (
    "train.max_steps=2",
    "train.batch_size=8",
    "evaluation.metrics=[exact_match]",
    "evaluation.primary=loss",
)


def test_a_curve_is_added_to_a_comparison_that_is_done(make_recipe: Make, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", {"curve": {"rows": [6, 12, 99, "all"], "rank": [4]}}
    first = compare(make_recipe(*SHORT), out)
    assert not (out / "curve.json").exists()
    told = Interrupting("lora rows=12, seed 0")
    with pytest.raises(KeyboardInterrupt):
        compare(make_recipe(*SHORT, **asked), out, observer=told)
    assert trained(told) == ["lora, seed 0", "lora rows=6, seed 0", "lora rows=12, seed 0"]
    assert not (out / "curve.json").exists()
    assert (out / "report.html").exists()
    board = compare(make_recipe(*SHORT, **asked), out, observer=(told := Told()))
    assert [row.metrics for row in board.rows] == [row.metrics for row in first.rows]
    assert any("99 of 28 training rows is all of them" in warning for warning in told.warnings)

    by_rows, by_rank = curves(out).curves
    assert [(point.at, point.asked) for point in by_rows.points] == [(6, 6), (12, 12), (28, None)]
    assert [(point.at, point.asked) for point in by_rank.points] == [(4, 4), (8, None)]
    assert by_rows.points[0].runs == ["runs/lora--rows-6-s0"]
    assert by_rows.points[-1].runs == by_rank.points[-1].runs == board.rows[0].runs
    assert by_rows.points[-1].score == board.rows[0].metrics["loss"]  # type: ignore[index]
    assert by_rows.points[-1].interval == pytest.approx(board.rows[0].interval, abs=0.05)
    assert by_rows.law is None
    assert by_rows.last is not None
    assert by_rows.least in (6, 12, 28)
    small = json.loads((out / "runs/lora--rows-6-s0/result.json").read_bytes())
    assert (small["name"], small["data"]["train"], small["data"]["test"]) == ("lora rows=6", 6, 10)
    assert "How many rows?" in (out / "report.html").read_text(encoding="utf-8")

    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    compare(make_recipe(*SHORT, **asked), out)
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    compare(make_recipe(*SHORT), out)
    assert not (out / "curve.json").exists()


def test_a_point_that_fails_is_a_point_with_its_reason(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltatune.comparison import attempt as module

    def run(recipe: Recipe, entry: object, *arguments: object, **settings: object) -> object:
        if "rank" in entry.name:  # type: ignore[attr-defined]
            raise RuntimeError("the cat sat on it")
        return trains(recipe, entry, *arguments, **settings)  # type: ignore[arg-type]

    trains = module.run
    monkeypatch.setattr(module, "run", run)
    compare(make_recipe(*SHORT, curve={"rank": [2]}), tmp_path)
    [curve] = curves(tmp_path).curves
    assert [(point.at, point.status) for point in curve.points] == [(2, "failed"), (8, "done")]
    assert isinstance(read_result(tmp_path / curve.points[0].runs[0], remedy=""), FailedRun)
    assert curve.law is curve.last is curve.least is None
    assert "failed with rank 2: the cat sat on it" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "choosing", [{}, {"tune": {"lr": [0.003, 0.01]}, "halving": {"factor": 2, "among": "all"}}]
)
def test_killed_and_finished_by_workers_it_is_the_same(
    make_recipe: Make, tmp_path: Path, choosing: dict[str, Any]
) -> None:
    train = {"epochs": 3, "batch_size": 8} | ({} if choosing else {"lr": 0.01})
    asked = {"rows": [5, 10, 15, "all"], "rank": [2]}
    made = make_recipe(methods=["lora", "ia3"], train=train, seeds=[0, 1], curve=asked, **choosing)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(made.dump(), sort_keys=False), encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(recipe, whole)
    [by_rows, by_rank] = curves(whole).curves
    assert [point.at for point in by_rows.points] == [5, 10, 15, 28]
    assert all(point.status == "done" for point in [*by_rows.points, *by_rank.points])
    assert by_rows.law is not None
    assert len(json.loads((whole / "leaderboard.json").read_bytes())["rows"]) == (1 if choosing else 2)

    name = kill(recipe, parts, lambda run: "--rows-10-" in run.name and in_training(run), behind=3)
    kept = finished(parts)
    assert f"{name.rpartition('-s')[0]}-s0" == name
    command = [sys.executable, "-m", "deltatune", "compare", str(recipe), "--out", str(parts)]
    subprocess.run([*command, "--workers", "2", "--quiet"], check=True, timeout=600)
    assert kept.items() <= finished(parts).items()  # not run again
    assert (parts / "curve.json").read_bytes() == (whole / "curve.json").read_bytes()
    report = (parts / "report.html").read_text(encoding="utf-8")
    assert "How many rows?" in report
    assert "Which rank?" in report
    again = tmp_path / "alone"  # what a run's own recipe makes is the run
    run = whole / "runs" / name
    subprocess.run([*command[:3], "train", str(run / "recipe.yaml"), "--out", str(again)], check=True)
    for file in ("predictions.jsonl", "adapter/adapter_model.safetensors", "adapter/deltatune.json"):
        if (run / file).exists():
            assert (again / file).read_bytes() == (run / file).read_bytes()


@pytest.mark.slow
def test_groups_classes_and_runs_at_once(make_classifier: Make, rows: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    lines = [{**line, "id": f"{line['id']}.{copy}", "of": line["id"]} for line in lines for copy in range(2)]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    columns = {"input": "text", "target": "title", "id": "id", "group": "of"}
    changes = {"data.columns": columns, "together": 8, "seeds": [0, 1], "train.max_steps": 4}
    sets = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    told = Told()
    asked = {"rows": [3, 17, 32], "rank": [2, 4]}
    compare(make_classifier(*sets, methods=["lora"], curve=asked), tmp_path, observer=told)
    assert any("3 rows cannot hold each of 8 classes" in warning for warning in told.warnings)
    by_rows, by_rank = curves(tmp_path).curves
    assert [point.at for point in by_rows.points][:3] == [2, 16, 32]  # pairs of rows stay whole
    assert [point.status for point in [*by_rows.points, *by_rank.points]] == ["done"] * 7
    seen = json.loads((tmp_path / by_rows.points[1].runs[0] / "result.json").read_bytes())
    assert (seen["data"]["train"], len(seen["data"]["labels"])) == (16, 8)
    assert any(stage.startswith("2 at once: lora rank=2, seed 0") for stage in told.stages)


@pytest.mark.slow
def test_what_keeps_rows_and_trains_nothing_has_a_curve_of_rows(
    make_classifier: Make, tmp_path: Path
) -> None:
    asked = {"rows": [6, 12], "entries": ["knn"]}
    compare(make_classifier("train.max_steps=2", methods=["lora", "knn"], curve=asked), tmp_path)
    [curve] = curves(tmp_path).curves
    assert [(point.at, point.status, point.steps) for point in curve.points[:2]] == [
        (6, "done", 0),
        (12, "done", 0),
    ]
    assert curve.last is not None
    [kept] = [json.loads((tmp_path / run / "result.json").read_bytes()) for run in curve.points[0].runs]
    assert (kept["data"]["train"], kept["cost"]["trained_parameters"]) == (6, 0)


@pytest.mark.slow
def test_splits_of_their_own_keep_their_rows(make_recipe: Make, tmp_path: Path) -> None:
    asked = {"rows": [6, 12]}
    compare(make_recipe(*SHORT, "splits=2", "seeds=[0,1]", methods=["lora"], curve=asked), tmp_path)
    [curve] = curves(tmp_path).curves
    assert [(point.at, point.status) for point in curve.points] == [(6, "done"), (12, "done"), (28, "done")]
    assert curve.last is not None
    tested = [[row_ids(tmp_path / run / "predictions.jsonl") for run in point.runs] for point in curve.points]
    assert tested[0] == tested[1] == tested[2]
    assert tested[0][0] != tested[0][1]


def test_rows_that_have_changed_since_make_no_curve(make_recipe: Make, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(make_recipe(*SHORT), out)
    rows.write_text(rows.read_text(encoding="utf-8").replace("of the", "of all"), encoding="utf-8")
    assert compare(make_recipe(*SHORT), out).rows  # what is finished is returned to
    with pytest.raises(DataError, match="has seen other rows than there are now"):
        compare(make_recipe(*SHORT, curve={"rows": [6]}), out)
    assert not (out / "runs/lora--rows-6-s0").exists()


def test_parts_that_teach_no_numbers_are_told_before_anything_is_trained(
    make_classifier: Make, rows: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    lines = [{**line, "title": number % 2} for number, line in enumerate(lines)]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    recipe = make_classifier(task="text-regression", methods=["lora"], curve={"rows": [1, 6]})
    with pytest.raises(DataError, match=r"curve\.rows: \(1\) cannot be drawn with seed 0: the targets of 1"):
        compare(recipe, tmp_path / "out")
    assert not (tmp_path / "out/runs").exists()


def test_all_rows_are_those_of_each_seeds_split(make_recipe: Make, rows: Path) -> None:
    """Groups that are split anew leave more or fewer rows; a number that one seed does not have is none."""
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    lines = [{**line, "of": f"g{int(len(lines) ** 0.5 - number**0.5)}"} for number, line in enumerate(lines)]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    columns = {"input": "text", "target": "title", "id": "id", "group": "of"}
    recipe = make_recipe(f"data.columns={json.dumps(columns)}", splits=4, curve={"rows": [6]})
    context = Context.open(recipe, told := Told())
    there = [len(each.dataset.train) for each in every_context(context)]
    assert len(set(there)) > 1
    context.recipe = recipe.model_copy(update={"curve": CurveSpec(rows=[6, min(there)])})
    try_rows(context)
    assert any(f"{min(there)} of {min(there)} training rows" in warning for warning in told.warnings)
