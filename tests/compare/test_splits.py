"""Splits of one pool of rows, one for each seed; settings that are chosen again on other validation rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deltatune.comparison.again import shares_of
from deltatune.comparison.chance import Chance
from deltatune.comparison.ranked import RankedSample
from deltatune.comparison.runner import compare
from deltatune.comparison.samples import side_by_side
from deltatune.comparison.scores import Sample
from deltatune.comparison.seeds import SeedSpread
from deltatune.comparison.statistics import intervals, paired_bootstrap
from deltatune.data.load import load_data
from deltatune.errors import DataError, DeltatuneError, RecipeError
from deltatune.evaluation.metrics.curves import CURVES
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.training import Context
from deltatune.training.given.split_contexts import every_context
from tests.compare.test_curve import Told
from tests.compare.test_runner import comparable
from tests.faults.test_damaged import empty, flip, truncate
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]


def test_each_seed_has_a_split_of_its_own(make_recipe: Make) -> None:
    recipe = make_recipe("splits=3")
    assert recipe.seeds == [0, 1, 2]
    assert make_recipe("splits=2", "seeds=[7,3]").split_of(3) == 1
    alone = [recipe.alone(recipe.methods[0], seed) for seed in recipe.seeds]
    assert [each.data.split.seed for each in alone] == [0, 1, 2]
    assert all(each.splits is None and each.seeds == [seed] for seed, each in enumerate(alone))
    assert "splits" not in make_recipe().dump()
    parts = [load_data(each.data, each.task) for each in alone]
    assert len({tuple(row.id for row in data.test) for data in parts}) == 3
    assert parts[0].fingerprint == load_data(make_recipe().data, "text-to-text").fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["splits=1"], "greater than or equal to 2"),
        (["splits=3", "seeds=[1,2]"], r"splits.*\(3\) and seeds \(2\)"),
        (
            ["splits=2", "data={train: a.jsonl, test: b.jsonl, split: {validation: 0.1}}"],
            "data.test names a file",
        ),
    ],
)
def test_splits_that_cannot_be_are_refused(make_recipe: Make, changes: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_recipe(*changes)


def test_test_rows_that_a_source_brings_cannot_be_drawn(make_recipe: Make, tmp_path: Path) -> None:
    arrays = {}
    for part, count in (("train", 20), ("test", 4)):
        arrays[f"{part}_images"] = np.random.default_rng(count).integers(
            0, 255, (count, 8, 8), dtype=np.uint8
        )
        arrays[f"{part}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "scans.npz", **arrays)
    data = {"source": str(tmp_path / "scans.npz"), "split": {"validation": 0.2}}
    evaluation = {"batch_size": 8}
    recipe = make_recipe("splits=2", task="image-classification", data=data, evaluation=evaluation)
    with pytest.raises(DataError, match=r"splits.*cannot draw test rows anew.* of its own, or too few"):
        every_context(Context.open(recipe, Silent()))


def pooled(parts: list[np.ndarray], places: list[list[int]]) -> Sample:
    count = max(max(at) for at in places) + 1
    present = np.zeros((len(parts), count), dtype=bool)
    for run, at in enumerate(places):
        present[run, at] = True
    samples = [Sample.of(part) for part in parts]
    return side_by_side(samples, [np.array(at) for at in places], Chance(present))


def test_rows_of_all_splits_side_by_side() -> None:
    parts = [np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])]
    sample = pooled(parts, [[0, 1, 2], [2, 3, 4]])
    assert sample.examples == 5
    assert sample.by_seed() == pytest.approx([2 / 3, 1 / 3])
    influence = sample.influence()
    assert (influence[0, 3:] == 0).all()
    assert influence[0, :3] == pytest.approx(Sample.of(parts[0]).influence()[0])
    joined = sample.grouped([0, 0, 1, 2, 2])
    assert joined.by_seed() == pytest.approx(sample.by_seed())
    assert joined.chance.present.tolist() == [[True, True, False], [False, True, True]]


def test_a_resample_without_a_row_of_some_split_is_no_resample() -> None:
    sample = pooled([np.array([1.0]), np.array([0.0])], [[0], [1]])
    (low, high), other = intervals({"a": sample, "b": sample}, resamples=200).values()
    assert np.isfinite([low, high, *other]).all()


def test_areas_are_of_each_splits_own_rows() -> None:
    """By scikit-learn, whatever stands in the places of rows that are not there."""
    random = np.random.default_rng(3)
    places = [np.arange(30), np.arange(20, 50)]
    truth = random.random(50) < 0.4
    scores = [random.normal(truth[at], 1) for at in places]
    parts = [
        RankedSample.of(each[None, :, None], truth[at][:, None], CURVES["roc_auc"])
        for each, at in zip(scores, places, strict=True)
    ]
    present = np.zeros((2, 50), dtype=bool)
    present[0, :30] = present[1, 20:] = True
    sample = side_by_side(parts, places, Chance(present))
    expected = [roc_auc_score(truth[at], each) for each, at in zip(scores, places, strict=True)]
    assert sample.by_seed() == pytest.approx(expected)
    other = replace(sample, scores=random.normal(sample.scores, 0.3))
    found = paired_bootstrap(sample, other, resamples=200)
    assert found.low <= found.difference <= found.high


def test_what_splits_differ_by_beyond_their_rows_is_spread() -> None:
    """Runs on different rows that differ by these alone have hardly any; what is added to each is seen."""
    random = np.random.default_rng(4)
    places = [list(range(start, start + 400)) for start in range(0, 2000, 200)]
    rows = random.normal(0, 0.3, 2200)
    alike, shifted = ([rows[at] + shift * number for number, at in enumerate(places)] for shift in (0, 0.01))
    of_rows = float(rows.var()) / 400
    spread = SeedSpread.of([pooled(alike, places), pooled(shifted, places)], 2000, 0)
    assert spread.variances.mean(axis=1)[0] == 0, "runs agree in all rows that they share"
    assert spread.variances.mean(axis=1)[1] == pytest.approx(0.01**2 * 55 / 6, rel=0.5)
    assert intervals({"a": pooled(alike, places)}, resamples=2000)["a"].high < 2 * np.sqrt(of_rows)


def test_a_row_or_two_do_not_tell_that_runs_are_the_same() -> None:
    parts = [np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0])]
    assert pooled(parts, [[0, 1, 2, 3], [3, 4, 5, 6]]).varies


def test_shares_of_draws_that_choose_a_candidate() -> None:
    random = np.random.default_rng(5)
    hard = random.gamma(2, 1, 200)
    close = hard + random.normal(0, 0.3, 200)
    losses = np.stack([hard, close - close.mean() + hard.mean(), hard + 1, np.full(200, np.nan)])
    shares = shares_of(losses, range(200))
    assert sum(shares) == 1
    assert shares[2:] == [0, 0]
    assert 0.4 < shares[0] < 0.6
    assert shares_of(losses[[0, 2]], [0] * 200) == [1, 0]  # one group


def test_choosing_widens_a_score_and_its_difference() -> None:
    random = np.random.default_rng(6)
    rows = random.normal(0.5, 0.1, 400)
    sure, unsure = Sample.of(rows), replace(Sample.of(rows), chance=Chance(again=((0.5, 0.4), (0.5, 0.5))))
    plain, wide = intervals({"sure": sure, "unsure": unsure}, resamples=2000).values()
    assert (wide.high - wide.low) - (plain.high - plain.low) == pytest.approx(0.1, rel=0.1)
    other = Sample.of(rows + random.normal(0.03, 0.05, 400))
    assert paired_bootstrap(other, sure, resamples=1000).p < 0.01
    assert paired_bootstrap(other, unsure, resamples=1000).p > 0.2


@pytest.fixture
def tuned(make_recipe: Make) -> Callable[[], Recipe]:
    """Two splits, and two rates that are nearly the same, so that other rows choose the other one."""
    changes = "splits=2", "tune={lr: [0.001, 0.00102]}", "train.lr=null", "train.checkpoint_every=1"
    return lambda: make_recipe(*changes, "train.max_steps=3", methods=["lora"])


def test_a_comparison_says_what_its_intervals_hold(tuned: Callable[[], Recipe], tmp_path: Path) -> None:
    board = compare(tuned(), tmp_path)
    assert (board.splits, board.choosing) == (2, True)
    [row] = board.rows
    assert row.interval
    again = row.tuning.again
    assert [each.label for each in again] == ["lr=0.001", "lr=0.00102"]
    assert sum(each.share for each in again) == pytest.approx(1)
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in row.runs]
    alone = [load_data(tuned().alone(tuned().methods[0], seed).data, "text-to-text") for seed in (0, 1)]
    assert [result["data"]["fingerprint"] for result in results] == [data.fingerprint for data in alone]
    page, journal = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "again.json"))
    assert "in each of 2 splits" in page
    assert "the choosing of settings" in page
    for damage in (truncate, flip, empty):
        (tmp_path / "again.json").write_text(journal, encoding="utf-8")
        damage(tmp_path / "again.json")
        with pytest.raises(DeltatuneError, match=r"again\.json"):  # states are gone: it cannot be made anew
            compare(tuned(), tmp_path)
    (tmp_path / "again.json").write_text(journal, encoding="utf-8")
    [lost] = [run for run in (tmp_path / "runs").iterdir() if f"runs/{run.name}" not in row.runs]
    (lost / "metrics.jsonl").write_text('{"step": 3, "valid', encoding="utf-8")  # of a disk that was full
    heard = Told()
    assert compare(tuned(), tmp_path, observer=heard).choosing is False
    assert any("metrics.jsonl" in warning for warning in heard.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(5,), (2, 2, 4), (7, 1)])
def test_interrupted_and_resumed_it_ends_as_it_would_have(
    tuned: Callable[[], Recipe], tmp_path: Path, stops: tuple[int, ...]
) -> None:
    whole = compare(tuned(), tmp_path / "whole")
    for steps in stops:
        with pytest.raises(KeyboardInterrupt):
            compare(tuned(), tmp_path / "parts", observer=StopAfter(steps))
    parts = compare(tuned(), tmp_path / "parts")
    assert comparable(parts) == comparable(whole)
    assert parts.rows[0].tuning.again == whole.rows[0].tuning.again
    assert comparable(compare(tuned(), tmp_path / "parts")) == comparable(whole)
