"""Comparisons of many methods: what is told without draws is what draws give, in less work."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from deltatune.comparison import many
from deltatune.comparison.many import beyond, contest
from deltatune.comparison.scores import Sample


def made_up(
    methods: int, *, seeds: int, rows: int = 400, spread: float = 0.25, seed: int = 0
) -> dict[str, Sample]:
    """Right and wrong answers of methods of unlike skill to rows of unlike difficulty."""
    random = np.random.default_rng(seed)
    hard = random.normal(0, 1, rows)
    found = {}
    for number in range(methods):
        skill = random.normal(1, spread) + random.normal(0, 0.2 * spread, (seeds, 1))
        found[f"m{number}"] = Sample.of((hard + random.normal(0, 0.7, (seeds, rows)) < skill).astype(float))
    return found


def compared(samples: dict[str, Sample], worth: float | None = None) -> many.Contest:
    scores = {name: sample.mean() for name, sample in samples.items()}
    return contest(samples, scores, higher_is_better=True, worth=worth)


@pytest.mark.parametrize("seeds", [1, 4])
def test_without_draws_it_comes_out_as_with_them(monkeypatch: pytest.MonkeyPatch, seeds: int) -> None:
    samples = made_up(12, seeds=seeds)
    drawn = compared(samples, worth=0.1)
    monkeypatch.setattr(many, "MOST_DRAWN", 0)
    told = compared(samples, worth=0.1)
    assert not drawn.warnings
    assert "66 pairs of methods" in told.warnings[0]
    assert [(p.a, p.b, p.difference) for p in drawn.pairs] == [(p.a, p.b, p.difference) for p in told.pairs]
    unlike = [(p.p, q.p) for p, q in zip(drawn.pairs, told.pairs, strict=True) if p.tie != q.tie]
    assert len(unlike) <= 4
    assert all(min(pair) > 0.01 and max(pair) < 0.2 for pair in unlike)  # close calls
    assert 10 < sum(p.tie for p in drawn.pairs) < 60
    assert sum(p.equivalent != q.equivalent for p, q in zip(drawn.pairs, told.pairs, strict=True)) <= 4
    assert 5 < sum(bool(p.equivalent) for p in drawn.pairs) < 60
    widths = [(q.high - q.low) / (p.high - p.low) for p, q in zip(drawn.pairs, told.pairs, strict=True)]
    assert min(widths) > 0.95
    assert max(widths) < 1.25
    assert max(abs(drawn.ranks[name] - told.ranks[name]) for name in samples) <= 2
    needed = [(p.examples_needed, q.examples_needed) for p, q in zip(drawn.pairs, told.pairs, strict=True)]
    assert all(0.7 < a / b < 1.4 for a, b in needed if a and b)


@pytest.mark.slow
def test_methods_that_do_not_differ_are_not_told_apart() -> None:
    alarms = 0
    for seed in range(20):
        samples = made_up(50, seeds=3, rows=200, spread=0.0, seed=seed)
        alarms += max(compared(samples).ranks.values()) > 1
    assert alarms <= 3  # 5 % of comparisons may have one


def test_equal_answers_tie_and_a_difference_in_every_row_does_not() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 1, 100)
    values = {f"same {i}": rows for i in range(30)} | {f"more {i}": rows + 1 for i in range(30)}
    found = compared({name: Sample.of(scores) for name, scores in values.items()})
    assert {name.split()[0]: rank for name, rank in found.ranks.items()} == {"same": 31, "more": 1}
    assert {pair.p for pair in found.pairs if pair.a.split()[0] == pair.b.split()[0]} == {1.0}


def test_the_tails_of_t_are_those_of_scipy() -> None:
    freedom, t = map(np.ravel, np.meshgrid([3.0, 5.5, 40, 1e6], [0.0, 0.5, 2, 6, 15]))
    assert beyond(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=0.02)
    t = np.array([0.5, 2, 20])
    assert (beyond(t, np.full(3, 1.5)) > 2 * stats.t.sf(t, 1.5)).all()


def test_of_many_pairs_those_that_matter_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work for single pairs grows with the methods; only products of matrices grow with all pairs."""
    counted, calls, real = {}, [], many.needed

    def needed(*args: object) -> object:
        calls.append(args)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(many, "needed", needed)
    for count in (100, 200):
        calls.clear()
        found = compared(made_up(count, seeds=2, rows=100))
        assert f"{math.comb(count, 2):,} pairs" in found.warnings[0]
        counted[count] = len(found.pairs), len(calls)
        order = sorted(found.ranks, key=lambda name: found.ranks[name])
        best = [name for name in order if found.ranks[name] == 1]
        kept = {frozenset((pair.a, pair.b)) for pair in found.pairs}
        assert any(all(frozenset((name, other)) in kept for other in order if other != name) for name in best)
        clear = [
            name for name in order[: many.LEADING] if found.ranks[name] < found.ranks[order[many.LEADING]]
        ]
        assert all(frozenset(pair) in kept for pair in combinations(clear, 2))
    assert counted[200][0] == counted[100][0] + 100
    assert counted[200][1] <= counted[100][1] + 100
