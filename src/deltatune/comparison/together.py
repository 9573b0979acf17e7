"""The runs of a comparison, several at once where the recipe wants that and they can."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from deltatune.comparison.attempt import attempt, failure
from deltatune.comparison.team import Team
from deltatune.recipe.schema import MethodEntry
from deltatune.results import AnyResult
from deltatune.training import Context
from deltatune.training.given.folder import is_done
from deltatune.training.given.split_contexts import context_of
from deltatune.training.race.lanes import Outcome, Starter
from deltatune.training.race.race import can_race, race
from deltatune.training.race.width import width

Part = tuple[Context, Sequence[Starter]]
"""Runs, and the data and bases that they share."""


def attempt_all(context: Context, team: Team, starters: Sequence[Starter]) -> list[AnyResult]:
    """Train all runs of a context, or go on with them; give the result of each, in their order."""
    split_of = context.recipe.split_of
    splits = [list(runs) for _, runs in groupby(starters, key=lambda starter: split_of(starter.seed))]
    parts = [(context_of(context, runs[0].seed), runs) for runs in splits]
    results = attempt_parts(team, parts, "Comparing")
    return [results[starter.out] for starter in starters]


def attempt_parts(team: Team, parts: Sequence[Part], progress: str) -> dict[Path, AnyResult]:
    """Train all runs, or go on with them; give the result of each by its folder.

    Of a team each process takes single runs: who trains what with whom would be chance, and with it the
    rounding of results.

    Args:
        team: The processes that share them.
        parts: The runs.
        progress: What is told of each that is done.
    """
    results: dict[Path, AnyResult] = {}

    def train(part: Part) -> None:
        context, group = part
        names = [f"{starter.entry.name}, seed {starter.seed}" for starter in group]
        outcomes: Sequence[Outcome] = [None]
        if len(group) > 1:
            context.observer.stage(f"{len(group)} at once: {'; '.join(names)}")
            outcomes = race(context, group)
        for starter, name, outcome in zip(group, names, outcomes, strict=True):
            entry, seed, out = starter.entry, starter.seed, starter.out
            if outcome is None:
                team.require_free(out)
                context.observer.stage(name)
                results[out] = attempt(context, team, entry, seed, out)
            elif isinstance(outcome, Exception):
                results[out] = failure(context, entry, seed, out, outcome)
            else:
                results[out] = outcome
            context.observer.advance(progress)

    alone = ((context, [starter]) for context, starters in parts for starter in starters)
    groups = ((context, group) for context, starters in parts for group in _groups(context, starters))
    team.each(alone if team.joins else groups, train, "runs")
    return results


def _groups(context: Context, starters: Sequence[Starter]) -> Iterator[list[Starter]]:
    """Runs that are trained at once, in the order of the first of each.

    Those of one seed come together: they see the same rows in the same order, which need no more padding
    together than alone. Batches of eight orders, each of rows of about one length, had twice the tokens
    when padded together (tables of 70 tokens on average), which takes back what a pass for all gains; so by
    `auto` only runs of one seed are trained at once.
    """
    together = context.recipe.together
    alike: dict[Hashable, list[Starter]] = {}
    for place, starter in enumerate(starters):
        racing = together != 1 and can_race(starter.entry) and not is_done(starter.out)
        seed = starter.seed if together == "auto" else None
        key = (_base(context, starter.entry), seed) if racing else place
        alike.setdefault(key, []).append(starter)
    for group in alike.values():
        group.sort(key=lambda starter: starter.seed)
        entries = [starter.entry for starter in group]
        size = width(context, entries, group[0].seed, together) if len(group) > 1 else 1
        for at in range(0, len(group), size):
            yield group[at : at + size]


def _base(context: Context, entry: MethodEntry) -> Hashable:
    """What runs at once have in common.

    The base in its precision and the kernels, where it rests, whether layers are recomputed, and how rows are
    read: those of other lengths would be padded to each other's.
    """
    bits = entry.quantization and entry.quantization.model_dump_json()
    train = entry.train
    model = context.recipe.model_of(entry).model_dump_json()
    data = context.recipe.data_of(entry)
    how = context.dtype(entry), train.offload, tuple(train.kernels or ())
    return model, bits, how, train.gradient_checkpointing, data
