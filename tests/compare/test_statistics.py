from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltatune.comparison.noise import noise_floor
from deltatune.comparison.scores import Sample, corpus_sample, row_sample
from deltatune.comparison.statistics import (
    bootstrap_interval,
    holm,
    paired_bootstrap,
    pairwise,
    shared_ranks,
    tie_matrix,
)
from deltatune.report.ranking import RANK_RULE
from deltatune.results import LeaderboardRow

SCORES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30)


def test_interval_and_p_agree_with_the_t_test_on_a_large_sample():
    random = np.random.default_rng(5)
    a = random.normal(0.30, 0.2, 400)
    b = a + random.normal(-0.02, 0.15, 400)
    found = paired_bootstrap(a, b)
    reference = stats.ttest_rel(a, b)
    low, high = reference.confidence_interval()
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found.p == pytest.approx(reference.pvalue, abs=0.01)


def test_pairing_finds_what_unpaired_intervals_would_not():
    random = np.random.default_rng(0)
    a = random.uniform(0, 1, 200)
    b = a - 0.01 + random.normal(0, 0.01, 200)
    assert paired_bootstrap(a, b).p < 0.001
    assert bootstrap_interval(a).low < bootstrap_interval(b).high


@settings(max_examples=40, deadline=None)
@given(SCORES, st.integers(0, 3))
def test_a_method_ties_with_itself(scores, seed):
    assert paired_bootstrap(scores, scores, resamples=200, seed=seed) == (0, 0, 0, 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=2, max_size=30))
def test_swapping_turns_the_sign(pairs):
    a, b = zip(*pairs, strict=True)
    one, other = paired_bootstrap(a, b, resamples=200), paired_bootstrap(b, a, resamples=200)
    flipped = (-other.difference, -other.high, -other.low, other.p)
    assert tuple(one) == pytest.approx(flipped, abs=1e-9)
    assert one.low - 1e-9 <= one.high
    assert 0 < one.p <= 1


@settings(max_examples=40, deadline=None)
@given(SCORES, st.floats(-5, 5), st.floats(0.1, 10))
def test_intervals_move_and_stretch_with_the_scores(scores, shift, scale):
    low, high = bootstrap_interval(scores, resamples=200)
    moved = bootstrap_interval(np.array(scores) * scale + shift, resamples=200)
    assert moved == pytest.approx((low * scale + shift, high * scale + shift), abs=1e-6)


def test_the_interval_leaves_out_zero_when_p_is_below_the_level():
    random = np.random.default_rng(1)
    agreed = 0
    for shift in np.linspace(-0.4, 0.4, 41):
        a = random.normal(shift, 1, 60)
        found = paired_bootstrap(a, np.zeros(60), resamples=2000)
        outside = found.low > 0 or found.high < 0
        assert outside or found.p > 0.048  # the interval's ends are interpolated between draws
        agreed += outside == (found.p < 0.05)
    assert agreed >= 38


def test_four_examples_of_a_hundred_are_no_proof():
    """Equal methods that differ in four examples differ in one direction in an eighth of all cases."""
    a = np.zeros(100)
    a[:4] = 1
    found = paired_bootstrap(a, np.zeros(100))
    assert found.p == pytest.approx(1 / 8, abs=0.02)
    a[4:8] = 1
    assert paired_bootstrap(a, np.zeros(100)).p == pytest.approx(1 / 128, abs=0.005)


def test_same_seed_same_result_and_chunks_do_not_matter(monkeypatch):
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 50))
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)
    whole = bootstrap_interval(a, resamples=1000)
    monkeypatch.setattr("deltatune.comparison.resampling._CELLS_AT_ONCE", 70)
    assert bootstrap_interval(a, resamples=1000) == pytest.approx(whole)


def test_unlike_seeds_make_the_interval_wider():
    random = np.random.default_rng(3)
    examples = random.normal(0, 1, 300)
    alike = np.stack([examples] * 5)
    unlike = alike + np.array([-0.4, -0.2, 0, 0.2, 0.4])[:, None]
    narrow, wide = bootstrap_interval(alike), bootstrap_interval(unlike)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert (narrow.low, narrow.high) == pytest.approx(bootstrap_interval(examples), abs=0.02)
    assert paired_bootstrap(unlike, alike[:2]).difference == pytest.approx(0)


