"""What several seeds tell, and rows that are not independent."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from deltatune.comparison.scores import Sample, corpus_sample, row_groups
from deltatune.comparison.seeds import SeedSpread, student
from deltatune.comparison.statistics import (
    bootstrap_interval,
    intervals,
    pairwise,
)


def test_seeds_that_differ_ask_for_seeds_rather_than_examples():
    random = np.random.default_rng(8)
    examples = random.normal(0, 0.05, 2000)
    shifts = np.array([-0.2, 0.0, 0.2])[:, None]
    (pair,) = pairwise({"a": examples + shifts + 0.1, "b": examples - shifts}, resamples=500)
    assert pair.tie
    assert pair.examples_needed is None
    assert 50 < pair.seeds_needed < 80  # 2 x 0.2^2 / (0.1 / 2.8)^2 = 63
    (apart,) = pairwise({"a": examples + 1, "b": examples}, resamples=500)
    assert (apart.tie, apart.examples_needed, apart.seeds_needed) == (False, None, None)
    (same,) = pairwise({"a": examples, "b": examples}, resamples=500)
    assert (same.tie, same.examples_needed, same.seeds_needed) == (True, None, None)


def accuracies(random: np.random.Generator, rows: int, shares: list[float]) -> np.ndarray:
    """Right or wrong, [seeds, rows]: seeds of these accuracies, mostly hard for all alike."""
    ease = random.random(rows)
    return np.stack([(0.5 * ease + 0.5 * random.random(rows) < share).astype(float) for share in shares])


def test_two_seeds_tell_large_differences_apart_and_ask_for_no_more():
    """Nine tenths right against a sixth of 1,050 rows is no tie for want of a third seed."""
    random = np.random.default_rng(0)
    scores = {
        "lora": accuracies(random, 1050, [0.79, 0.77]),
        "full": accuracies(random, 1050, [0.775, 0.795]),
        "prompt": accuracies(random, 1050, [0.38, 0.41]),
        "untuned": np.repeat(accuracies(random, 1050, [0.1]), 2, axis=0),
    }
    pairs = {(pair.a, pair.b): pair for pair in pairwise(scores)}
    assert not pairs["lora", "prompt"].tie
    assert not pairs["lora", "untuned"].tie
    assert pairs["lora", "full"].tie
    for pair in pairs.values():
        assert pair.examples_needed is None or pair.examples_needed > 1050
        assert pair.seeds_needed is None or pair.seeds_needed > 2
    alone, among = bootstrap_interval(scores["prompt"]), intervals(scores)["prompt"]
    assert among.high - among.low < 0.7 * (alone.high - alone.low)


def test_what_no_seed_changes_lends_no_certainty_to_others():
    random = np.random.default_rng(1)
    trained = [Sample.of(accuracies(random, 300, [0.7, 0.6])) for _ in range(2)]
    untuned = [Sample.of(np.repeat(accuracies(random, 300, [0.2]), 2, axis=0))] * 6
    few, many = SeedSpread.of(trained, 500, 0), SeedSpread.of([*trained, *untuned], 500, 0)
    assert (many.variances[:2] == few.variances).all()
    assert (many.variances[2:] == 0).all()
    one_seed = SeedSpread.of([Sample.of(accuracies(random, 300, [0.7]))], 500, 0)
    assert (one_seed.noise([0], 0) == 0).all()


def test_a_method_alone_has_students_t_with_its_own_degrees_of_freedom():
    random = np.random.default_rng(2)
    values = np.array([-0.2, 0.1, 0.3])[:, None] + np.zeros((3, 50)) + random.normal(0, 0.3, 50)
    noise = SeedSpread.of([Sample.of(values)], 100_000, 0).noise([0], 0)
    error = values.mean(axis=1).std(ddof=1) / np.sqrt(3)
    for share in (0.8, 0.95, 0.99):
        assert np.quantile(noise, share) == pytest.approx(error * stats.t.ppf(share, 2), rel=0.06)


@pytest.mark.parametrize("freedom", [1, 2, 2.5, 3, 4.5, 10, 100, 1e9, math.inf])
def test_quantiles_of_students_t_are_scipys(freedom):
    for share in (0.6, 0.8, 0.975, 0.9995):
        assert student(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-3)


def test_seeds_needed_use_t_and_are_more_than_there_are():
    """With the normal quantile two seeds of each would seem to do, which are there already."""
    random = np.random.default_rng(3)
    rows = random.normal(0, 0.05, 1000)
    a, b = (rows + shift + np.array([[-0.1], [0.1]]) for shift in (0.4, 0.0))
    (pair,) = pairwise({"a": a, "b": b}, resamples=4000)
    assert pair.tie
    assert pair.examples_needed is None
    assert 3 <= pair.seeds_needed <= 6


def test_rows_of_a_group_are_one_example():
    random = np.random.default_rng(4)
    inputs = random.normal(0, 1, 60)
    groups = [number // 5 for number in range(300)]
    repeated = Sample.of(inputs[groups])
    grouped = repeated.grouped(groups)
    assert (grouped.examples, grouped.rows_each) == (60, 5)
    assert grouped.mean() == pytest.approx(repeated.mean())
    assert bootstrap_interval(grouped) == pytest.approx(bootstrap_interval(inputs), abs=1e-9)
    assert repeated.grouped(list(range(300))) is repeated
    uneven = Sample.of([1.0, 0.0, 0.0, 1.0]).grouped([0, 1, 1, 1])
    assert uneven.mean() == 0.5  # rows weigh the same, not groups


def test_corpus_metrics_are_grouped_by_their_sums():
    texts = [f"{word} b c d e" for word in "pqrs"]
    references = ["p b c d e", "q b c x e", "r b c d e", "y b c d e"]
    sample = corpus_sample("bleu", [texts], references)
    assert sample.grouped([0, 0, 1, 1]).mean() == pytest.approx(sample.mean())


def predictions(path, inputs, **more):
    rows = [{"id": str(i), "input": text, "prediction": "", "reference": "", "scores": {}}
            | {key: values[i] for key, values in more.items()} for i, text in enumerate(inputs)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_groups_are_those_of_the_rows_or_else_of_equal_inputs(tmp_path):
    ids = [str(i) for i in range(5)]
    old = predictions(tmp_path / "old", ["x", "y", "x", "z", "y"])
    assert row_groups([old], ids) == [0, 1, 0, 2, 1]
    assert row_groups([old], ids[::-1]) == [0, 1, 2, 0, 2]
    named = predictions(tmp_path / "new", ["x"] * 5, group=["a", "b", "b", "c", "c"])
    assert row_groups([named], ids) == [0, 1, 1, 2, 2]
    # Each reading of the rows may make other inputs equal: 0 and 2, 1 and 4, and 1 and 2, 3 and 4.
    assert row_groups([old, named], ids) == [0, 0, 0, 0, 0]
    images = predictions(tmp_path / "images", ["[image, 28 x 28 pixels]"] * 5)
    assert row_groups([images], ids) == [0, 1, 2, 3, 4]
