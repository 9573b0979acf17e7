"""How often does a rule of stopping early keep the winner, and at what share of the steps? On recorded grids.

    python benchmarks/replay_grids.py benchmarks/results/record_grids_*.npz
        --out benchmarks/results/replay_grids.json [--draws 1000] [--only "auto, a quarter"]

The records are those of record_grids.py: runs that went to their end, with the loss of every validation row
at every validation. A draw is a comparison that might have been: nine in ten of the grid's configurations,
at least 30, in a random order, judged on validation rows that are drawn with replacement. Each rule decides
on it, successive halving by the code that comparisons use. What it trained to the end and then picks, by its
least loss on the drawn rows, is held against what the whole grid picks on them.

With `--sizes 16 8` draws have so many of the grid's configurations instead.

A draw is *kept* if both picks are the same, or the rule's is not worse on the test rows by more than chance:
the mean paired difference of their test losses is less than 1.96 of its standard errors above zero. Beside
that stand *same*, the share of draws with the same pick; the share of the steps, on average and at most; and
how much test loss was lost, on average and at most, in percent of the distance from the median configuration
to the best. *waited* is the share of draws in which `halving: auto` found that losses jump, and stopped
nobody at one of its decisions.

How sure is the winner itself? *The whole grid, on other rows* trains all to the end and picks on validation
rows that are drawn again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.halving import Standing, halve
from deltatune.recipe.choosing import HalvingSpec

Floats = NDArray[np.float64]
LEAST = 30
"""Configurations of a draw."""
APART = 1.96
"""Standard errors from which on a difference is no chance."""


@dataclass(frozen=True)
class Grid:
    """A recorded grid, of the first of its seeds."""

    name: str
    labels: list[str]
    shares: Floats
    """Of the steps, at which validations were [P]."""
    losses: Floats
    """What a validation row adds to the loss [C, P, V]."""
    test_losses: Floats
    """What a test row adds to it [C, T]."""
    test_tokens: Floats
    """Labels of the test rows [T]."""
    steps: int
    """Of each run."""

    @classmethod
    def read(cls, path: Path) -> Grid:
        """Read a record."""
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            first = min(run["seed"] for run in about["runs"])
            mine = [place for place, run in enumerate(about["runs"]) if run["seed"] == first]
            return cls(
                path.stem.removeprefix("record_grids_"),
                [about["runs"][place]["name"] for place in mine],
                np.array(about["points"]) / about["steps"],
                file["losses"][mine].astype(np.float64),
                file["test_losses"][mine].astype(np.float64),
                file["test_tokens"].astype(np.float64),
                about["steps"],
            )

    @property
    def test_means(self) -> Floats:
        """Test loss of each configuration, per label [C]."""
        means: Floats = self.test_losses.sum(axis=1) / self.test_tokens.sum()
        return means

    def behind(self, pick: int, winner: int) -> float:
        """How much worse one is than the other on the test rows, in standard errors of the difference."""
        if pick == winner:
            return 0.0
        gap = self.test_losses[pick] - self.test_losses[winner]
        mean = gap.sum() / self.test_tokens.sum()
        error = (gap - mean * self.test_tokens).std(ddof=1) * math.sqrt(len(gap)) / self.test_tokens.sum()
        return float(mean / error) if error else math.copysign(math.inf, mean)


@dataclass(frozen=True)
class Draw:
    """A comparison that might have been."""

    shares: Floats
    """[P]"""
    losses: Floats
    """[K, P, V]"""
    means: Floats
    """[K, P], by mean over the rows."""
    steps: int
    """Of each run."""
    jumps: list[float] = field(default_factory=list)
    """Where decisions waited: how many times their best loss the median had."""

    @classmethod
    def of(cls, grid: Grid, random: np.random.Generator, size: int | None) -> tuple[NDArray[np.intp], Draw]:
        """Draw configurations, so many or nearly all, and rows; gives which configurations."""
        count, rows = len(grid.labels), grid.losses.shape[2]
        chosen = random.permutation(count)[: size or max(min(LEAST, count), round(0.9 * count))]
        losses = grid.losses[chosen][:, :, random.integers(0, rows, rows)]
        return chosen, cls(grid.shares, losses, losses.mean(axis=2), grid.steps)

    @staticmethod
    def again(losses: Floats, random: np.random.Generator) -> Floats:
        """Best results [K] on rows that are drawn anew, of the losses of all rows [K, P, V]."""
        rows = losses.shape[2]
        best: Floats = losses[:, :, random.integers(0, rows, rows)].mean(axis=2).min(axis=1)
        return best

    def point(self, share: float) -> int:
        """The first validation at a share of the steps."""
        return min(int(np.searchsorted(self.shares, share - 1e-9)), len(self.shares) - 1)

    def least(self, point: int) -> Floats:
        """Each configuration's best result up to a validation [K]."""
        least: Floats = self.means[:, : point + 1].min(axis=1)
        return least

    def reach(self, pool: Sequence[int], share: float) -> dict[int, Standing]:
        """How configurations stand at a share, as comparisons say it."""
        point = self.point(share)
        values, last = self.least(point), self.means[:, point]
        step = round(float(self.shares[point]) * self.steps)
        return {
            place: Standing(step, self.steps, float(values[place]), last=float(last[place])) for place in pool
        }


