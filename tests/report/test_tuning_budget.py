"""What tuning buys: the closed form against all orders of the trials."""

from __future__ import annotations

from itertools import permutations
from statistics import fmean

import numpy as np
import pytest

from deltatune.report.tuning_budget import expected_best


@pytest.mark.parametrize("higher", [True, False])
def test_it_is_the_mean_over_all_orders(higher: bool) -> None:
    values = [0.3, 0.9, 0.5, 0.5, 0.1, 0.7]
    best = max if higher else min
    orders = list(permutations(values))
    for found in expected_best(values, higher_is_better=higher):
        bests = [best(order[: found.trials]) for order in orders]
        assert found.mean == pytest.approx(fmean(bests))
        ends = np.quantile(bests, [0.1, 0.9], method="inverted_cdf")
        assert sorted((found.low, found.high)) == pytest.approx(list(ends))
    assert found.mean == found.low == found.high == best(values)


def test_a_thousand_trials_are_no_matter() -> None:
    curve = expected_best(list(np.random.default_rng(0).normal(size=1000)), higher_is_better=True)
    means = [each.mean for each in curve]
    assert means == sorted(means)
