"""Which configurations halving has stopped so far: its own rule, on what choosing.json holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from deltatune.comparison.halving import Standing, contest_of, halve
from deltatune.recipe.choosing import HalvingSpec
from deltatune.watch.log import number
from deltatune.watch.plan import Entry, Plan

Reached = Mapping[str, Mapping[str, Standing]]
"""How configurations stood, by label and share of the steps."""


def reached(journal: Mapping[str, Any] | None) -> dict[str, dict[str, Standing]]:
    """What a choosing.json says; of what is damaged nothing."""
    found: dict[str, dict[str, Standing]] = {}
    known = (journal or {}).get("reached", journal or {})
    for label, shares in known.items() if isinstance(known, dict) else ():
        for share, at in shares.items() if isinstance(shares, dict) else ():
            step, steps = (
                (number(at.get(key)) for key in ("step", "steps")) if isinstance(at, dict) else (None,) * 2
            )
            if step is not None and steps is not None:
                found.setdefault(label, {})[share] = Standing(int(step), int(steps), number(at.get("value")))
    return found


def entry_of(label: str, entries: Sequence[Entry]) -> Entry | None:
    """The entry that a configuration is of: its label is the entry's, with rates behind it."""
    of = [entry for entry in entries if label == entry.name or label.startswith(f"{entry.name} ")]
    return max(of, key=lambda entry: len(entry.name), default=None)


def stopped(plan: Plan, known: Reached, step_of: Callable[[str], int], *, up: bool) -> dict[str, Standing]:
    """The configurations that are known to be stopped, and how they stood.

    A decision is taken once all of a pool have come to a share. That they have shows by one that has gone on.

    Args:
        plan: The recipe.
        known: How configurations stood.
        step_of: The step that a configuration's log has come to.
        up: Whether higher validation results are better.
    """
    if plan.halving is None:
        return {}
    try:
        spec = HalvingSpec.model_validate(dict(plan.halving))
    except ValidationError:
        return {}
    shares = [f"{share:.4f}" for share in (*spec.shares(), 1.0)]

    def reach(alive: Sequence[str], share: float) -> dict[str, Standing]:
        here, after = f"{share:.4f}", shares[shares.index(f"{share:.4f}") + 1]
        there = {label: known[label][here] for label in alive if here in known[label]}
        gone_on = any(after in known[label] or step_of(label) > at.step for label, at in there.items())
        return there if gone_on else {}

    found = {}
    for pool in _pools(plan, known, spec):
        _, decisions = halve(pool, spec, reach, higher_is_better=up)
        for decision in decisions:
            for label in decision.stopped:
                found[label] = max(known[label].values(), key=lambda at: at.step)
    return found


def _pools(plan: Plan, known: Reached, spec: HalvingSpec) -> list[list[str]]:
    """Labels by who competes with whom."""
    pools: dict[tuple[str, str], list[str]] = {}
    for label in known:
        entry = entry_of(label, plan.entries)
        if entry is None or entry.searched:
            continue
        key = contest_of(spec, entry.name, entry.group, entry.method)
        pools.setdefault(key, []).append(label)
    return [pool for pool in pools.values() if len(pool) > 1]
