"""A rule of stopping early that needs no settings. Replays say that it loses winners (docs/adr).

Decisions are taken at doubled shares of the steps, so that each knows the courses twice as far as the one
before. At each, those who can hardly win any more are stopped, however many. What is left of the budget then
says how many may go on: it is spent evenly on the parts of the way that are left. What clear losers spare is
thereby spent on those that are close.

Early in training a few rows cost a configuration most of its loss, because it is too sure of them or leans
to one class; more steps and the falling learning rate mend these first. So losses above what nine in ten of
all have now are cut to that (`CLIPPED`). Configurations are ordered by the mean of their last validation and
their best: high rates fall first and then jump, and some of them come back.

Besides, each has a chance to win. Two kinds of chance may turn the order. The rows: they are weighted anew,
the same for all configurations, so that what these have in common drops out. And the courses: how far those
of the better half have moved since half of their steps is what each may move by, with every doubling that is
left, and others not. Half of the draws go by each configuration's last validation, half by its best. Each
draw has a winner; the share of the draws that a configuration wins is its chance. The last in the order are
stopped as long as all of them together have a chance of at most `RISK`, however many they are.

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
CLIPPED = 0.9
"""Share of all losses, of rows and configurations, that stay as they are; those above are cut."""
JUMPY = 1.25
"""Where half of the configurations have so many times their best loss, losses jump: the order is a guess."""
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

    def clipped(self, most: float) -> Course:
        """The same course, without what rows have above a loss."""
        return Course(self.shares, np.minimum(self.losses, most))

    def best(self) -> Floats:
        """Losses of the rows [rows] at its best validation."""
        found: Floats = self.losses[int(np.argmin(self.losses.sum(axis=1)))]
        return found


def comparable(courses: Sequence[Course]) -> list[Course]:
    """The courses, without what some rows have above the losses that nine in ten have now."""
    most = min(LARGEST, float(np.quantile([course.losses[-1] for course in courses], CLIPPED)))
    return [course.clipped(most) for course in courses]


def chances_of(courses: Sequence[Course]) -> Floats:
    """The chance of each configuration to have the least loss at its end [courses].

    Args:
        courses: Of those who are left, all at about the same share of their steps.
    """
    now = max(float(course.shares[-1]) for course in courses)
    random = np.random.default_rng(0)
    weights = random.standard_exponential((DRAWS, len(courses[0].losses[0])))
    weights *= weights.shape[1] / weights.sum(axis=1, keepdims=True)
    at, half = np.stack([c.at(now) for c in courses]), np.stack([c.at(now / 2) for c in courses])
    better = np.argsort(at.sum(axis=1))[: max(2, math.ceil(len(courses) / 2))]
    if now / 2 >= min(course.shares[0] for course in courses):
        moved = float(np.sqrt(np.mean((at - half).sum(axis=1)[better] ** 2)))
    else:  # they begin: all that sets them apart may be of the beginning
        moved = float(at.sum(axis=1)[better].std())
    drift = moved * math.sqrt(math.log2(1 / now))
    best = np.stack([course.best() for course in courses])
    stands = weights @ at.T
    stands[: DRAWS // 2] = weights[: DRAWS // 2] @ best.T
    ends = stands + random.normal(size=stands.shape) * drift
    wins = np.bincount(ends.argmin(axis=1), minlength=len(courses))
    return wins / DRAWS


def jump(courses: Sequence[Course]) -> float:
    """How many times its best loss so far the median configuration has now: 1 where losses only fall."""
    means = [np.minimum(course.losses, LARGEST).mean(axis=1) for course in courses]
    return float(np.median([mean[-1] / max(mean.min(), 1e-9) for mean in means]))


def still_in(courses: Sequence[Course], most: int) -> tuple[list[int], list[float]]:
    """Numbers of those who go on, and the chance of each to win.

    Args:
        courses: Of those who are left.
        most: How many may go on.
    """
    courses = comparable(courses)
    chances = chances_of(courses)
    order = np.argsort([float((c.losses[-1] + c.best()).sum()) for c in courses], kind="stable")
    with_all_after = np.cumsum(chances[order][::-1])[::-1]
    count = max(1, int((with_all_after > RISK).sum()))
    return order[: min(count, most)].tolist(), chances.tolist()


ROUNDING = 1e-9
SHARES = (1 / 12, 1 / 6, 1 / 3, 2 / 3)
"""Of the steps, at which is decided."""
LEAST = 4
"""One in so many goes on from a decision at least, be the budget spent."""


def narrow(
    pool: Sequence[T],
    budget: float,
    reach: Callable[[Sequence[T], float], dict[T, Standing]],
    settle: Callable[[float, Sequence[T], int], tuple[list[T], dict[T, float]]],
) -> tuple[list[T], list[Decision[T]]]:
    """Find those that are worth training to the end.

    Args:
        pool: The configurations that compete.
        budget: Share of all steps that all of them together may take.
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
        each = (budget * len(pool) - sum(came.values())) / len(ahead)
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