Stops = NDArray[np.intp]
"""The validation to which each configuration was trained [K]."""
Rule = Callable[[Draw, np.random.Generator], Stops]


def _whole(draw: Draw) -> Stops:
    return np.full(len(draw.means), len(draw.shares) - 1)


def halving(spec: HalvingSpec) -> Rule:
    """Successive halving by mean losses, as comparisons do it."""

    def rule(draw: Draw, _: np.random.Generator) -> Stops:
        stops = _whole(draw)
        shares = spec.shares(len(stops), draw.steps)
        _, decisions = halve(
            range(len(stops)), spec, draw.reach, higher_is_better=False, shares=shares, waits=spec.auto
        )
        for decision in decisions:
            stops[decision.stopped] = draw.point(decision.share)
        draw.jumps.extend(decision.jump for decision in decisions if decision.jump and not decision.stopped)
        return stops

    return rule


def asha(factor: int) -> Rule:
    """Asynchronous halving (Li et al. 2020) by one worker: configurations come one after another."""

    def rule(draw: Draw, _: np.random.Generator) -> Stops:
        last = len(draw.shares) - 1
        rungs = [point for power in range(9) if (point := factor**power - 1) < last] + [last]
        came: list[list[int]] = [[] for _ in rungs]
        stops, fresh = np.zeros(len(draw.means), dtype=np.intp), iter(range(len(draw.means)))
        while True:
            for rung in reversed(range(len(rungs) - 1)):
                values = draw.least(rungs[rung])
                best = sorted(came[rung], key=lambda place: values[place])[: len(came[rung]) // factor]
                if ready := [place for place in best if place not in came[rung + 1]]:
                    came[rung + 1].append(ready[0])
                    stops[ready[0]] = rungs[rung + 1]
                    break
            else:
                if (new := next(fresh, None)) is None:
                    break
                came[0].append(new)
                stops[new] = rungs[0]
        if not came[-1]:
            stops[int(draw.least(0).argmin())] = last
        return stops

    return rule


def some(draw: Draw, random: np.random.Generator) -> Stops:
    """A quarter of the configurations, whichever, to their end."""
    stops = np.full(len(draw.means), -1)
    stops[random.permutation(len(stops))[: round(len(stops) / 4)]] = len(draw.shares) - 1
    return stops


RULES: dict[str, Rule | None] = {
    "halving: auto": halving(HalvingSpec(rungs="auto")),
    "halving at 1/3 (default)": halving(HalvingSpec()),
    "halving at 1/9, 1/3": halving(HalvingSpec(rungs=2)),
    "ASHA, 3": asha(3),
    "ASHA, 4": asha(4),
    "a quarter, by chance": some,
    "the whole grid, on other rows": None,
}


def replay(grid: Grid, rule: Rule | None, draws: int, size: int | None = None) -> dict[str, float]:
    """What a rule does on a grid, over all draws; the same draws for every rule.

    Without a rule all are trained to the end, and the pick is made on validation rows that are drawn again:
    how sure the winner of the whole grid is.
    """
    last, test = len(grid.shares) - 1, grid.test_means
    scale = float(np.median(test) - test.min())
    same, kept, steps, lost, waited = [], [], [], [], []
    for number in range(draws):
        random = np.random.default_rng(number)
        chosen, draw = Draw.of(grid, random, size)
        stops = rule(draw, random) if rule else _whole(draw)
        ends = draw.least(last)
        seen = ends if rule else draw.again(grid.losses[chosen], random)
        pick, winner = int(np.where(stops == last, seen, math.inf).argmin()), int(ends.argmin())
        steps.append(float(np.append(draw.shares, 0.0)[stops].mean()))
        same.append(pick == winner)
        kept.append(grid.behind(int(chosen[pick]), int(chosen[winner])) < APART)
        lost.append(float(test[chosen[pick]] - test[chosen[winner]]) / scale)
        waited.append(bool(draw.jumps))
    return {
        "kept": float(np.mean(kept)),
        "same": float(np.mean(same)),
        "steps": float(np.mean(steps)),
        "steps_at_most": max(steps),
        "lost": float(np.mean(lost)),
        "lost_at_most": max(lost),
        "waited": float(np.mean(waited)),
    }


def main() -> None:
    """Replay the rules on the records that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", help="configurations of a draw; default: nearly all")
    parser.add_argument("--only", choices=RULES, action="append", help="this rule (may be given again)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for path, size in itertools.product(options.records, options.sizes or [None]):
        grid, of = Grid.read(path), f"{size or 'nearly all'}"
        print(f"\n{grid.name}, {of} of {len(grid.labels)} configurations, {options.draws:,} draws:\n")
        print(
            "| rule | kept | same | steps | at most | lost | at most | waited |\n"
            "|:--|--:|--:|--:|--:|--:|--:|--:|"
        )
        for name in options.only or RULES:
            figures = replay(grid, RULES[name], options.draws, size)
            found.setdefault(grid.name, {}).setdefault(of, {})[name] = figures
            print(
                f"| {name} | " + " | ".join(f"{value:.1%}" for value in figures.values()) + " |", flush=True
            )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
