"""The rule that is to be `halving: auto`, on courses by formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from benchmarks.early_stopping import Course, chances_of, jump, narrow, still_in

from deltatune.comparison.halving import Standing

STEPS, ROWS, QUARTER = 12, 60, 0.25
SHARES = np.arange(1, STEPS + 1) / STEPS
TIMES = np.arange(1, STEPS + 1)


class Grid:
    """Courses by formula: a mean by step, and rows that are the same for all but for a little noise."""

    def __init__(self, means: Sequence[Sequence[float]], seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        hard = random.normal(0, 0.3, ROWS)
        self.losses = [
            np.asarray(mean)[:, None] + hard + random.normal(0, 0.05, (STEPS, ROWS)) for mean in means
        ]
        self.stops = dict.fromkeys(range(len(means)), STEPS)

    def reach(self, alive: Sequence[int], share: float) -> dict[int, Standing]:
        step = next(step for step in range(1, STEPS + 1) if step >= share * STEPS - 1e-9)
        return {i: Standing(step, STEPS, float(self.losses[i][step - 1].mean())) for i in alive}

    def settle(self, share: float, judged: Sequence[int], most: int) -> tuple[list[int], dict[int, float]]:
        step = self.reach(judged, share)[judged[0]].step
        goes_on, chances = still_in([Course(SHARES[:step], self.losses[i][:step]) for i in judged], most)
        stopped = [i for place, i in enumerate(judged) if place not in goes_on]
        self.stops |= dict.fromkeys(stopped, step)
        return stopped, dict(zip(judged, chances, strict=True))

    def narrowed(self) -> list[int]:
        return narrow(list(self.stops), QUARTER, self.reach, self.settle)[0]

    @property
    def spent(self) -> float:
        return sum(self.stops.values()) / STEPS / len(self.stops)


def falling(end: float, speed: float) -> list[float]:
    return list(end + (2 - end) * np.exp(-speed * TIMES))


def test_clear_losers_go_early_and_all_take_a_quarter() -> None:
    grid = Grid([falling(0.5, 0.5), *([2.0] * STEPS for _ in range(31))])
    assert grid.narrowed() == [0]
    assert grid.spent < QUARTER
    close = Grid([falling(0.5 + i / 200, 0.5) for i in range(32)])
    assert 0 in close.narrowed()
    assert close.spent == pytest.approx(QUARTER, abs=0.01)  # nobody is clearly behind, so all of it is used


def test_a_slow_starter_that_wins_late_is_kept() -> None:
    slow = 1.9 - 0.13 * (TIMES - 1)  # behind two until step 7, ahead of both from step 9 on
    grid = Grid([falling(0.9, 0.4), falling(0.92, 0.4), list(slow), *([2.0] * STEPS for _ in range(21))])
    assert 2 in grid.narrowed()
    assert grid.spent < 1.1 * QUARTER


def test_those_that_fell_first_and_jumped_do_not_crowd_out_who_falls_steadily() -> None:
    jumps = [[1.2, 0.6 + i / 50, 0.7, 1.8, *[1.9 - i / 50] * 8] for i in range(6)]
    grid = Grid([*jumps, falling(0.6, 0.3), *([2.0] * STEPS for _ in range(25))])
    assert 6 in grid.narrowed()


def test_jumps_are_seen() -> None:
    rows = np.ones((1, ROWS))
    calm, up = (
        Course(SHARES[:2], np.concatenate([2 * rows, rows])),
        Course(SHARES[:2], np.concatenate([rows, 3 * rows])),
    )
    assert jump([calm, calm, up]) == 1
    assert jump([calm, up, up]) == pytest.approx(3)


def test_the_same_courses_give_the_same_chances_and_equal_ones_like_chances() -> None:
    rows = np.random.default_rng(0).normal(1, 0.3, (4, ROWS))
    courses = [Course(SHARES[:4], rows + shift) for shift in (0.0, 0.0, 5.0)]
    first, again = chances_of(courses), chances_of(courses)
    assert (first == again).all()
    assert first.sum() == pytest.approx(1)
    assert first[0] == pytest.approx(0.5, abs=0.1)
    assert first[2] < 0.01
