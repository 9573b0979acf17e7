"""Regression with several targets: each on a scale of its own, scored as scikit-learn scores them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from transformers import AutoConfig

import deltatune as dt
from deltatune.comparison.scores import read_sample
from deltatune.core.loss import loss_of
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.errors import DataError, RecipeError
from deltatune.evaluation import loss_on
from deltatune.evaluation.metrics.values import target_metrics
from deltatune.models.load import load_base
from deltatune.results import Prediction, RunResult, read_predictions
from deltatune.runs import evaluate_run
from deltatune.runs.load import load_run
from deltatune.tasks import TASKS
from deltatune.tasks.values import Scales, numbers_of, several_as_text
from deltatune.testing import task_checks

TASK = "text-regression"
PRICES = {"bad": 1000.0, "fair": 2500.0, "good": 4000.0, "great": 5500.0}


def works(count: int = 60) -> list[dict[str, Any]]:
    """Texts of which one word tells a price in thousands and a share below one, the other way round."""
    draw = random.Random(0)
    words = [list(PRICES)[number % 4] for number in range(count)]
    return [
        {
            "input": f"{number} {word} books",
            "price": round(PRICES[word] + draw.gauss(0, 20), 1),
            "share": round(1 - PRICES[word] / 6000 + draw.gauss(0, 0.01), 4),
        }
        for number, word in enumerate(words)
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def data_of(rows: Any, *columns: str, test: float = 0.2) -> dict[str, Any]:
    target = list(columns or ("price", "share"))
    return {"source": rows, "split": {"validation": 0.1, "test": test}, "columns": {"target": target}}


def recipe_of(model: Path, **changes: Any) -> dt.Recipe:
    sections: dict[str, Any] = {
        "task": TASK,
        "model": str(model),
        "data": data_of(works()),
        "methods": ["lora"],
        "train": {"max_steps": 6, "batch_size": 8, "precision": "fp32"},
    }
    return dt.make_recipe(**(sections | changes))


SLOW = (
    "methods_are_compared",
    "check_and_plan_know_it",
    "a_run_proves_itself",
    "evaluating_again_gives_the_same",
    "it_answers",
)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=str(check), marks=[pytest.mark.slow] * (check.name in SLOW))
        for check in task_checks(TASKS.get(TASK), data_of(works(40)))
    ],
)
def test_it_keeps_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def test_each_target_has_its_scale_and_the_loss_is_the_mean(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, TASK)
    assert isinstance(data.scale, Scales)
    assert data.labels == ["price", "share"]
    numbers = np.array([list(numbers_of(row.target).values()) for row in data.train])
    for column, scale in zip(numbers.T, data.scale.targets.values(), strict=True):
        assert (scale.mean, scale.sd) == (pytest.approx(column.mean()), pytest.approx(column.std()))
    base = load_base(recipe.model, TASK, data.labels)
    assert (base.model.config.num_labels, base.model.config.problem_type) == (2, "regression")
    encoder = Encoder(TASK, base.processor, recipe.data, base.labels, base.facts, data.scale)
    encoded = encoder.encode(data.train)
    batch = encoder.collate(encoded.features)
    standardised = torch.tensor((numbers - numbers.mean(0)) / numbers.std(0), dtype=torch.float32)
    torch.testing.assert_close(batch["labels"], standardised)
    with torch.no_grad():
        theirs = base.model(**{**batch, "labels": standardised}).loss.item()
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor).eval()
    assert loss_on(model, encoded, encoder, batch_size=7)["loss"] == pytest.approx(theirs, rel=1e-5)
    with torch.no_grad():
        summed = loss_of(TASK, *TASKS.get(TASK).logits(model, batch)).item()
    assert summed / len(data.train) == pytest.approx(theirs, rel=1e-5)


def test_metrics_are_those_of_scikit_learn_and_scipy() -> None:
    draw = np.random.default_rng(0)
    truth = np.stack([draw.normal(3000, 500, 40), draw.normal(0.5, 0.1, 40), draw.integers(0, 4, 40)], axis=1)
    guess = truth + draw.normal(0, 0.3, truth.shape) * truth.std(0)
    names = ["price", "share", "stars"]
    rows = [[dict(zip(names, row, strict=True)) for row in numbers.tolist()] for numbers in (guess, truth)]
    found = target_metrics(*rows)
    oracles = {"mse": mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}
    for key, oracle in oracles.items():
        assert found.values[key] == pytest.approx(oracle(truth, guess, multioutput="uniform_average"))
        each = oracle(truth, guess, multioutput="raw_values")
        assert [found.values[f"{key}[{name}]"] for name in names] == pytest.approx(list(each))
    for key, correlation in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        each = [correlation(guess[:, n], truth[:, n]).statistic for n in range(3)]
        assert [found.values[f"{key}[{name}]"] for name in names] == pytest.approx(each)
        assert found.values[key] == pytest.approx(np.mean(each))
    assert np.mean(found.examples["mae"]) == pytest.approx(found.values["mae"])


def test_resampled_corpora_score_as_scikit_learn_does(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    truth = np.stack([draw.normal(3000, 500, 30), draw.normal(0.5, 0.1, 30)], axis=1)
    guess = truth + draw.normal(0, 0.4, truth.shape) * truth.std(0)
    texts = [[several_as_text({"a": a, "b": b}) for a, b in numbers.tolist()] for numbers in (guess, truth)]
    lines = [Prediction(str(n), "x", t, g) for n, (g, t) in enumerate(zip(*texts, strict=True))]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line.as_dict()) + "\n" for line in lines), "utf-8")
    for key, oracle in (
        ("r2", r2_score),
        ("pearson", lambda t, g: np.mean([stats.pearsonr(t[:, n], g[:, n]).statistic for n in (0, 1)])),
    ):
        sample = read_sample([path], key)
        assert sample is not None
        assert sample.mean() == pytest.approx(oracle(truth, guess))
        drawn = draw.integers(0, 30, 30)
        sums = sample.values[0][drawn].sum(axis=0)
        assert sample.score(sums) == pytest.approx(oracle(truth[drawn], guess[drawn]))


def test_from_rows_to_predictions_in_the_datas_units(bert_folder: Path, tmp_path: Path) -> None:
    train = {"epochs": 8, "lr": 3e-3, "batch_size": 16}
    recipe = recipe_of(bert_folder, data=data_of(works(160)), methods=["full"], train=train)
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    metrics = result.metrics.test
    assert {"mae", "mae[price]", "mae[share]", "r2[price]", "r2[share]"} <= set(metrics)
    assert metrics["r2"] > 0.5, metrics
    assert metrics["r2"] == pytest.approx((metrics["r2[price]"] + metrics["r2[share]"]) / 2)
    assert metrics["mae[price]"] < 1200
    assert metrics["mae[share]"] < 0.25
    stored = RunResult.model_validate_json((tmp_path / "run/result.json").read_text("utf-8"))
    assert isinstance(stored.data.scale, Scales)
    assert list(stored.data.scale.targets) == ["price", "share"]
    for line in read_predictions(tmp_path / "run/predictions.jsonl", remedy=""):
        assert set(json.loads(line.prediction)) == set(json.loads(line.reference)) == {"price", "share"}
    assert evaluate_run(tmp_path / "run") == pytest.approx(metrics, rel=1e-5)
    answers = dt.predict(tmp_path / "run", [f"7 {word} books" for word in PRICES])
    told = [json.loads(answer.prediction) for answer in answers if isinstance(answer, Prediction)]
    assert told[3]["price"] - told[0]["price"] > 1000
    assert told[3]["share"] < told[0]["share"]
    assert load_run(tmp_path / "run").labels == ["price", "share"]
    dt.merge(tmp_path / "run", tmp_path / "merged")
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert list(config.id2label.values()) == ["price", "share"]
    assert config.target_mean == pytest.approx([s.mean for s in stored.data.scale.targets.values()])


Rows = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"share": "much"},
            "'much', which is no finite number",
        ),
        ({"share": None}, "empty target \\(column 'share'\\)"),
        ({"share": float("inf")}, "no finite number|Infinity"),
        ({"share": [1, 2]}, "no finite number"),
    ],
)
def test_each_target_must_be_a_number(bert_folder: Path, change: Any, says: str) -> None:
    rows = works(20)
    rows[3] |= change
    with pytest.raises(DataError, match=says):
        load_data(recipe_of(bert_folder, data=data_of(rows)).data, TASK)


def test_a_target_of_one_value_is_named(bert_folder: Path) -> None:
    rows = [{**row, "share": 1} for row in works(20)]
    with pytest.raises(DataError, match="are all 1: there is nothing to tell apart") as refused:
        load_data(recipe_of(bert_folder, data=data_of(rows)).data, TASK)
    assert "column 'share'" in str(refused.value)
    rows = [{key: value for key, value in row.items() if key != "share"} for row in works(20)]
    with pytest.raises(DataError, match="no column 'share'"):
        load_data(recipe_of(bert_folder, data=data_of(rows)).data, TASK)


def test_a_mean_of_unlike_units_is_warned_of(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    [said] = [text for text in load_data(recipe.data, TASK).warnings if "unlike spreads" in text]
    assert "so mse, a mean over them in their own units, is next to that of price alone" in said
    for primary, warned in (("mae", True), ("r2", False)):
        data = load_data(recipe.data, TASK, primary=primary)
        assert any("unlike spreads" in text for text in data.warnings) == warned
    rows = [{**row, "share": row["share"] * 5000} for row in works(20)]
    assert not any(
        "unlike" in text for text in load_data(recipe_of(bert_folder, data=data_of(rows)).data, TASK).warnings
    )


def test_one_name_in_a_list_is_one_target(bert_folder: Path) -> None:
    data = load_data(recipe_of(bert_folder, data=data_of(works(20), "price")).data, TASK)
    assert data.labels is None
    assert not isinstance(data.scale, Scales)
    assert float(data.train[0].target) > 900


def test_other_tasks_refuse_several(bert_folder: Path) -> None:
    with pytest.raises(RecipeError, match="names 2 columns, and text-classification has one target"):
        recipe_of(bert_folder, task="text-classification")
