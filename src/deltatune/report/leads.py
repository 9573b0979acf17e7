"""How far one method leads another, as the comparison found it."""

from __future__ import annotations

from typing import NamedTuple

from deltatune.report.load import Comparison, Method


class Lead(NamedTuple):
    """How far a method leads another; positive is better."""

    lead: float
    interval: list[float]
    tie: bool
    p: float
    examples_needed: int | None
    seeds_needed: int | None
    equivalent: bool | None = None


def find_pair(comparison: Comparison, a: Method, b: Method) -> Lead | None:
    """The comparison of `a` with `b`, as a lead of `a`, or None if it was not made."""
    pair = comparison.pairs.get(frozenset((a.name, b.name)))
    if pair is None:
        return None
    sign = 1 if comparison.higher_is_better else -1
    turn = sign if pair.a == a.name else -sign
    bounds = sorted([turn * pair.low, turn * pair.high])
    lead = turn * pair.difference
    needed = pair.examples_needed, pair.seeds_needed
    return Lead(lead, bounds, pair.tie, pair.p, *needed, pair.equivalent)
