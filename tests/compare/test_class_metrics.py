"""Comparisons of classifiers by any of their metrics: intervals, tests, seeds and groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deltatune.comparison.ranked import RankedSample
from deltatune.comparison.runner import compare
from deltatune.comparison.scores import Sample, read_sample
from deltatune.comparison.statistics import bootstrap_interval, intervals, paired_bootstrap, pairwise
from deltatune.errors import DataError, RecipeError
from deltatune.evaluation.metrics.chances import BINS, calibration_error
from deltatune.evaluation.metrics.curves import CURVES
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.report import render
from deltatune.results import Leaderboard
from deltatune.tasks.classes import MORE_METRICS
from deltatune.training import Context, run

Make = Callable[..., Recipe]
AREA = CURVES["roc_auc"]


def two(rows: int = 120, gap: float = 1.0, seeds: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores [seeds, rows, 1] of a model that tells two classes apart by `gap`; and which are positive."""
    random = np.random.default_rng(seed)
    positive = np.arange(rows)[:, None] % 3 == 0
    return random.normal(0, 1, (seeds, rows, 1)) + gap * positive, positive


def test_an_area_is_resampled_as_its_definition_does_it_directly():
    a, positive = two(seed=1)
    b, _ = two(gap=1.4, seed=2)
    samples = {"a": RankedSample.of(a, positive, AREA), "b": RankedSample.of(b, positive, AREA)}
    random = np.random.default_rng(5)
    drawn = [random.integers(0, 120, 120) for _ in range(1500)]

    def area(scores: np.ndarray, rows: np.ndarray) -> float:
        values, flags = scores[0, rows, 0], positive[rows, 0]
        return float((values[flags][:, None] > values[~flags]).mean())

    areas = {name: np.array([area(scores, rows) for rows in drawn]) for name, scores in (("a", a), ("b", b))}
    whole = {name: roc_auc_score(positive[:, 0], scores[0, :, 0]) for name, scores in (("a", a), ("b", b))}
    for name, sample in samples.items():
        assert sample.mean() == pytest.approx(whole[name])
        around = whole[name] + (areas[name] - whole[name]) * np.sqrt(120 / 119)
        wanted = np.quantile(around, [0.025, 0.975])
        assert bootstrap_interval(sample, resamples=4000) == pytest.approx(wanted, abs=0.08 * np.ptp(wanted))
    gap = areas["a"] - areas["b"]
    found = paired_bootstrap(samples["a"], samples["b"], resamples=4000)
    wanted = np.quantile(whole["a"] - whole["b"] + (gap - gap.mean()) * np.sqrt(120 / 119), [0.025, 0.975])
    assert found.difference == pytest.approx(whole["a"] - whole["b"])
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.08 * np.ptp(wanted))
    without = np.delete(np.arange(120), 7)
    left_out = whole["a"] - roc_auc_score(positive[without, 0], a[0, without, 0])
    assert samples["a"].influence()[0, 7] == pytest.approx(left_out)


@pytest.mark.parametrize("key", list(CURVES))
def test_equal_models_are_rarely_told_apart_and_others_are(key):
    """Also where the two give their scores in other units, which is no difference between them."""
    alarms = 0
    for seed in range(40):
        a, positive = two(60, seed=2 * seed)
        b, _ = two(60, seed=2 * seed + 1)
        pair = (RankedSample.of(scores, positive, CURVES[key]) for scores in (a, 1000 * b + 7))
        alarms += paired_bootstrap(*pair, resamples=300).p < 0.05
    assert alarms <= 5
    good, positive = two(150, gap=2.5)
    samples = {
        n: RankedSample.of(s, positive, CURVES[key]) for n, s in (("a", good), ("b", two(150, 0.0)[0]))
    }
    (pair,) = pairwise(samples, resamples=400)
    assert not pair.tie
    same = paired_bootstrap(samples["a"], samples["a"], resamples=200)
    assert same == (0, 0, 0, 1)


def test_rows_of_one_input_are_drawn_together():
    scores, positive = two(60)
    rows = np.repeat(np.arange(60), 4)
    repeated = RankedSample.of(scores[:, rows], positive[rows], AREA)
    grouped = repeated.grouped(list(rows))
    assert (grouped.examples, grouped.rows_each) == (60, 4)
    assert grouped.mean() == pytest.approx(RankedSample.of(scores, positive, AREA).mean())
    alone = bootstrap_interval(RankedSample.of(scores, positive, AREA), resamples=1000)
    assert bootstrap_interval(grouped, resamples=1000) == pytest.approx(alone, abs=1e-9)
    narrow = bootstrap_interval(repeated, resamples=1000)
    assert narrow.high - narrow.low < 0.65 * (alone.high - alone.low)
    twice = grouped.grouped([0] * 30 + [1] * 30)
    assert (twice.examples, twice.groups[0], twice.groups[-1]) == (2, 0, 1)


def test_seeds_widen_an_area_as_they_do_other_scores():
    scores, positive = two(200, seeds=3)
    scores = scores + positive * np.array([-0.6, 0.0, 0.6])[:, None, None]
    spread = intervals({"a": RankedSample.of(scores, positive, AREA)}, resamples=600)["a"]
    alike = intervals({"a": RankedSample.of(scores[[1, 1, 1]], positive, AREA)}, resamples=600)["a"]
    assert spread.high - spread.low > 1.5 * (alike.high - alike.low)
    uneven = paired_bootstrap(
        RankedSample.of(scores, positive, AREA), RankedSample.of(scores[:1], positive, AREA), resamples=200
    )
    assert np.isfinite(uneven).all()


