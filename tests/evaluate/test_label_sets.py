"""Metrics of sets of labels: equal to scikit-learn, on all rows and on resampled ones; and the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from deltatune.comparison.scores import corpus_sample, label_set_sample
from deltatune.comparison.statistics import intervals, pairwise
from deltatune.evaluation import label_set_metric, label_set_metrics
from deltatune.evaluation.kinds.label_sets import HALF, best_threshold, written
from deltatune.evaluation.metrics import METRICS, Scores, corpus_metric
from deltatune.results import Prediction
from deltatune.tasks.label_sets import METRICS as NAMES
from deltatune.tasks.label_sets import as_text

LABELS = ["a", "b", "c, d", "e"]
CELLS = st.lists(
    st.tuples(*[st.tuples(st.booleans(), st.integers(0, 5)) for _ in LABELS]), min_size=2, max_size=30
)


def sets(flags: np.ndarray) -> list[list[str]]:
    return [[label for label, holds in zip(LABELS, row, strict=True) if holds] for row in flags]


def mean_f1(truth: np.ndarray, given_: np.ndarray) -> float:
    """Over labels; by columns, since scikit-learn takes one column for two classes."""
    pairs = zip(truth.T, given_.T, strict=True)
    return float(np.mean([f1_score(*pair, zero_division=0) for pair in pairs] or [0.0]))


@settings(max_examples=20, deadline=None)
@given(CELLS, st.randoms())
def test_they_are_those_of_scikit_learn(cells, random) -> None:
    truth = np.array([[cell[0] for cell in row] for row in cells])
    chances = np.array([[cell[1] / 5 for cell in row] for row in cells])
    chosen = chances >= 0.5
    found = label_set_metrics(sets(chosen), sets(truth), chances, LABELS)
    assert set(found.values) == set(NAMES)
    assert found.values["micro_f1"] == pytest.approx(
        f1_score(truth, chosen, average="micro", zero_division=0)
    )
    there = (truth | chosen).any(axis=0)
    expected = mean_f1(truth[:, there], chosen[:, there])
    assert found.values["macro_f1"] == pytest.approx(expected)
    held = truth.any(axis=0)
    if held.any():
        expected = average_precision_score(truth[:, held], chances[:, held], average="macro")
        assert found.values["average_precision"] == pytest.approx(expected)
    assert found.values["exact_match"] == pytest.approx((truth == chosen).all(axis=1).mean())

    drawn = [random.randrange(len(cells)) for _ in cells]
    texts = [[*map(as_text, sets(flags))] for flags in (chosen, truth)]
    true, given_ = truth[drawn], chosen[drawn]
    kept = (true | given_).any(axis=0)
    micro = f1_score(true, given_, average="micro", zero_division=0)
    for key, expected in (("micro_f1", micro), ("macro_f1", mean_f1(true[:, kept], given_[:, kept]))):
        metric = corpus_metric(key, "label_sets")
        assert metric is not None
        value = metric.score(metric.statistics(*texts, LABELS)[drawn].sum(axis=0))
        assert value == pytest.approx(expected), key


def test_a_label_that_no_model_knows_is_missed() -> None:
    given_, true = [["a"], ["a"]], [["a", "new"], ["a"]]
    found = label_set_metrics(given_, true, np.array([[0.9, 0, 0, 0], [0.9, 0, 0, 0]]), LABELS).values
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 + 3))
    assert found["macro_f1"] == pytest.approx((1 + 0) / 2)
    assert found["average_precision"] == pytest.approx((1 + 0.5) / 2), "any order of the rows is as good"
    assert found["exact_match"] == 0.5
    empty = label_set_metrics([[], []], [[], []], np.zeros((2, 4)), LABELS).values
    assert empty == {"micro_f1": 0.0, "macro_f1": 0.0, "average_precision": 0.0, "exact_match": 1.0}


@settings(max_examples=20, deadline=None)
@given(CELLS)
def test_no_other_threshold_has_a_higher_f1(cells) -> None:
    truth = np.array([[cell[0] for cell in row] for row in cells])
    chances = np.array([[cell[1] / 5 for cell in row] for row in cells])
    threshold = best_threshold(chances, truth)
    if not truth.any():
        assert threshold == HALF
        return
    assert 0 <= threshold < 1
    assert threshold not in chances or threshold == 0.0, "between two probabilities"
    tried = [
        f1_score(truth, chances >= limit, average="micro", zero_division=0) for limit in np.unique(chances)
    ]
    assert f1_score(truth, chances >= threshold, average="micro") == pytest.approx(max(tried))


def test_probabilities_are_written_in_few_digits_and_keep_their_order() -> None:
    odds = np.array([[-30.0, -14.1234567, -0.1, 0.0, 3.3, 16.1, 16.2, 25.0]])
    found = written(1 / (1 + np.exp(-odds)))
    assert (np.diff(found) > 0).all()
    assert all(len(repr(value)) <= 20 for value in found[0].tolist()), found.tolist()
    assert found[0, 4] == 0.9644288
    assert found[0, 3] == 0.5


def lines(chances: np.ndarray, truth: np.ndarray) -> list[Prediction]:
    return [
        Prediction(
            str(row),
            f"text {row}",
            as_text(sets(true[None])[0]),
            as_text(sets((given_ >= 0.5)[None])[0]),
            probabilities=dict(zip(LABELS, given_.tolist(), strict=True)),
        )
        for row, (given_, true) in enumerate(zip(chances, truth, strict=True))
    ]


@pytest.mark.parametrize("key", ["micro_f1", "macro_f1", "average_precision"])
def test_two_models_are_told_apart_by_rows(key: str) -> None:
    draw = np.random.default_rng(0)
    odds = draw.normal(-1, 2, (200, len(LABELS)))
    truth = draw.random(odds.shape) < 1 / (1 + np.exp(-odds))
    models = {
        name: 1 / (1 + np.exp(-odds - draw.normal(0, noise, odds.shape)))
        for name, noise in zip("abc", (0.1, 5, 5), strict=True)
    }
    samples = {}
    for name, chances in models.items():
        rows = lines(chances, truth)
        if key == "average_precision":
            samples[name] = label_set_sample(key, [rows], LABELS)
        else:
            texts = [row.prediction for row in rows]
            samples[name] = corpus_sample(key, [texts], [row.reference for row in rows], LABELS, "label_sets")
        wanted = label_set_metrics(sets(chances >= 0.5), sets(truth), chances, LABELS).values[key]
        assert samples[name].mean() == pytest.approx(wanted)
    bounds = intervals(samples, resamples=1000)
    for name, sample in samples.items():
        assert bounds[name].low < sample.mean() < bounds[name].high <= 1.0
    ties = {(pair.a, pair.b): pair.tie for pair in pairwise(samples, resamples=1000)}
    assert ties == {("a", "b"): False, ("a", "c"): False, ("b", "c"): True}


def test_a_metric_of_ones_own_is_one_function() -> None:
    @label_set_metric("mean_size", keys={"mean_size": None})
    def mean_size(predictions, references, labels, chances):
        return Scores.per_example({"mean_size": [float(len(each)) for each in predictions]})

    try:
        found = label_set_metrics([["a"], ["a", "b", "e"]], [[], []], np.zeros((2, 4)), LABELS, ["mean_size"])
        assert found.values == {"mean_size": 2.0}
    finally:
        METRICS.remove("mean_size")
    assert METRICS.get("macro_f1").functions.keys() == {"classes", "text", "label_sets"}
