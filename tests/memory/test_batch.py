"""The largest micro-batch of the data, and the mean step beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deltatune.memory.batch import largest_micro_batch
from deltatune.recipe.train_section import TrainSpec


def encoded(lengths: list[int]) -> Any:
    features = [{"input_ids": [1] * length, "prompt_length": 1} for length in lengths]
    return SimpleNamespace(features=features, lengths=lengths)


@pytest.mark.parametrize("micro", [None, 2])
def test_the_mean_step_is_a_share_of_the_largest(micro: int | None) -> None:
    """By length they are four of 10, four of 20 and four of 60, which are 40, 80 and 240 tokens."""
    rows = encoded([10, 60, 20] * 4)
    spec = TrainSpec(batch_size=4, micro_batch_size=micro)
    largest = largest_micro_batch(rows, "causal-lm", spec, 0)
    assert (largest.shape.rows, largest.shape.length) == (micro or 4, 60)
    assert len(largest.step) == 4 // (micro or 4)
    assert largest.share == pytest.approx((40 + 80 + 240) / 3 / 240)


def test_steps_of_one_size_are_all_like_the_largest() -> None:
    assert largest_micro_batch(encoded([8] * 12), "causal-lm", TrainSpec(batch_size=4), 0).share == 1
