"""The race: several runs over one frozen base make their steps together, and everything else by themselves.

A pass for several runs has fewer and larger operations than one pass for each, which pays where a batch is
small. The rows of one joint batch are routed to their deltas; each run's loss is the mean over its own
labels, and its clipping, optimizer, schedule, order of rows, validation, early stopping and files are its
own. What is trained so is what the run would train alone, to rounding: its rows are padded to the longest of
all, and products of other shapes are summed in another order.

The loops are generators (loop/steps.py), advanced one after another with their own adapter active.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Mapping, Sequence

from deltatune.core.devices import own_random_states
from deltatune.core.fast.kernels import CUT_CROSS_ENTROPY
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry
from deltatune.training.given.context import Context
from deltatune.training.given.machine import PeakMemory, deterministic, fast_cpu
from deltatune.training.loop.steps import interruptible, recomputing
from deltatune.training.race.joint import joint_gradients, together_key
from deltatune.training.race.lanes import (
    Lane,
    Out,
    Outcome,
    Starter,
    Trained,
    Training,
    Waiting,
    advanced,
    advanced_alone,
    ended,
    opened,
    started,
)
from deltatune.training.single.parts import Run


def race(context: Context, starters: Sequence[Starter]) -> list[Outcome]:
    """Train runs on one base at once, or go on with them; evaluate each, and write its folder.

    Args:
        context: Data and bases.
        starters: The runs. Their entries have the same base, in the same precision, the same
            `train.gradient_checkpointing`, and read the rows in one way; `can_race` holds for each.

    Returns:
        What became of each; no error of one ends another.

    Raises:
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    try:
        model = context.base(starters[0].entry).adapted()
    except Exception as error:
        return [error for _ in starters]
    with contextlib.ExitStack() as stack:
        lanes: list[Lane] = [
            opened(starter, context, model, f"run{place}", stack) for place, starter in enumerate(starters)
        ]
        model.use()  # nobody, between those who are on
        same = deterministic(model.device, any(each.entry.train.deterministic for each in starters))
        with fast_cpu(model.device), same, own_random_states():
            memory = PeakMemory(model.device)
            lanes = [started(lane) if isinstance(lane, Run) else lane for lane in lanes]
            memory.start()
            _train(lanes, context.observer)
            peak = memory.peak()
            lanes = [ended(lane, peak) if isinstance(lane, Trained) else lane for lane in lanes]
    return [lane.outcome for lane in lanes if isinstance(lane, Out)]


def can_race(entry: MethodEntry) -> bool:
    """Whether the steps of an entry's runs may be made with those of others, as far as its settings tell.

    Not with dropout in the base, which draws from the global generator; nor in micro-batches, or with a
    tracker, of which a process has one; nor if the loss is fused with the head, which all share, or layers
    are compiled, which is done for one run's rows.
    """
    spec = entry.train
    whole = spec.micro_batch_size in (None, spec.batch_size) and not spec.auto_micro_batch
    fused = CUT_CROSS_ENTROPY in (spec.kernels or ())
    apart = spec.base_dropout or spec.trackers or fused or spec.compile is True
    return entry.build_config().trains and whole and not apart


def _train(lanes: list[Lane], observer: Observer) -> None:
    """Drive the loops of those that are training to their ends, together.

    Args:
        lanes: The runs, whose states are replaced.
        observer: Is told if passes are made smaller.

    Raises:
        KeyboardInterrupt: Asked to stop; the states for resuming have been written.
    """
    training = {place: lane for place, lane in enumerate(lanes) if isinstance(lane, Training)}
    if not training:
        return
    first, width = next(iter(training.values())).trainer, len(training)
    with (
        interruptible() as interrupted,
        recomputing(first.model, first.spec.gradient_checkpointing),
        contextlib.ExitStack() as stack,
    ):
        for place, lane in training.items():
            stack.callback(lane.steps.close)
            lanes[place] = advanced(lane)
        while waiting := {place: lane for place, lane in enumerate(lanes) if isinstance(lane, Waiting)}:
            if interrupted.is_set():  # those that are at their end have written their states there
                for asking in waiting.values():
                    asking.trainer.save()
                break
            width = _step(lanes, waiting, width, observer)
    if interrupted.is_set():
        raise interrupted.error()


def _step(lanes: list[Lane], waiting: Mapping[int, Waiting], width: int, observer: Observer) -> int:
    """Answer every run's request, at most `width` in one pass, and let them go on.

    What goes wrong in a pass is done again in halves, down to single runs, of which the one that is to blame
    then fails alone.

    Args:
        lanes: The runs, whose states are replaced.
        waiting: Those of them that wait, by their places.
        width: How many to take in one pass.
        observer: Is told if passes are made smaller.

    Returns:
        How many to take in one pass from now on.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, lane in waiting.items():
        groups.setdefault(together_key(*lane.asked), []).append(place)
    queue = [group[at : at + width] for group in groups.values() for at in range(0, len(group), width)]
    while queue:
        part, queue = queue[0], queue[1:]
        if len(part) == 1:
            lanes[part[0]] = advanced_alone(waiting[part[0]])
            continue
        error = None
        ticks = [waiting[place].trainer.adapter.clock.tick for place in part]
        try:
            answers = joint_gradients([waiting[place].asked for place in part])
        except Exception as caught:
            error = str(caught).partition(". ")[0] or type(caught).__name__
        if error is None:
            for place, gradients in zip(part, answers, strict=True):
                lanes[place] = advanced(waiting[place].training, gradients)
            continue
        # Outside of `except`, whose traceback holds on to the tensors of the attempt.
        for place, tick in zip(part, ticks, strict=True):
            waiting[place].trainer.adapter.forget_pass(tick)
        width = math.ceil(len(part) / 2)
        observer.log(f"{len(part)} runs could not make a step together ({error}); {width} at once are tried.")
        queue = [part[:width], part[width:], *queue]
    failed = any(isinstance(lanes[place], Out) for place in waiting)
    return len(waiting) if failed else width