def test_intervals_stay_within_the_scores():
    assert bootstrap_interval([0, 0, 0, 0, 0, 0.2]).low == 0
    assert bootstrap_interval([1, 1, 1, 1, 0.6]).high == 1


def test_one_example_tells_nothing():
    assert paired_bootstrap([0.5], [0.2]) == pytest.approx((0.3, 0.3, 0.3, 1.0))


@pytest.mark.parametrize(
    ("a", "b", "rule"),
    [([1, 2], [1], "2 scores against 1"), ([], [], "shape"), ([1, np.nan], [1, 2], "finite")],
)
def test_bad_scores_are_refused(a, b, rule):
    with pytest.raises(ValueError, match=rule):
        paired_bootstrap(a, b)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_none_and_bonferroni(p_values):
    corrected = holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(corrected)[order]) == sorted(corrected)


def test_the_noise_floor_is_of_the_best_whose_seeds_differ():
    scores = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    samples = {"free": Sample.of(np.ones((3, 4))), "lora": Sample.of(scores), "one": Sample.of(scores[:1])}
    rows = [LeaderboardRow(name=name) for name in ("one", "absent", "free", "lora")]
    floor = noise_floor(rows, samples)
    assert floor is not None
    assert (floor.name, floor.seeds, floor.mean, floor.largest) == ("lora", 3, pytest.approx(1 / 3), 0.5)
    assert noise_floor(rows[:3], samples) is None


def test_results_are_plain_numbers_for_json():
    a, b = np.random.default_rng(0).normal(size=(2, 20))
    pairs = pairwise({"a": a, "b": b}, resamples=50)
    ranks = shared_ranks(np.array([a.mean(), b.mean()]), tie_matrix("ab", pairs))
    written = [[pair.as_dict() for pair in pairs], ranks, bootstrap_interval(a, resamples=50)]
    assert json.loads(json.dumps(written))


def test_ranks_are_shared_but_ties_are_not_transitive():
    tied = [[True, True, False], [True, True, True], [False, True, True]]
    assert shared_ranks([0.9, 0.8, 0.7], tied) == [1, 1, 2]
    assert shared_ranks([0.9, 0.8, 0.7], tied, higher_is_better=False) == [2, 1, 1]
    apart = [[i == j for j in range(3)] for i in range(3)]
    assert shared_ranks([0.7, 0.9, 0.8], apart) == [3, 1, 2]
    assert shared_ranks([0.7, 0.9, 0.8], [[True] * 3] * 3) == [1, 1, 1]