def test_no_draw_of_few_positive_rows_is_nan():
    """One resample in three has none of the one positive row."""
    positive = np.arange(20)[:, None] == 3
    for key, curve in CURVES.items():
        samples = {n: RankedSample.of(two(20, seed=s)[0], positive, curve) for s, n in enumerate("ab")}
        assert np.isfinite([*bootstrap_interval(samples["a"], resamples=300)]).all(), key
        assert np.isfinite(paired_bootstrap(samples["a"], samples["b"], resamples=300)).all()


def test_the_interval_of_a_biased_score_is_about_the_score():
    """Draws of a calibration error have its bias twice: their percentiles would lie above it."""
    random = np.random.default_rng(3)
    confidence = random.uniform(0.5, 1, 150)
    right = random.random(150) < confidence
    values = np.zeros((1, 150, BINS + 1))
    values[0, np.arange(150), np.minimum((confidence * BINS).astype(int), BINS - 1)] = right - confidence
    values[..., BINS] = 1
    low, high = bootstrap_interval(Sample(values, calibration_error, 0.0, 1.0, biased=True), resamples=2000)
    value = float(calibration_error(values[0].sum(axis=0)))
    assert low < value < high
    plain = bootstrap_interval(Sample(values, calibration_error, 0.0, 1.0), resamples=2000)
    assert plain.low > low
    assert plain.low + plain.high > low + high + 0.03


@pytest.fixture
def make(make_classifier: Make, tmp_path: Path) -> Make:
    """Recipes of two classes, `no` and `yes`, by default judged by all metrics."""
    path = tmp_path / "two.jsonl"
    lines = [
        {"id": str(i), "text": f"{i} {'medals' if i % 4 == 0 else 'ships'} " + "so " * (i % 3),
         "title": i % 4 == 0} for i in range(60)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = {
        "source": str(path), "columns": {"input": "text", "target": "title", "id": "id"},
        "split": {"validation": 0.2, "test": 0.4},
    }  # fmt: skip
    metrics = ["accuracy", "macro_f1", *MORE_METRICS, "loss"]

    def recipe(*overrides: str, **sections: Any) -> Recipe:
        evaluation = {"batch_size": 16, "metrics": metrics, "primary": "roc_auc", "select_by": "mcc"}
        return make_classifier(*overrides, **({"data": data, "evaluation": evaluation} | sections))

    return recipe


def test_a_comparison_by_each_metric(make: Make, tmp_path: Path) -> None:
    recipe = make("train.max_steps=3", methods=["lora"], baselines=True)
    out = tmp_path / "out"
    board = compare(recipe, out)
    assert board.primary_metric == "roc_auc"
    majority = next(row for row in board.rows if row.method == "majority")
    assert majority.metrics["roc_auc"] == 0.5
    assert majority.metrics["mcc"] == 0
    assert majority.metrics["sensitivity"] == 0
    assert majority.metrics["specificity"] == 1
    assert all(row.rank is not None and row.interval is not None for row in board.rows)
    result = json.loads((out / board.rows[0].runs[0] / "result.json").read_text(encoding="utf-8"))
    assert result["signatures"]["sensitivity"] == "positive:True"
    assert result["data"]["labels"] == ["False", "True"]
    assert "mcc" in result["metrics"]["validation"]
    files = {row.name: [out / folder / "predictions.jsonl" for folder in row.runs] for row in board.rows}
    for key in MORE_METRICS:  # any of them can be asked of what is written, and is what was written
        for row in board.rows:
            sample = read_sample(files[row.name], key, labels=["False", "True"])
            assert sample.mean() == pytest.approx(row.metrics[key], abs=1e-9), key
            assert sample.low <= sample.mean() <= sample.high
    assert json.loads((out / "leaderboard.json").read_text()) == Leaderboard.model_validate(board).as_dict()
    page = render(out)
    assert "ROC AUC" in page
    turned = make("evaluation.positive=false", "train.max_steps=3")
    other = run(turned, turned.methods[0], 0, tmp_path / "turned")
    assert other.signatures["sensitivity"] == "positive:False"
    for key, opposite in (("sensitivity", "specificity"), ("roc_auc", "roc_auc")):
        sample = read_sample([tmp_path / "turned/predictions.jsonl"], opposite, labels=["False", "True"])
        assert other.metrics.test[key] == pytest.approx(sample.mean())


def test_a_positive_class_is_one_of_two(make: Make, make_classifier: Make) -> None:
    with pytest.raises(DataError, match="Did you mean 'True'"):
        Context.open(make("evaluation.positive=Ture"), Silent())
    with pytest.raises(DataError, match="the data have 8"):
        Context.open(make_classifier("evaluation.positive=medals"), Silent())
    assert "positive" not in make().dump()["evaluation"]
    assert make("evaluation.positive=true").dump()["evaluation"]["positive"] == "True"
    with pytest.raises(RecipeError, match="is for other tasks"):
        make(evaluation={"metrics": ["pearson"]})
