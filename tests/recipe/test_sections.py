"""What a section of a recipe says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune.methods import METHODS
from deltatune.recipe.rates import Course
from deltatune.recipe.train_section import TrainSpec


@pytest.mark.parametrize(
    ("train", "rates"),
    [
        ({"lr": None}, (1e-4, 3e-3)),
        ({"lr": 0.5}, (0.5, 3e-3)),
        ({"lr": None, "head_lr": 0.25}, (1e-4, 0.25)),
        ({"lr": None, "head_lr": "lr"}, (1e-4, 1e-4)),
        ({"lr": 0.5, "head_lr": "lr"}, (0.5, 0.5)),
    ],
)
def test_peak_rates(train: dict[str, Any], rates: tuple[float, float]) -> None:
    spec = TrainSpec(**train)
    full, course = METHODS.get("full")(), Course(8, "text", 64)
    assert (spec.peak_lr(full, course), spec.peak_head_lr(full, course)) == rates


def test_number_of_steps() -> None:
    assert TrainSpec(epochs=3, batch_size=4).steps_per_epoch(9) == 3
    assert TrainSpec(epochs=3, batch_size=4).steps(9) == 9
    assert TrainSpec(epochs=3, batch_size=4, max_steps=5).steps(9) == 5
    assert TrainSpec(epochs=3, batch_size=4, max_steps=50).steps(9) == 9
