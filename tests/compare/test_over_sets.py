"""Several data sets: aggregates, Friedman's test and critical differences, held to scipy and tables."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from deltatune.comparison.across import Finished, across
from deltatune.comparison.critical import friedman, judge, rank_on_sets, sets_that_could
from deltatune.comparison.over_sets import (
    JudgedSet,
    Marks,
    aggregate,
    compared,
    interquartile_mean,
    levels_of,
)
from deltatune.comparison.scores import Sample
from deltatune.comparison.statistics import intervals
from deltatune.results import Leaderboard

# Demsar 2006, table 6: AUC of C4.5 and of three variants on 14 data sets, and the mean ranks below it.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
DEMSAR[12, 2:] = 0.975, 0.9749  # printed alike, and ranked 2 and 3 there
MEAN_RANKS = [3.143, 2.000, 2.893, 1.964]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11, 30])
def test_interquartile_mean_is_scipys(count: int) -> None:
    cells = np.random.default_rng(count).normal(size=(6, count))
    assert interquartile_mean(cells) == pytest.approx(stats.trim_mean(cells, 0.25, axis=1))


def test_demsars_table_has_its_mean_ranks_and_is_told_apart_as_he_says() -> None:
    given = rank_on_sets(DEMSAR, higher_is_better=True)
    result = judge(given)
    assert result.means == pytest.approx(MEAN_RANKS, abs=5e-4)
    assert friedman(given) == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).statistic)
    # He finds chi^2 = 9.28 without the correction for ties, p < .05, and a critical difference of 1.25, which
    # no two mean ranks reach: 3.143 - 1.964 = 1.18.
    assert 0.01 < result.p < 0.05
    assert result.critical == pytest.approx(1.25, abs=0.08)
    assert not any(result.apart(a, b) for a, b in itertools.combinations(range(4), 2))


@pytest.mark.parametrize(
    ("methods", "sets", "statistic", "p"),
    [(3, 3, 6.0, 0.028), (3, 4, 6.5, 0.042), (3, 4, 8.0, 0.0046), (4, 2, 6.0, 0.042), (3, 5, 6.4, 0.039)],
)
def test_few_sets_have_the_exact_p_of_friedmans_table(
    methods: int, sets: int, statistic: float, p: float
) -> None:
    rows = itertools.product(itertools.permutations(range(1, methods + 1)), repeat=sets - 1)
    first = tuple(range(1, methods + 1))
    given = next(
        array
        for rest in rows
        if math.isclose(friedman(array := np.array([first, *rest], dtype=float)), statistic, abs_tol=0.01)
    )
    assert judge(given).p == pytest.approx(p, abs=0.004)


def test_many_sets_come_to_the_studentized_range_and_to_chi_square() -> None:
    random = np.random.default_rng(3)
    sets, methods = 120, 5
    scores = random.normal(size=(sets, methods)) + np.array([0.25, 0, 0, 0, 0])
    result = judge(rank_on_sets(scores, higher_is_better=True))
    limit = stats.studentized_range.ppf(0.95, methods, 1e6) / math.sqrt(2)
    assert result.critical == pytest.approx(limit * math.sqrt(methods * (methods + 1) / (6 * sets)), rel=0.03)
    assert result.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue, abs=0.01)


@pytest.mark.parametrize(("sets", "critical"), [(4, None), (5, None), (6, 1.0)])
def test_two_methods_take_six_sets_that_agree(sets: int, critical: float | None) -> None:
    """The sign test's: 2 / 2^n. The studentized range would be content with four."""
    assert judge(np.tile([1.0, 2.0], (sets, 1))).critical == critical
    assert (sets >= sets_that_could(2)) == (critical is not None)


def test_equal_scores_share_ranks_and_tell_nothing() -> None:
    given = rank_on_sets(np.ones((8, 3)), higher_is_better=False)
    result = judge(given)
    assert given.tolist() == [[2.0] * 3] * 8
    assert (result.statistic, result.p) == (0.0, 1.0)
    assert not result.apart(0, 1)


@pytest.mark.parametrize(
    ("scores", "yardstick", "up", "expected"),
    [
        ([0.7, 0.9], 0.5, True, [0.5, 1.0]),
        ([2.0, 1.0], 3.0, False, [0.5, 1.0]),  # a loss
        ([0.7, 0.9], None, True, [0.0, 1.0]),
        ([0.3, 0.4], 0.5, True, [-1.0, -0.5]),  # nothing beats the yardstick
        ([0.5, 0.5], 0.5, True, [0.0, 0.0]),
    ],
)
def test_marks(scores: list[float], yardstick: float | None, up: bool, expected: list[float]) -> None:
    marks = Marks.of(scores, yardstick, higher_is_better=up)
    assert marks(np.array(scores)).tolist() == pytest.approx(expected)


def judged(
    *means: float, rows: int = 150, seeds: int = 1, sets: int = 4, lift: float = 0.0
) -> list[JudgedSet]:
    """Data sets on which each method is right on about so large a share of the rows."""
    random = np.random.default_rng(11)
    found = []
    for number in range(sets):
        hard = random.random(rows)
        samples = [
            Sample.of((hard + 0.1 * random.normal(size=(seeds, rows)) < mean + lift * number).astype(float))
            for mean in means
        ]
        found.append(JudgedSet(samples, Marks(0.2, 0.9), number, resamples=1500))
    return found


