"""A rule of stopping early that is to be `halving: auto` once replays say that it holds.

Decisions are taken at doubled shares of the steps, so that each knows the courses twice as far as the one
before. At each, those who can hardly win any more are stopped, however many. What is left of the budget then
says how many may go on: it is spent evenly on the parts of the way that are left. What clear losers spare is
thereby spent on those that are close.

Two kinds of chance may turn an order that validations show. The rows: they are drawn anew, the same for all
configurations, so that what these have in common drops out. And the courses: how far those of the better
half have moved since half of their steps is what each may move by, with every doubling that is left, and
others not. Half of the draws go by each configuration's last validation, half by its best: high rates fall
first and then jump, and some of them come back. Each draw has a winner; the share of the draws that a
configuration wins is its chance.

Those with the least chance are stopped as long as all who are stopped together have at most `RISK`. So what
is bounded is the chance that the winner is among them, however many they are.

No curves are fitted: going on as fast as a course fell so far was worse than standing still (docs/adr).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.halving import Decision, Standing

Floats = NDArray[np.float64]
T = TypeVar("T")
DRAWS = 1000
RISK = 0.02
"""Chance that the winner is among those who are stopped, by one decision."""
SHOWN = 0.5
"""Of the draws, those that go by a configuration's best validation; the others go by its last one."""
LARGEST = 1e6


@dataclass(frozen=True)
class Course:
    """What validations saw of a configuration so far."""

    shares: Floats
    """Of its steps, at which they were [points]."""
    losses: Floats
    """What each row adds to the loss [points, rows]."""

    def at(self, share: float) -> Floats:
        """Losses of the rows [rows] at its last validation up to a share; at its first if that came later."""
        count = max(1, int(np.searchsorted(self.shares, share + 1e-9, side="right")))
        found: Floats = self.losses[count - 1]
        return found

    def best(self) -> Floats:
        """Losses of the rows [rows] at its best validation."""
        found: Floats = self.losses[int(np.argmin(self.losses.sum(axis=1)))]
        return found


def chances_of(courses: Sequence[Course]) -> Floats:
    """The chance of each configuration to have the least loss at its end [courses].

    Args:
        courses: Of those who are left, all at about the same share of their steps.
    """
    now = max(float(course.shares[-1]) for course in courses)
    rows = len(courses[0].losses[0])
    random = np.random.default_rng(0)
    weights = random.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS).astype(np.float64)

    def losses(share: float) -> Floats:
        found: Floats = np.minimum(np.stack([course.at(share) for course in courses]), LARGEST)
        return found

    at, half = losses(now), losses(now / 2)
    better = np.argsort(at.sum(axis=1))[: max(2, math.ceil(len(courses) / 2))]
    if now / 2 >= min(course.shares[0] for course in courses):
        moved = float(np.sqrt(np.mean((at - half).sum(axis=1)[better] ** 2)))
    else:  # they begin: all that sets them apart may be of the beginning
        moved = float(at.sum(axis=1)[better].std())
    drift = moved * math.sqrt(math.log2(1 / now))
    shown = np.minimum(np.stack([course.best() for course in courses]), LARGEST)
    stands = np.where(random.random((DRAWS, 1)) < SHOWN, weights @ shown.T, weights @ at.T)
    ends = stands + random.normal(size=(DRAWS, len(courses))) * drift
    wins = np.bincount(ends.argmin(axis=1), minlength=len(courses))
    return wins / DRAWS


def still_in(courses: Sequence[Course], most: int) -> tuple[list[int], list[float]]:
    """Numbers of those who go on, and the chance of each to win.

    Args:
        courses: Of those who are left.
        most: How many may go on.
    """
    chances = chances_of(courses)
    losses = np.array([course.losses[-1].sum() for course in courses])
    order = np.lexsort((losses, -chances))
    with_all_after = np.cumsum(chances[order][::-1])[::-1]
    count = max(1, int((with_all_after > RISK).sum()))
    return order[: min(count, most)].tolist(), chances.tolist()


ROUNDING = 1e-9
SHARES = (1 / 12, 1 / 6, 1 / 3, 2 / 3)
"""Of the steps, at which is decided."""
QUARTER = 0.25
"""Share of all steps that all configurations together may take."""
LEAST = 4
"""One in so many goes on from a decision at least, be the budget spent."""


def narrow(
    pool: Sequence[T],
    reach: Callable[[Sequence[T], float], dict[T, Standing]],
    settle: Callable[[float, Sequence[T], int], tuple[list[T], dict[T, float]]],
) -> tuple[list[T], list[Decision[T]]]:
    """Find those that are worth training to the end.

    Args:
        pool: The configurations that compete.
        reach: Trains configurations to their first validations at a share of their steps; gives how those
            stand that did not fail, in their order.
        settle: Given a share, those who are judged there, and how many of them may go on: gives who is
            stopped, and the chance of each to win.

    Returns:
        The survivors, those whose schedule kept them from being judged included, and the decisions.
    """
    alive, decisions = list(pool), []
    came: dict[T, float] = {}
    """The share of its steps that each was trained for."""
    every = 0.0
    """Share of the steps from one validation to the next, by where the first one was."""
    for place, share in enumerate(SHARES):
        stood = reach(alive, share)
        alive = list(stood)
        news = any(standing.step / standing.steps > came.get(c, 0.0) for c, standing in stood.items())
        came |= {c: standing.step / standing.steps for c, standing in stood.items()}
        judged = [c for c in alive if stood[c].value is not None]
        if not news or len(judged) < 2:  # where validations are far apart, two shares may end at the same one
            continue
        here = max(came[c] for c in judged)
        every = every or here
        nominal = [*SHARES[place + 1 :], 1.0]
        ahead = sorted({at for later in nominal if (at := _validated(later, every)) > here + ROUNDING})
        if not ahead:
            break
        each = (QUARTER * len(pool) - sum(came.values())) / len(ahead)
        most = max(int(each / (ahead[0] - here) + ROUNDING), math.ceil(len(judged) / LEAST), 1)
        stopped, chances = settle(share, judged, most)
        if stopped:
            values = {c: stood[c].value for c in sorted(judged, key=lambda c: -chances.get(c, 0.0))}
            waiting = [c for c in alive if stood[c].value is None]
            decisions.append(Decision(share, values, waiting, stopped))
            alive = [c for c in alive if c not in stopped]
    return alive, decisions


def _validated(share: float, every: float) -> float:
    """Where the first validation at a share of the steps is."""
    return min(1.0, math.ceil(share / every - ROUNDING) * every)
