"""Curves of rows and ranks: further runs beside the ranking, which is not touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.comparison.runner import compare
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import Curves, FailedRun
from deltatune.training.given.folder import read_result

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