def test_one_set_has_the_interval_of_its_leaderboard() -> None:
    [data_set] = judged(0.6, 0.7, sets=1)
    result = aggregate([data_set], 0, levels_of([data_set]))
    plain = intervals({"a": data_set.samples[0]}, resamples=1500)["a"]
    assert list(result.here) == pytest.approx([(end - 0.2) / 0.7 for end in plain], abs=0.01)
    assert result.on_tasks is None


def test_sets_that_differ_widen_what_is_said_of_tasks_like_these() -> None:
    alike, unlike = judged(0.6, 0.7, sets=5), judged(0.3, 0.4, sets=5, lift=0.12)
    for sets in (alike, unlike):
        result = aggregate(sets, 0, levels_of(sets))
        cells = np.concatenate([each.cells(0) for each in sets])
        assert result.iqm == pytest.approx(stats.trim_mean(cells, 0.25))
        assert result.here.low < result.iqm < result.here.high
        assert result.on_tasks is not None
        assert result.on_tasks.low < result.iqm < result.on_tasks.high
    wide, narrow = (aggregate(sets, 0, levels_of(sets)).on_tasks for sets in (unlike, alike))
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_profile_is_the_share_of_runs_above_each_level() -> None:
    sets = judged(0.6, 0.7, seeds=2)
    levels = levels_of(sets)
    result = aggregate(sets, 1, levels)
    cells = np.concatenate([each.cells(1) for each in sets])
    assert result.shares.tolist() == [(cells > level).mean() for level in levels]
    assert (result.lows <= result.highs).all()
    assert (np.diff(result.shares) <= 0).all()


def test_a_clear_difference_is_told_and_equal_methods_are_not() -> None:
    sets = judged(0.5, 0.8, 0.8)
    means = [aggregate(sets, i, levels_of(sets)).iqm for i in range(3)]
    pairs = {(pair.a, pair.b): pair for pair in compared(sets, means)}
    assert not pairs[0, 1].tie
    assert not pairs[0, 2].tie
    assert pairs[1, 2].tie
    assert pairs[0, 1].difference == pytest.approx(means[0] - means[1])
    assert pairs[0, 1].low < pairs[0, 1].difference < pairs[0, 1].high < 0


def finished(folder: Path, name: str, right: dict[str, float]) -> Finished:
    """A comparison on 60 rows of which each method has so large a share right."""
    rows = []
    for method, share in right.items():
        run = folder / name / "runs" / method
        run.mkdir(parents=True)
        lines = [
            {
                "id": str(i),
                "input": f"{i}",
                "reference": "a",
                "prediction": "a",
                "scores": {"accuracy": score},
            }
            for i, score in enumerate([1.0] * round(60 * share) + [0.0] * (60 - round(60 * share)))
        ]
        (run / "predictions.jsonl").write_text("\n".join(json.dumps({"schema": 1, **line}) for line in lines))
        rows.append({
            "name": method, "method": method, "status": "done", "seeds": [0], "runs": [f"runs/{method}"],
            "metrics": {"accuracy": share},
        })  # fmt: skip
    entries = [{"name": method} for method in ("untuned", "lora", "ia3")]
    board = {
        "primary_metric": "accuracy", "task": "text-to-text", "rows": rows, "recipe": {"methods": entries},
    }  # fmt: skip
    return Finished(name, folder / name, Leaderboard.of(board, "it", remedy=""))


def test_a_method_that_halving_stopped_on_a_set_is_shown_and_not_compared(tmp_path: Path) -> None:
    sets = [
        finished(tmp_path, "a", {"untuned": 0.2, "lora": 0.7, "ia3": 0.6}),
        finished(tmp_path, "b", {"untuned": 0.3, "lora": 0.8}),
    ]
    result = across(sets, {}, tmp_path)
    rows = {row.name: row for row in result.rows}
    assert [each.score for each in rows["ia3"].on_sets] == [0.6, None]
    assert rows["ia3"].iqm is None
    assert "ia3 was stopped early on b, so it is not compared." in result.warnings
    assert [each.normalised for each in rows["lora"].on_sets] == [1.0, 1.0]
    assert result.critical is None


@pytest.mark.slow
def test_equal_methods_are_seldom_told_apart_on_these_sets() -> None:
    """Alarms of 400 comparisons of three equal methods on three sets of 100 rows: at most 5 % and chance."""
    random, alarms = np.random.default_rng(5), 0
    for _ in range(400):
        sets = []
        for number in range(3):
            right = random.random(100)
            samples = [
                Sample.of((right + 0.3 * random.normal(size=(1, 100)) < 0.7).astype(float)) for _ in range(3)
            ]
            sets.append(JudgedSet(samples, Marks(0.2, 0.9), number, resamples=600))
        means = [float(interquartile_mean(np.concatenate([s.cells(i) for s in sets]))) for i in range(3)]
        alarms += any(not pair.tie for pair in compared(sets, means))
    assert alarms <= stats.binom.ppf(0.999, 400, 0.05)
