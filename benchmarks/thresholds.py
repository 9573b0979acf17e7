"""One threshold for all labels, or one each? How many validation rows does either need?

Rows are drawn with labels of several frequencies and a model whose log odds are right but for noise, and for
an error of each label's own (a head that has not learned to be calibrated). Thresholds are chosen on
validation rows as the evaluation does and judged on 5,000 other rows; means over draws are printed.

    python benchmarks/thresholds.py
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

LABELS = 10
TEST = 5_000


def drawn(random: np.random.Generator, rows: int, bias: np.ndarray, base: np.ndarray, power: float):
    """Probabilities [rows, labels] that a model gives, and the truth."""
    signal = random.normal(size=(rows, LABELS))
    odds = base + power * signal
    truth = random.random((rows, LABELS)) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-(odds + bias + random.normal(0, 0.5, odds.shape)))), truth


def f1(given: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Micro F1 and macro F1."""
    right, both = (given & truth).sum(axis=0), given.sum(axis=0) + truth.sum(axis=0)
    return 2 * right.sum() / max(both.sum(), 1), float(np.mean(2 * right / np.maximum(both, 1)))


def best(chances: np.ndarray, truth: np.ndarray) -> float:
    """The threshold with the highest F1 over all cells, half way to the next lower probability."""
    flat, true = chances.ravel(), truth.ravel()
    order = np.argsort(-flat, kind="stable")
    scores = 2 * np.cumsum(true[order]) / (np.arange(1, len(flat) + 1) + true.sum())
    place = int(scores.argmax())
    below = flat[order[place + 1]] if place + 1 < len(flat) else 0.0
    return float((flat[order[place]] + below) / 2)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    random = np.random.default_rng(0)
    print("validation rows | error of labels | F1: at 0.5, one threshold, one a label (micro; macro)")
    for rows, spread in itertools.product((50, 150, 500, 2_000), (0.0, 1.0)):
        found = []
        for _ in range(draws):
            base, bias = random.uniform(-4.5, -1, LABELS), random.normal(0, spread, LABELS)
            chances, truth = drawn(random, rows, bias, base, 2.0)
            judged, wanted = drawn(random, TEST, bias, base, 2.0)
            one = best(chances, truth)
            each = np.array([best(chances[:, [i]], truth[:, [i]]) for i in range(LABELS)])
            found.append([f1(judged >= limit, wanted) for limit in (0.5, one, each)])
        micro, macro = np.mean(found, axis=0).T
        print(
            f"{rows:6,} | {spread:.1f} | {' '.join(f'{x:.3f}' for x in micro)}; "
            f"{' '.join(f'{x:.3f}' for x in macro)}"
        )


if __name__ == "__main__":
    main()
