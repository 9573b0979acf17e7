"""Which configurations halving has stopped so far: its own rule, on what choosing.json holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from deltatune.comparison.halving import LONG, Standing, contest_of, halve
from deltatune.recipe.choosing import HalvingSpec
from deltatune.watch.log import number
from deltatune.watch.plan import Entry, Plan

Reached = Mapping[str, Mapping[str, Standing]]
"""How configurations stood, by label and share of the steps."""


class Journal(NamedTuple):
    """What a choosing.json says."""

    reached: Reached
    shares: Mapping[str, Sequence[float]]
    """Pool -> shares of the steps at which is decided, where halving found that out itself."""


def journal_of(content: Mapping[str, Any] | None) -> Journal:
    """Read the content of a choosing.json; of what is damaged nothing."""
    stages = (content or {}).get("stages")
    known = stages.get("shares") if isinstance(stages, dict) else None
    shares = {
        key: [share for each in found if (share := number(each)) is not None]
        for key, found in (known.items() if isinstance(known, dict) else ())
        if isinstance(found, list)
    }
    return Journal(_reached(content), shares)


def _reached(journal: Mapping[str, Any] | None) -> dict[str, dict[str, Standing]]:
    found: dict[str, dict[str, Standing]] = {}
    known = (journal or {}).get("reached", journal or {})
    for label, shares in known.items() if isinstance(known, dict) else ():
        for share, at in shares.items() if isinstance(shares, dict) else ():
            fields = ("step", "steps", "value", "last") if isinstance(at, dict) else ()
            step, steps, value, last = [number(at.get(key)) for key in fields] or [None] * 4
            if step is not None and steps is not None:
                found.setdefault(label, {})[share] = Standing(int(step), int(steps), value, last=last)
    return found


def entry_of(label: str, entries: Sequence[Entry]) -> Entry | None:
    """The entry that a configuration is of: its label is the entry's, with rates behind it."""
    of = [entry for entry in entries if label == entry.name or label.startswith(f"{entry.name} ")]
    return max(of, key=lambda entry: len(entry.name), default=None)


def stopped(plan: Plan, journal: Journal, step_of: Callable[[str], int], *, up: bool) -> dict[str, Standing]:
    """The configurations that are known to be stopped, and how they stood.

    A decision is taken once all of a pool have come to a share. That they have shows by one that has gone on.

    Args:
        plan: The recipe.
        journal: What choosing.json says.
        step_of: The step that a configuration's log has come to.
        up: Whether higher validation results are better.
    """
    if plan.halving is None:
        return {}
    try:
        spec = HalvingSpec.model_validate(dict(plan.halving))
    except ValidationError:
        return {}
    known, found = journal.reached, {}
    waits = spec.auto and plan.known.get("budget_time") is None
    for key, pool in _pools(plan, known, spec).items():
        shares = journal.shares.get(key, []) if spec.auto else spec.shares(len(pool), LONG)
        places = [f"{share:.4f}" for share in (*shares, 1.0)]

        def reach(alive: Sequence[str], share: float, places: list[str] = places) -> dict[str, Standing]:
            here, after = f"{share:.4f}", places[places.index(f"{share:.4f}") + 1]
            there = {label: known[label][here] for label in alive if here in known[label]}
            gone_on = any(after in known[label] or step_of(label) > at.step for label, at in there.items())
            return there if gone_on else {}

        _, decisions = halve(pool, spec, reach, higher_is_better=up, shares=shares, waits=waits)
        for decision in decisions:
            for label in decision.stopped:
                found[label] = max(known[label].values(), key=lambda at: at.step)
    return found


def _pools(plan: Plan, known: Reached, spec: HalvingSpec) -> dict[str, list[str]]:
    """Labels by who competes with whom."""
    pools: dict[str, list[str]] = {}
    for label in known:
        entry = entry_of(label, plan.entries)
        if entry is None or entry.searched:
            continue
        key = contest_of(spec, entry.name, entry.group, entry.method)
        pools.setdefault(key, []).append(label)
    return {key: pool for key, pool in pools.items() if len(pool) > 1}
