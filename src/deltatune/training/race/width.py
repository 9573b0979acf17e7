"""How many runs are trained at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from deltatune.core.devices import on_gpu
from deltatune.memory.fit import fits
from deltatune.recipe.choosing import Together
from deltatune.recipe.schema import MethodEntry
from deltatune.tasks import TASKS
from deltatune.training.before.expected_memory import at_most, predicted_run
from deltatune.training.before.forecast import this_machine
from deltatune.training.given.context import Context, SharedBase

MOST = 8
"""Runs at once by `auto`."""
PAYS_UP_TO = 512
"""Tokens of a batch, on average, up to which `auto` trains runs at once on CPUs. Eight runs of LoRA on all
linear layers of MiniLM and T5-small, on two cores: 1.5 to 2.2 times as fast as in turn with 128 to 512 tokens
each, 1.1 to 1.3 with 1024 (benchmarks/multi_run_step.py)."""


def width(context: Context, entries: Sequence[MethodEntry], seed: int, together: Together) -> int:
    """How many of the runs of `entries` to train at once, on the base that all of them have.

    The rule of `auto` depends on the recipe, the data and the machine's memory alone, not on a timing.

    Args:
        context: Data and bases.
        entries: One for each run; all read the rows in one way.
        seed: By which batches are looked at.
        together: As the recipe has it.
    """
    if together != "auto":
        return together
    if len(entries) < 2:
        return 1
    base = context.base(entries[0])
    limit = this_machine(base.device).memory_bytes
    if not on_gpu(base.device) and _tokens(context, entries, base) > PAYS_UP_TO:
        return 1
    most = [at_most(context, entry, base, seed) for entry in entries]
    if fits(sum(bytes_ for bytes_ in most if bytes_ is not None), limit) and None not in most:
        return min(MOST, len(entries))
    steps = [predicted_run(context, entry, context.method(entry, base)[0], base, seed) for entry in entries]
    known = [step for step in steps if step is not None]
    if not known:
        return 1
    weights = max(step["weights"] for step in known)
    each = sorted((step["total"] - step["weights"] for step in known), reverse=True)
    each = each[:1] * (len(steps) - len(known)) + each  # what cannot be told counts as much as the largest
    counts = range(min(MOST, len(entries)), 1, -1)
    return next((count for count in counts if fits(weights + sum(each[:count]), limit)), 1)


def _tokens(context: Context, entries: Sequence[MethodEntry], base: SharedBase) -> float:
    """Of the largest of the entries' batches, on average. Images: many, since nothing was measured."""
    if TASKS.get(context.recipe.task).reads == "images":
        return math.inf
    lengths = context.data(entries[0], base).encoded("train").lengths
    return max(entry.train.batch_size for entry in entries) * statistics.mean(lengths)
