"""The time of an answer: of the base alone, with a delta attached, and with the delta in the weights.

One row at a time, as a person asks. All variants answer the same row in a turn, and take turns in beginning,
so that a machine's load, which changes, meets them alike. What is told is how the times of a turn compare,
not how long an answer takes: the median over the turns, and the tenths of them at either end.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor

from deltatune.core.devices import synchronize, to_device
from deltatune.core.fast.padding import padding_told
from deltatune.core.ranks import ranks
from deltatune.evaluation.generation import PLAIN_DECODING
from deltatune.evaluation.interfaces import BatchEncoder, EncodedRows, evaluating
from deltatune.results.lost import Ratio
from deltatune.tasks import TASKS

ROWS, TURNS, WRITTEN = 4, 12, 16
"""Rows that are asked, turns in all, and tokens that are written for each."""
FEWEST, SECONDS = 4, 30.0
"""Turns that are made however long they take, and the time after which no other begins."""
TENTHS = 10

Acting = Callable[[], AbstractContextManager[Any]]
"""A context in which a model answers as it shall: without the delta, or with it."""


class Variant(NamedTuple):
    """Who answers."""

    model: Any
    """As `AdaptedModel`."""
    acting: Acting = contextlib.nullcontext


class Question(NamedTuple):
    """One row, as models are asked."""

    batch: dict[str, Tensor]
    """On their device."""
    written: int | None
    """Tokens that are written behind it; None where no text is written."""


def questions(
    encoded: EncodedRows, encoder: BatchEncoder, device: Any, positions: int | None = None
) -> list[Question]:
    """Rows spread evenly over those that there are.

    Plain text has no prompt to write behind, and some bases no position left there: it is read.

    Args:
        encoded: The rows.
        encoder: The encoder that made them.
        device: Of the models.
        positions: What may be written takes no more, in a base that goes on with what it reads both together.
            None: it has no end.
    """
    count = len(encoded.lengths)
    features = [encoded.features[place] for place in sorted({turn * count // ROWS for turn in range(ROWS)})]
    task, written = TASKS.get(encoder.task), 0
    if task.writes_text and all(feature.get("prompt_length") != 0 for feature in features):
        batches = [encoder.collate_prompts([feature]) for feature in features]
        read = max(batch["input_ids"].shape[1] for batch in batches) if task.continues else 0
        written = WRITTEN if positions is None else min(WRITTEN, positions - read)
    if written < 1:
        batches = [_without_labels(encoder.collate([feature])) for feature in features]
    return [Question(to_device(batch, device), written if written > 0 else None) for batch in batches]


def _without_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


def times(
    variants: Mapping[str, Variant], asked: Sequence[Question], encoder: BatchEncoder
) -> dict[str, list[float]]:
    """Seconds of each answer by variant, turn by turn."""
    for variant in variants.values():  # the first answers of a model load what others find
        _seconds(variant, asked[0], encoder)
    found: dict[str, list[float]] = {name: [] for name in variants}
    names, began = list(variants), time.perf_counter()
    for turn in range(TURNS):
        late = turn >= FEWEST and time.perf_counter() - began > SECONDS
        if any(ranks().gather(late)):  # processes that hold a base together end together
            break
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            found[name].append(_seconds(variants[name], asked[turn % len(asked)], encoder))
    return found


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Ratio:
    """How many times as long as the base's they are, turn by turn."""
    ratios = sorted(mine / other for mine, other in zip(seconds, base, strict=True))
    cuts = statistics.quantiles(ratios, n=TENTHS, method="inclusive")
    return Ratio(median=statistics.median(ratios), low=cuts[0], high=cuts[-1])


def _seconds(variant: Variant, asked: Question, encoder: BatchEncoder) -> float:
    model = variant.model
    with variant.acting(), evaluating(model), padding_told(asked.batch):
        synchronize(model.device)
        started = time.perf_counter()
        _answer(model, asked, encoder)
        synchronize(model.device)
        return time.perf_counter() - started


def _answer(model: Any, asked: Question, encoder: BatchEncoder) -> None:
    if asked.written is None:
        TASKS.get(encoder.task).outputs(model, asked.batch)
        return
    ends = list(encoder.eos_ids)
    model.generate(
        **asked.batch,
        **PLAIN_DECODING
        | {
            "num_beams": 1,
            "min_length": None,  # which would be warned of beside the other
            "min_new_tokens": asked.written,
            "max_new_tokens": asked.written,
            "eos_token_id": ends or None,
            "pad_token_id": next(iter(ends), 0),
        },
    )
