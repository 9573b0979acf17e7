"""The decisions of successive halving, on recorded curves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deltatune.compare.halving import Standing, halve
from deltatune.recipe.choosing import HalvingSpec

STEPS = 90


def reach(curves: Mapping[str, tuple[float | None, ...]]):
    """Curves hold the values after 1/9, 1/3 (or 1/2) and all of the steps; one without any fails."""

    def at(name: str, share: float) -> Standing | None:
        if not curves[name]:
            return None
        index = 0 if share < 0.2 else 1 if share <= 0.5 else 2
        return Standing((10, 30, STEPS)[index], STEPS, curves[name][index])

    return at


def test_the_best_third_goes_on_twice() -> None:
    curves = {f"c{i}": (i, i, i) for i in range(9)}
    alive, decisions = halve(
        list(curves), HalvingSpec(factor=3, rungs=2), reach(curves), higher_is_better=True
    )
    assert alive == ["c8"]
    assert [(round(d.share, 2), len(d.values), len(d.stopped)) for d in decisions] == [
        (0.11, 9, 6),
        (0.33, 3, 2),
    ]
    alive, _ = halve(
        list(curves), HalvingSpec(factor=3, rungs=2, finish=2), reach(curves), higher_is_better=False
    )
    assert alive == ["c0", "c1"]


def test_a_late_winner_is_lost_which_is_the_risk() -> None:
    curves = {"slow": (9.0, 9.0, 0.1), "a": (2.0, 1.0, 1.0), "b": (3.0, 2.0, 2.0)}
    alive, [decision] = halve(list(curves), HalvingSpec(), reach(curves), higher_is_better=False)
    assert alive == ["a"]
    assert decision.stopped == ["b", "slow"]


def test_failures_leave_and_what_is_not_settled_or_overflowed_is_told_apart() -> None:
    curves = {
        "fails": (),
        "schedule": (None, None, 5.0),
        "a": (1.0,) * 3,
        "b": (2.0,) * 3,
        "inf": (float("inf"),) * 3,
    }
    spec = HalvingSpec(factor=2, rungs=1)
    alive, [decision] = halve(list(curves), spec, reach(curves), higher_is_better=False)
    assert alive == ["schedule", "a", "b"]
    assert (decision.stopped, decision.not_settled) == (["inf"], ["schedule"])


@pytest.mark.parametrize("size", [1, 2])
def test_too_few_to_choose_from_all_go_on(size: int) -> None:
    curves = {f"c{i}": (i, i, i) for i in range(size)}
    alive, decisions = halve(list(curves), HalvingSpec(finish=2), reach(curves), higher_is_better=True)
    assert (alive, decisions) == (list(curves), [])
