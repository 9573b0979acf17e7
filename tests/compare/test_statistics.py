from __future__ import annotations

import json
import math

import numpy as np
import pytest
from benchmarks.statistics_simulation import (
    STUDIES,
    Outcome,
    simulate,
    simulate_entries,
    simulate_groups,
    simulate_seeds,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltatune.comparison.scores import Sample, corpus_sample, row_groups, row_sample
from deltatune.comparison.seeds import SeedSpread, student
from deltatune.comparison.statistics import (
    bootstrap_interval,
    holm,
    intervals,
    paired_bootstrap,
    pairwise,
    shared_ranks,
    tie_matrix,
)
from deltatune.report.ranking import RANK_RULE

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
    monkeypatch.setattr("deltatune.comparison.statistics._CELLS_AT_ONCE", 70)
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


def coverage(trials: int, examples: int, resamples: int) -> float:
    """Share of 95 % intervals that hold the true mean of skewed scores in 0..1."""
    random = np.random.default_rng(11)
    hits = 0
    for trial in range(trials):
        interval = bootstrap_interval(random.beta(0.5, 0.8, examples), resamples=resamples, seed=trial)
        hits += interval.low <= 0.5 / 1.3 <= interval.high
    return hits / trials


def test_intervals_hold_the_truth():
    assert 0.90 <= coverage(trials=300, examples=80, resamples=600) <= 0.985


@pytest.mark.slow
def test_intervals_hold_the_truth_closely():
    assert 0.94 <= coverage(trials=4000, examples=100, resamples=2000) <= 0.96


def test_false_alarms_are_as_rare_as_promised():
    random = np.random.default_rng(12)
    alarms = sum(
        any(not pair.tie for pair in pairwise(dict(zip("abcd", random.normal(size=(4, 60)), strict=True)),
                                              resamples=800))
        for _ in range(80)
    )  # fmt: skip
    assert alarms / 80 < 0.12


def bounds(trials: int, share: float) -> tuple[int, int]:
    """Counts that a binomial of this share leaves in one of a thousand cases only, on each side."""
    return int(stats.binom.ppf(0.001, trials, share)), int(stats.binom.ppf(0.999, trials, share))


def check(outcome: Outcome) -> None:
    """At most 5 % false alarms, and intervals that hold the truth in 93.5 to 97 % of all cases.

    Percentile intervals of a few hundred examples are known to be off by about a percent; the counts may
    leave these shares by chance in one case of a thousand each.
    """
    trials = outcome.trials
    assert outcome.false_alarms * trials <= bounds(trials, 0.05)[1], outcome
    for share in (outcome.coverage, outcome.coverage_of_difference):
        assert bounds(trials, 0.935)[0] <= share * trials <= bounds(trials, 0.97)[1], outcome


@pytest.mark.parametrize("study", ["scores in 0..1", "BLEU", "macro F1"])
def test_simulated_comparisons_raise_no_more_alarms_than_promised(study):
    check(simulate(study, examples=150, trials=120, resamples=500))


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_many_simulated_comparisons_raise_no_more_alarms_than_promised(study):
    check(simulate(study, examples=200, trials=1500, resamples=1000))


def seeds_are_safe(trials: int) -> None:
    """Never more alarms than promised, and never less coverage; more caution is the price of few seeds."""
    for spread in (0.0, 0.1):
        outcome = simulate_seeds(3, spread, examples=100, trials=trials, resamples=500)
        assert outcome.false_alarms * trials <= bounds(trials, 0.05)[1], outcome
        assert outcome.coverage * trials >= bounds(trials, 0.95)[0], outcome
        assert outcome.coverage_of_difference * trials >= bounds(trials, 0.95)[0], outcome


def test_simulated_seeds_raise_no_more_alarms_than_promised():
    seeds_are_safe(100)


@pytest.mark.slow
def test_many_simulated_seeds_raise_no_more_alarms_than_promised():
    seeds_are_safe(1500)


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


def test_examples_needed_give_the_power_they_promise():
    """A tie says how many examples it wants; with so many, equally large differences are found in 80 %."""
    random = np.random.default_rng(7)
    shift, spread = 0.05, 0.5
    a = random.normal(0, spread, 100)
    a += shift - a.mean()  # the observed difference is the true one
    (pair,) = pairwise({"a": a, "b": np.zeros(100)}, resamples=4000)
    assert pair.tie
    assert pair.seeds_needed is None
    assert pair.examples_needed == pytest.approx((a.std() * (1.96 + 0.8416) / shift) ** 2, rel=0.06)
    found = sum(
        paired_bootstrap(random.normal(shift, spread, pair.examples_needed),
                         np.zeros(pair.examples_needed), resamples=400, seed=trial).p < 0.05
        for trial in range(150)
    )  # fmt: skip
    assert bounds(150, 0.74)[0] <= found <= bounds(150, 0.86)[1]


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


def test_many_clearly_different_methods_do_not_tie_for_want_of_draws() -> None:
    """With 10,000 draws the smallest p of 435 pairs would be .087 after Holm's correction."""
    rng = np.random.default_rng(0)
    scores = {f"m{level}": level + rng.normal(size=60) * 0.1 for level in range(30)}
    pairs = pairwise(scores)
    assert len(pairs) == 435
    assert not any(pair.tie for pair in pairs)


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


def test_simulated_entries_and_groups_raise_no_more_alarms_than_promised():
    trials = 60
    for spreads in ([0.05] * 4, [0.03, 0.1] * 2):
        _, pooled = simulate_entries(2, spreads, examples=60, trials=trials, resamples=400)
        assert pooled.false_alarms * trials <= bounds(trials, 0.05)[1], pooled
        assert pooled.coverage_of_difference >= 0.92, pooled
    _, by_input = simulate_groups(300, 40, trials=trials, resamples=300)
    assert by_input.false_alarms * trials <= bounds(trials, 0.05)[1], by_input


@pytest.mark.slow
@pytest.mark.parametrize("spreads", [[0.05] * 4, [0.03, 0.1] * 2])
def test_pooled_seeds_keep_the_level_and_find_more(spreads):
    alone, pooled = simulate_entries(2, spreads, examples=100, trials=400, resamples=800)
    assert pooled.false_alarms * 400 <= bounds(400, 0.05)[1], pooled
    assert pooled.coverage * 400 >= bounds(400, 0.95)[0], pooled
    assert pooled.coverage_of_difference * 400 >= bounds(400, 0.95)[0], pooled
    assert pooled.found > 2 * alone.found, (alone, pooled)


@pytest.mark.slow
def test_rows_of_one_input_are_independent_only_by_input():
    alone, by_input = simulate_groups(893, 120, trials=300, resamples=500)
    assert alone.false_alarms * 300 > bounds(300, 0.05)[1], alone
    assert by_input.false_alarms * 300 <= bounds(300, 0.05)[1], by_input
    assert by_input.coverage_of_difference * 300 >= bounds(300, 0.95)[0], by_input
