"""Power laws: against scipy's least squares, and on simulated curves whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares

from deltatune.comparison.curve_points import together
from deltatune.comparison.power_law import fit, fitted
from deltatune.comparison.resampling import Draws
from deltatune.comparison.scores import Sample

ROWS = [50.0, 200.0, 800.0, 3200.0]


@pytest.mark.parametrize(
    ("sign", "law"), [(1, (0.92, 2.1, 0.45)), (-1, (0.4, 5.0, 0.3)), (1, (1.0, 0.9, 0.2))]
)
def test_a_law_without_noise_is_found(sign: int, law: tuple[float, float, float]) -> None:
    a, b, c = law
    rows = np.array(ROWS)
    scores = a - sign * b * rows**-c
    found = fit(ROWS, scores[None], np.ones(4), sign=sign, low=0.0, high=1.0 if sign > 0 else 9.0)
    assert found.at(6400)[0] == pytest.approx(a - sign * b * 6400**-c, abs=2e-3)
    assert found.exponent[0] == pytest.approx(c, rel=0.06)
    assert found.gain(3200, 6400)[0] == pytest.approx(b * (3200**-c - 6400**-c), rel=0.05)


def test_what_is_left_is_as_little_as_scipy_leaves() -> None:
    random = np.random.default_rng(5)
    rows, weights = np.array([50, 100, 200, 400, 800, 1600.0]), np.array([1, 2, 3, 4, 5, 6.0])
    weights /= weights.sum()
    scores = 0.9 - 1.5 * rows**-0.4 + random.normal(0, 0.02, (12, 6))
    found = fit(rows, scores, weights, sign=1, low=0.0, high=1.0)

    def left(values: np.ndarray) -> float:
        starts = [(0.9, 1.0, c) for c in (0.1, 0.4, 1.0, 2.0)]
        return min(
            2
            * least_squares(
                lambda p: np.sqrt(weights) * (values - p[0] + p[1] * (rows / 1600) ** -p[2]),
                start,
                bounds=([-5, 0, 0.05], [1, 50, 2.5]),
            ).cost
            for start in starts
        )

    assert found.misfit == pytest.approx([left(values) for values in scores], rel=0.02)
    mean = 0.9 - 1.5 * rows**-0.4
    (a, b, c), _ = curve_fit(lambda n, a, b, c: a - b * n**-c, rows, mean, p0=(0.9, 1, 0.4))
    exact = fit(rows, mean[None], weights, sign=1, low=0.0, high=1.0)
    assert exact.at(3200)[0] == pytest.approx(a - b * 3200**-c, abs=1e-3)


def simulated(random: np.random.Generator, truth: np.ndarray, rows: int, seeds: int) -> list[Sample]:
    """Whether each test row is right, [seeds, rows], of each number of rows; luck of seeds falls with it."""
    hard = random.uniform(0, 1, rows)
    luck = 0.03 * (np.array(ROWS) / ROWS[0]) ** -0.5
    samples = []
    for chance, spread in zip(truth, luck, strict=True):
        level = np.clip(chance + random.normal(0, spread, (seeds, 1)), 0, 1)
        own = random.uniform(size=(seeds, rows))
        right = np.where(random.uniform(size=(seeds, rows)) < 0.3, own < level, hard < level)
        samples.append(Sample.of(right.astype(float)))
    return samples


def shares(law: tuple[float, float, float], repeats: int, draws: int) -> tuple[float, float]:
    """Of how many simulated comparisons the interval holds the true gain, and how many are called no law."""
    a, b, c = law
    truth = a - b * np.array(ROWS) ** -c
    gain = b * (3200**-c - 6400**-c)
    held = misfits = 0
    for repeat in range(repeats):
        samples = simulated(np.random.default_rng((11, repeat)), truth, 400, 3)
        drawn = together(Draws(samples, draws, 0))
        scores = np.array([sample.mean() for sample in samples])
        found = fitted(ROWS, scores, drawn, sign=1, low=0.0, high=1.0)
        low, high = np.quantile(found.drawn.gain(3200, 6400), [0.025, 0.975])
        held += low - 1e-9 <= gain <= high + 1e-9
        misfits += found.p < 0.01
    return held / repeats, misfits / repeats


def test_scores_that_fall_beyond_chance_follow_no_law() -> None:
    random = np.random.default_rng(2)
    for truth, lawless in (((0.6, 0.78, 0.74, 0.62), True), ((0.6, 0.7, 0.695, 0.72), False)):
        samples = simulated(random, np.array(truth), 400, 3)
        drawn = together(Draws(samples, 1000, 0))
        scores = np.array([sample.mean() for sample in samples])
        assert (fitted(ROWS, scores, drawn, sign=1, low=0.0, high=1.0).p < 0.01) is lawless


@pytest.mark.slow
@pytest.mark.parametrize("law", [(0.95, 1.2, 0.4), (0.85, 3.0, 0.7), (1.0, 0.6, 0.15), (0.9, 0.0, 0.5)])
def test_the_interval_of_a_gain_holds_the_true_one(law: tuple[float, float, float]) -> None:
    held, misfits = shares(law, 200, 2000)
    assert held >= 0.91  # 95 % but for two standard errors of 200 draws; no gain is the edge of what can be
    assert misfits <= 0.02