def test_a_rank_counts_the_methods_that_are_significantly_better_and_nothing_else():
    """The demo's ranks, and a tie of neighbours that is not transitive."""
    better = {"a": "cde", "b": "e", "c": "e", "d": "e", "e": ""}
    names, means = list(better), [5.0, 4.0, 3.0, 2.0, 1.0]
    ties = [[a == b or (b not in better[a] and a not in better[b]) for b in names] for a in names]
    assert shared_ranks(means, ties) == [1, 1, 2, 2, 5]
    assert "1 + the number of methods that are significantly better" in RANK_RULE
    # a > c and b > d: c and d are told apart from others only, and c > d changes d's rank alone.
    chain = [[i == j or (i, j) not in {(0, 2), (2, 0), (1, 3), (3, 1)} for j in range(4)] for i in range(4)]
    assert shared_ranks([4, 3, 2, 1], chain) == [1, 1, 2, 2]
    chain[2][3] = chain[3][2] = False
    assert shared_ranks([4, 3, 2, 1], chain) == [1, 1, 2, 3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_ranks_start_at_one_and_the_best_has_it(means, data):
    size = len(means)
    upper = data.draw(st.lists(st.booleans(), min_size=size * size, max_size=size * size))
    ties = [[i == j or upper[min(i, j) * size + max(i, j)] for j in range(size)] for i in range(size)]
    ranks = shared_ranks(means, ties)
    assert ranks[int(np.argmax(means))] == 1
    assert all(1 <= rank <= size for rank in ranks)


def test_pairwise_gives_ties_and_ranks():
    random = np.random.default_rng(4)
    base = random.uniform(0, 1, 300)
    scores = {
        "lora": base,
        "adalora": base + random.normal(0, 0.1, 300),
        "prefix": base - 0.2 + random.normal(0, 0.1, 300),
    }
    pairs = pairwise(scores, resamples=2000)
    assert [(pair.a, pair.b, pair.tie) for pair in pairs] == [
        ("lora", "adalora", True),
        ("lora", "prefix", False),
        ("adalora", "prefix", False),
    ]
    names = list(scores)
    assert shared_ranks([scores[n].mean() for n in names], tie_matrix(names, pairs)) == [1, 1, 3]
    assert pairwise({"lora": base}) == []


def test_a_corpus_metric_is_compared_as_one():
    """Equal results tie; one long good text outweighs short bad ones, as in the corpus score itself."""
    references = ["a b c d e f", "g h i j k l m", "n o p q r"] * 8
    wrong = [text.replace("b", "x").replace("k", "y") for text in references]
    right, other = (corpus_sample("bleu", [texts], references) for texts in (references, wrong))
    assert right.mean() == pytest.approx(100)
    found = paired_bootstrap(right, other, resamples=500)
    assert found.difference == pytest.approx(100 - other.mean())
    assert found.p < 0.01
    assert found.low < found.difference < found.high
    assert paired_bootstrap(other, other, resamples=100) == (0, 0, 0, 1)
    low, high = bootstrap_interval(other, resamples=500)
    assert 0 < low < other.mean() < high < 100


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_a_loss_is_resampled_as_a_corpus_does_it_directly(metric):
    random = np.random.default_rng(9)
    tokens = random.integers(2, 60, 150)
    nll = {name: tokens * random.gamma(4, 0.5, 150) for name in "ab"}
    nll["b"] = nll["a"] * 1.02 + random.normal(0, 2, 150)
    samples = {name: row_sample(metric, np.stack([nll[name], tokens], axis=1)[None]) for name in "ab"}

    def corpus(name, rows):  # all of it, one loop at a time
        value = sum(nll[name][row] for row in rows) / sum(tokens[row] for row in rows)
        return np.exp(value) if metric == "perplexity" else value

    whole = {name: corpus(name, range(150)) for name in "ab"}
    drawn = [random.integers(0, 150, 150) for _ in range(2000)]
    each = {name: np.array([corpus(name, rows) for rows in drawn]) for name in "ab"}
    wider = np.sqrt(150 / 149)
    for name in "ab":
        assert samples[name].mean() == pytest.approx(whole[name], rel=1e-12)
        around = whole[name] + (each[name] - whole[name]) * wider
        expected = np.quantile(around, [0.025, 0.975])
        assert bootstrap_interval(samples[name]) == pytest.approx(expected, abs=0.06 * np.ptp(expected))
    gap = whole["a"] - whole["b"]
    around = gap + (each["a"] - each["b"] - gap) * wider
    found = paired_bootstrap(samples["a"], samples["b"])
    expected = np.quantile(around, [0.025, 0.975])
    assert found.difference == pytest.approx(gap, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.06 * np.ptp(expected))
    assert found.p >= 2 * min((around >= 0).mean(), (around <= 0).mean()) * 0.8
    # Long examples weigh more: the mean of the examples' own losses is another number.
    assert abs(np.mean(nll["a"] / tokens) - nll["a"].sum() / tokens.sum()) > 1e-3


def test_many_clearly_different_methods_do_not_tie_for_want_of_draws() -> None:
    """With 10,000 draws the smallest p of 435 pairs would be .087 after Holm's correction."""
    rng = np.random.default_rng(0)
    scores = {f"m{level}": level + rng.normal(size=60) * 0.1 for level in range(30)}
    pairs = pairwise(scores)
    assert len(pairs) == 435
    assert not any(pair.tie for pair in pairs)


def test_no_interval_reaches_beyond_what_is_possible() -> None:
    """Of few rows draws are spread widely: an accuracy is no 120 points above another."""
    found = paired_bootstrap([1.0, 1.0, 1.0, 1.0, 0.0], [0.0] * 5)
    assert found.high == 1.0
    assert found.low < found.difference
