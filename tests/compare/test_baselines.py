"""Comparisons of classifiers: rows that are always there, one answer for all rows, tuned rates of heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deltatune.comparison.runner import compare
from deltatune.comparison.warnings import warnings_of
from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError
from deltatune.evaluation import Prediction
from deltatune.evaluation.monotony import FEW, one_answer
from deltatune.methods import METHODS
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.baselines import with_baselines
from deltatune.recipe.choosing import TuneSpec
from deltatune.recipe.rates import Course
from deltatune.recipe.train_section import HEAD_LR, TrainSpec
from deltatune.training.single import end

Make = Callable[..., Recipe]
LONG_RUN = Course(10_000, "text", 64)


def test_majority_and_head_stand_beside_the_entries(make_classifier: Make, tmp_path: Path) -> None:
    recipe = make_classifier("seeds=[0,1]", methods=["untuned", "lora"])
    board = compare(recipe, tmp_path / "out")
    rows = {row.name: row for row in board.rows}
    assert set(rows) == {"untuned", "lora", "majority", "head"}
    assert {row.status for row in rows.values()} == {"done"}
    assert rows["majority"].cost.trained_parameters == 0
    assert len(board.pairs) == 3
    assert rows["untuned"].random_head
    assert rows["untuned"].rank is None
    assert len(rows["untuned"].interval) == 2
    assert board.rows[-1].name == "untuned"
    [said] = [text for text in board.warnings if "random" in text]
    assert said.startswith("untuned: the base brings no head for these classes")
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "untuned (random head)" in page
    stored = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text(encoding="utf-8"))
    assert len(stored["methods"]) == 2
    again = compare(recipe, tmp_path / "out")  # as the file is, so that an older folder goes on
    assert {row.name for row in again.rows} == set(rows)


def test_only_what_is_missing_is_added(make_classifier: Make, bert_folder: Path, make_recipe: Make) -> None:
    names = [entry.name for entry in with_baselines(make_classifier(methods=["lora", "head"])).methods]
    assert names == ["lora", "head", "majority"]
    taken = make_classifier(methods=[{"lora": None, "name": "Head"}])
    assert [entry.name for entry in with_baselines(taken).methods] == ["Head", "majority", "head (baseline)"]
    off = make_classifier("baselines=false")
    assert with_baselines(off) == off
    assert parse_recipe(off.dump()) == off
    titles = make_recipe()
    assert with_baselines(titles) == titles
    two = make_classifier(model=[str(bert_folder), {"name": str(bert_folder), "attention": "eager"}])
    added = with_baselines(two).methods[2:]
    assert [entry.method for entry in added] == ["majority"] * 2 + ["head"] * 2
    assert len({entry.slug for entry in added}) == 4
    assert {entry.model for entry in added} == {None, two.methods[1].model}


def test_a_head_is_tuned_beside_the_rest(make_classifier: Make, tmp_path: Path) -> None:
    recipe = make_classifier("tune={lr: [1e-4, 1e-2], head_lr: [1e-3, 1e-1]}", methods=["untuned", "lora"])
    board = compare(recipe, tmp_path / "out")
    rows = {row.name: row for row in board.rows}
    tuning = rows["lora"].tuning
    assert [one.settings for one in tuning.tried] == [
        {"train.lr": lr, "train.head_lr": head} for lr in (1e-4, 1e-2) for head in (1e-3, 1e-1)
    ]
    assert set(tuning.chosen) == set(tuning.edges) == {"train.lr", "train.head_lr"}
    folder = tmp_path / "out" / rows["lora"].runs[0]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["rates"] == {
        "lr": tuning.chosen["train.lr"],
        "because": None,
        "head_lr": tuning.chosen["train.head_lr"],
    }
    assert [one.settings for one in rows["head"].tuning.tried] == [
        {"train.head_lr": 1e-3},
        {"train.head_lr": 1e-1},
    ]
    assert sum("best learning rate of the head" in text for text in board.warnings) == 2


def test_points_of_tuning() -> None:
    lora, head = METHODS.get("lora")(), METHODS.get("head")()
    three = TuneSpec(lr=3, factor=10)
    assert three.points(TrainSpec(), lora, LONG_RUN) == [
        {"train.lr": 1e-4},
        {"train.lr": 1e-3},
        {"train.lr": 1e-2},
    ]
    around = [{"train.head_lr": pytest.approx(HEAD_LR * factor)} for factor in (0.1, 1, 10)]
    assert three.points(TrainSpec(lr=5.0), head, LONG_RUN) == around
    assert TuneSpec(head_lr=[0.2, 0.1]).points(TrainSpec(), lora, LONG_RUN) == [
        {"train.head_lr": 0.1},
        {"train.head_lr": 0.2},
    ]
    assert TuneSpec(lr=2, head_lr=3).tries == 6


def test_wrong_tuning_is_refused(make_classifier: Make) -> None:
    for changes, words in (
        (["tune={}"], "lr or head_lr"),
        (["tune={head_lr: [0.1]}"], "at least two rates"),
        (["tune={head_lr: 2}", "grid={train.head_lr: [0.1]}"], "grid.train.head_lr"),
        (
            ["tune={head_lr: [0.1, 0.2]}", "methods.0={lora: {}, train: {head_lr: 0.5}}"],
            "methods.0.train.head_lr",
        ),
    ):
        with pytest.raises(RecipeError, match=words):
            make_classifier(*changes)


def said(references: str, predictions: str) -> str | None:
    pairs = zip(references, predictions, strict=True)
    return one_answer([Prediction(str(i), "", truth, guess, None) for i, (truth, guess) in enumerate(pairs)])


def test_one_answer_for_almost_all_rows_is_said() -> None:
    constant = said("a" * 70 + "b" * 30, "a" * 100)
    assert constant == "predicts 'a' for 100% of the test rows; it is right for 70% of them."
    assert said("a" * 97 + "b" * 3, "a" * 97 + "b" * 3) is None  # so they are
    assert said("a" * 50 + "b" * 50, "a" * 90 + "b" * 10) is None
    assert said("ab" * (FEW // 2 - 1), "a" * (FEW - 2)) is None  # too few to say so
    assert said("ab" * 50, "\0" * 100) is not None
    assert one_answer([Prediction(str(i), "", "x", "", None) for i in range(50)]) is None  # plain text


def test_a_method_that_tells_no_rows_apart_is_named(
    make_classifier: Make, tmp_path: Path, rows: Path
) -> None:
    lines: list[dict[str, Any]] = [
        {"id": str(i), "text": f"row {i}", "title": "yes" if i % 4 else "no"} for i in range(120)
    ]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    recipe = make_classifier("train.lr=1e-5", "train.head_lr=0.05", "train.max_steps=10", methods=["lora"])
    board = compare(recipe, tmp_path / "out")
    named = [text for text in board.warnings if "predicts 'yes' for 100%" in text]
    assert any(text.startswith("lora ") for text in named)
    assert not any(text.startswith("majority") for text in named)


def test_what_holds_of_all_splits_and_seeds_is_said_once() -> None:
    def run(seed: int, cut: int, answer: str, model: str = "t5-3b") -> Any:
        said = [f"{cut} of 96 training inputs are cut off.", f"{cut} rows are strange to {model}."]
        one_answer = f"predicts '{answer}' for 100% of the test rows; it is right for {50 + seed}% of them."
        data = SimpleNamespace(warnings=said)
        cost = SimpleNamespace(raced=1, joined=False)
        return SimpleNamespace(
            name="lora", seed=seed, one_answer=one_answer, data=data, cost=cost, budget=None, origin=None
        )

    runs = [run(0, 9, "no"), run(1, 12, "no", "t5-11b"), run(2, 9, "yes")]
    assert warnings_of([], runs, [0, 0, 1], 3) == [
        "9 of 96 training inputs are cut off. (So in other splits, with other numbers.)",
        "9 rows are strange to t5-3b.",
        "12 rows are strange to t5-11b.",
        "The 3 test rows of all splits have 2 different inputs. Rows with one input are not independent, so "
        "intervals and tests draw them together, as one example.",
        "lora (seed 0, and alike 1) predicts 'no' for 100% of the test rows; it is right for 50% of them.",
        "lora (seed 2) predicts 'yes' for 100% of the test rows; it is right for 52% of them.",
    ]


def test_what_trains_nothing_is_asked_once_for_all_seeds(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    evaluate = end.evaluate

    def noted(model: AdaptedModel, *rest: Any) -> Any:
        asked.append(model.configs[model.active[0]].name)
        return evaluate(model, *rest)

    monkeypatch.setattr(end, "evaluate", noted)
    drawn = {"few_shot": {"k": 1}}  # with each seed others
    evaluation = {"max_new_tokens": 2, "metrics": ["rouge"], "primary": "rougeL_f"}
    compare(make_recipe("seeds=[0,1]", methods=["untuned", drawn], evaluation=evaluation), tmp_path / "out")
    assert sorted(asked) == ["few_shot", "few_shot", "untuned"]
    first, second = (_told(tmp_path / f"out/runs/untuned-s{seed}") for seed in (0, 1))
    assert first == second


def _told(run: Path) -> str:
    return (run / "predictions.jsonl").read_text(encoding="utf-8")
