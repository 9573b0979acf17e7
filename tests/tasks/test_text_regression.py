"""Regression: numbers are standardised inside, and in the data's units everywhere else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification

import deltatune as dt
from deltatune.core.loss import loss_of
from deltatune.core.model import AdaptedModel
from deltatune.data.checks import check_rows
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.data.rows import Row
from deltatune.errors import DeltatuneError, RecipeError
from deltatune.evaluation import loss_on
from deltatune.models.load import load_base
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import Prediction, RunResult, read_predictions
from deltatune.runs import evaluate_run
from deltatune.runs.load import load_run
from deltatune.tasks import TASKS
from deltatune.tasks.values import Scale
from deltatune.testing import task_checks
from deltatune.testing.folders import save_tiny
from deltatune.training import run as run_entry
from tests.train.test_run import StopAfter

PRICES = {"bad": 1000.0, "fair": 2500.0, "good": 4000.0, "great": 5500.0}


def priced(count: int = 60) -> list[dict[str, Any]]:
    """Texts of which one word tells the number, about 3,250 with a standard deviation of about 1,700."""
    draw = random.Random(0)
    words = [list(PRICES)[number % 4] for number in range(count)]
    return [
        {"input": f"{number} {word} books", "target": round(PRICES[word] + draw.gauss(0, 20), 1)}
        for number, word in enumerate(words)
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def recipe_of(model: Path, rows: Any = None, **changes: Any) -> Recipe:
    sections: dict[str, Any] = {
        "task": "text-regression",
        "model": str(model),
        "data": priced() if rows is None else rows,
        "methods": ["lora"],
        "train": {"max_steps": 8, "batch_size": 8, "precision": "fp32", "evaluate_every": 4},
    }
    return dt.make_recipe(**(sections | changes))


SLOW = {"methods_are_compared": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=str(check), marks=SLOW.get(check.name, []))
        for check in task_checks(TASKS.get("text-regression"), priced(40))
    ],
)
def test_it_keeps_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def test_the_loss_is_that_of_transformers_on_standardised_labels(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, recipe.task)
    assert data.scale is not None
    targets = torch.tensor([float(row.target) for row in data.train], dtype=torch.float64)
    assert data.scale.mean == pytest.approx(targets.mean().item(), rel=1e-12)
    assert data.scale.sd == pytest.approx(targets.std(unbiased=False).item(), rel=1e-12)

    base = load_base(recipe.model, recipe.task, None)
    assert (base.model.config.num_labels, base.model.config.problem_type) == (1, "regression")
    encoder = Encoder(recipe.task, base.processor, recipe.data, None, base.facts, data.scale)
    encoded = encoder.encode(data.train)
    batch = encoder.collate(encoded.features)
    standardised = ((targets - targets.mean()) / targets.std(unbiased=False)).float()
    torch.testing.assert_close(batch["labels"], standardised)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        theirs = base.model(**inputs, labels=standardised).loss.item()
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor).eval()
    found = loss_on(model, encoded, encoder, batch_size=7)
    assert found == {"loss": pytest.approx(theirs, rel=1e-5), "tokens": len(data.train)}
    with torch.no_grad():
        summed = loss_of(recipe.task, *TASKS.get(recipe.task).logits(model, batch)).item()
    assert summed / len(data.train) == pytest.approx(theirs, rel=1e-5)


def test_from_rows_to_predictions_in_the_datas_units(bert_folder: Path, tmp_path: Path) -> None:
    methods = [{"full": {}}]
    train = {"epochs": 10, "lr": 3e-3, "batch_size": 16}
    recipe = recipe_of(bert_folder, priced(160), methods=methods, train=train)
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    metrics = result.metrics.test
    assert set(metrics) == {"mse", "mae", "r2", "pearson", "spearman", "loss"}
    assert metrics["r2"] > 0.6, metrics
    assert metrics["mae"] < 1000
    scale = result.data.scale
    assert scale is not None
    assert metrics["mse"] == pytest.approx(metrics["loss"] * scale.sd**2, rel=1e-3)
    assert result.new_heads == ["classifier"]
    assert result.model.head == "new"

    lines = read_predictions(tmp_path / "run/predictions.jsonl", remedy="")
    for line in lines:
        error = float(line.prediction) - float(line.reference)
        assert line.scores == pytest.approx({"mse": error**2, "mae": abs(error)})
        assert line.nll == pytest.approx((error / scale.sd) ** 2, abs=1e-3)
        assert len(line.prediction) <= len("1234.5"), "more digits than a ten-thousandth of a deviation"
        assert (line.tokens, line.probabilities, line.stopped) == (1, None, None)
    assert evaluate_run(tmp_path / "run") == pytest.approx(metrics, rel=1e-5)
    answers = dt.predict(tmp_path / "run", [f"7 {word} books" for word in PRICES])
    told = [float(answer.prediction) for answer in answers if isinstance(answer, Prediction)]
    assert told[3] - told[0] > 1000
    assert all(0 < value < 7000 for value in told)


def test_two_methods_are_compared_with_intervals(bert_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(bert_folder, priced(100), methods=["untuned", "full"], evaluation={"primary": "r2"})
    board = dt.compare(recipe, tmp_path / "out", quiet=True)
    rows = {row.name: row for row in board.rows}
    assert set(rows) == {"untuned", "full", "head"}
    assert rows["untuned"].rank is None  # a random head
    for row in (rows["full"], rows["head"]):
        assert row.interval is not None
        assert row.metrics is not None
        low, high = row.interval
        assert low <= row.metrics["r2"] <= high <= 1
    [pair] = board.pairs
    assert {pair.a, pair.b} == {"full", "head"}
    assert pair.low <= pair.difference <= pair.high
    assert any("no head for such numbers" in text and "R2 of 0" in text for text in board.warnings)
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "R\u00b2" in page
    assert "onfusion" not in page


def test_an_interrupted_run_goes_on_bit_for_bit(bert_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(bert_folder)
    entry = recipe.methods[0]
    whole = run_entry(recipe, entry, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_entry(recipe, entry, 3, tmp_path / "parts", observer=StopAfter(5))
    rest = run_entry(recipe, entry, 3, tmp_path / "parts", resume=True)
    assert isinstance(whole, RunResult)
    assert isinstance(rest, RunResult)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert rest.metrics == whole.metrics
    assert rest.data.scale == whole.data.scale


class Warned(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_what_starts_from_it_or_stands_beside_it_is_held_to_its_units(
    bert_folder: Path, tmp_path: Path, run: Callable
) -> None:
    recipe = recipe_of(bert_folder)
    first = dt.train(recipe, tmp_path / "first", quiet=True)
    longer = run("train", "--extend", tmp_path / "first", "--out", tmp_path / "longer")
    assert longer.code == 0, longer.err
    assert load_run(tmp_path / "longer").encoder.scale == first.data.scale
    assert "standard deviation" not in longer.err

    dearer = [{**row, "target": row["target"] * 10} for row in priced()]
    other = recipe_of(bert_folder, dearer, methods=[{"lora": {}, "from": str(tmp_path / "first")}])
    said = Warned()
    run_entry(other, other.methods[0], 0, tmp_path / "other", observer=said)
    assert any("had a mean of" in text and "off by that until" in text for text in said.warnings)


def test_an_adapter_alone_needs_the_rows_that_say_its_units(
    bert_folder: Path, tmp_path: Path, run: Callable
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, priced())), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: text-regression\nmodel: {bert_folder}\ndata: {{source: {rows}, split: {{test: 0.1}}}}\n"
        "methods: [lora]\ntrain: {max_steps: 4}\n",
        encoding="utf-8",
    )
    assert run("train", recipe, "--out", tmp_path / "run").code == 0
    adapter = tmp_path / "run/adapter"
    adapter.rename(tmp_path / "adapter")
    asked = ("predict", tmp_path / "adapter", "--base", bert_folder, "7 good books")
    refused = run(*asked, "--task", "text-regression")
    assert refused.code == 2
    assert "in which units its numbers are" in refused.err
    known = run(*asked, "--recipe", recipe)
    assert known.code == 0, known.err
    assert -3000 < float(json.loads(known.out)["prediction"]) < 9000


@pytest.mark.parametrize(("outputs", "kept"), [(1, True), (3, False)])
def test_a_head_of_one_output_is_kept_and_any_other_is_new(tmp_path: Path, outputs: int, kept: bool) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=outputs)
    model.save_pretrained(folder)
    base = load_base(recipe_of(folder).model, "text-regression", None)
    assert base.model.get_submodule("classifier").out_features == 1
    same = kept and torch.equal(base.model.classifier.weight, model.classifier.weight)
    assert (same, base.new_modules) == ((True, []) if kept else (False, ["classifier"]))
    assert any("one output already and is kept" in text for text in base.warnings) == kept


def test_data_that_lack_a_scale_are_read_as_before() -> None:
    from deltatune.results import DataUsed

    old = {"fingerprint": "f", "labels": ["a", "b"], "warnings": []}
    assert DataUsed.of(old, "x", remedy="").as_dict() == old
    new = old | {"labels": None, "scale": {"mean": 2.5, "sd": 0.5}}
    assert DataUsed.of(new, "x", remedy="").scale == Scale(2.5, 0.5)
    assert DataUsed.of(new, "x", remedy="").as_dict() == new


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("about 3", "line 4, column 'target': has the target 'about 3', which is no finite number"),
        ("1,5", "'1,5', which is no finite number.*decimal point"),
        ("1_000", "'1_000', which is no finite number"),
        ("$12", r"'\$12', which is no finite number"),
        ("nan", "'nan', which is no finite number"),
        (float("inf"), "'inf', which is no finite number"),
        (10**400, "no finite number"),
        (True, "'True', which is no finite number"),
        ([1.0], r"'\[1.0\]', which is no finite number"),
        (None, "has an empty target"),
    ],
)
def test_what_is_no_number_is_named(bert_folder: Path, target: Any, told: str) -> None:
    rows = priced(20)
    rows[3]["target"] = target
    recipe = recipe_of(bert_folder, rows)
    with pytest.raises(DeltatuneError, match=told):
        load_data(recipe.data, recipe.task)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([0.1] * 20, "are all 0.1"),
        ([1e300, -1e300] * 10, "spread is no number"),
        ([5e-324, 0] * 10, "spread"),
    ],
)
def test_numbers_without_a_spread_are_refused(bert_folder: Path, targets: list[float], told: str) -> None:
    rows = [{**row, "target": target} for row, target in zip(priced(20), targets, strict=True)]
    recipe = recipe_of(bert_folder, rows)
    with pytest.raises(DeltatuneError, match=told):
        load_data(recipe.data, recipe.task)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"metrics": ["accuracy"]}},
        {"evaluation": {"primary": "rougeL_f"}},
        {"evaluation": {"select_by": "perplexity"}},
        {"task": "text-classification", "evaluation": {"primary": "pearson"}},
    ],
)
def test_metrics_of_other_targets_are_refused(bert_folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DeltatuneError, match="for other tasks"):
        recipe_of(bert_folder, **changes)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([*range(39), 1e9], "the target 1000000000 of training row 39 makes 97% of the variance of all 40"),
        ([-999, *range(39)], "the target -999 of training row 0 makes 97% of the variance of all 40"),
        ([*range(39), 60], None),
        ([0, 1] * 20, None),
    ],
)
def test_a_number_that_decides_everything_is_told(targets: list[float], told: str | None) -> None:
    rows = [Row(str(number), "x", str(float(target)), {}) for number, target in enumerate(targets)]
    found = check_rows(rows, [], [], numbers=True).warnings()
    spread = [text for text in found if "variance" in text]
    assert told in spread[0] if told else not spread, found


def test_held_out_numbers_that_are_far_from_those_that_are_learned_are_told() -> None:
    parts = [
        [Row(f"{part}{number}", f"{part} {number}", target, {}) for number, target in enumerate(targets)]
        for part, targets in (("a", ["0", "1", "2"]), ("b", ["1", "9"]), ("c", ["-1e308", "500", "1"]))
    ]
    [warning] = [text for text in check_rows(*parts, numbers=True).warnings() if "deviations" in text]
    assert "2 of 3 test rows have targets more than 10 standard deviations" in warning
    assert "(row c0: -1e+308)" in warning


def test_check_shows_how_numbers_are_spread(bert_folder: Path, tmp_path: Path) -> None:
    found = dt.check(recipe_of(bert_folder))
    assert found.numbers is not None
    train = found.numbers["train"]
    assert train.least < train.median < train.most
    assert found.classes is None


def test_numbers_are_no_classes_however_few_they_are(bert_folder: Path) -> None:
    rows = [{"input": f"{number} good books", "target": 1 + number % 2} for number in range(60)]
    shown = dt.check(recipe_of(bert_folder, rows), quiet=True).as_dict()
    assert shown["classes"] is None
    assert shown["majority"] is None
    assert shown["samples"][0]["tokens"][-1] in (
        {"text": "1", "supervised": True},
        {"text": "2", "supervised": True},
    )


def test_numbers_are_written_in_few_digits() -> None:
    for sd, value, told in ((1.2, 3.41237, 3.4124), (30, 1990.123456, 1990.123), (2e5, 123456.7, 123457)):
        assert Scale(0.0, sd).outside(value / sd) == pytest.approx(told, rel=1e-12)
    assert str(Scale(0.0, 1.0).outside(-1e-9)) == "0.0"
    assert Scale(5.0, 2.0).outside(Scale(5.0, 2.0).inside(7.25)) == 7.25


def test_a_recipe_may_minimise_the_absolute_error(bert_folder: Path, tmp_path: Path) -> None:
    outputs, targets = torch.randn(6, 1), torch.randn(6)
    chosen = loss_of("text-regression", outputs, targets, chosen="mae")
    torch.testing.assert_close(chosen, F.l1_loss(outputs[:, 0], targets, reduction="sum"))
    told = {}
    for loss in ("auto", "mae"):
        train = {"max_steps": 1, "batch_size": 8, "precision": "fp32", "loss": loss}
        recipe = recipe_of(bert_folder, train=train)
        run_entry(recipe, recipe.methods[0], 0, tmp_path / loss)
        lines = (tmp_path / loss / "metrics.jsonl").read_text("utf-8").splitlines()
        told[loss] = next(line["loss"] for line in map(json.loads, lines) if "lr" in line)
    assert told["auto"] != told["mae"]
    assert 0.2 < told["mae"] < 2.0  # of numbers in standard deviations
    with pytest.raises(RecipeError, match=r"train.loss.*\(huber\).*auto or mae"):
        recipe_of(bert_folder, train={"loss": "huber"})
    with pytest.raises(RecipeError, match=r"train.loss.*\(mae\) is no loss of causal-lm: write auto"):
        dt.make_recipe(task="causal-lm", model="gpt2", data="a.csv", methods=["lora"], train={"loss": "mae"})
