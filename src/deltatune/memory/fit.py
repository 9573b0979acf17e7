"""What to change so that a step fits: single changes with their effects, and the least intrusive set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deltatune.memory.predict import Prediction, Setup
from deltatune.quant.stored import stored_settings
from deltatune.recipe.base_sections import QuantizationSpec

Predict = Callable[[Setup], Prediction]
NF4 = QuantizationSpec(format="nf4")
OVERHEAD = 2**30
"""Bytes beside the tensors: interpreter and libraries in RAM, or context and work space on a GPU."""


@dataclass(frozen=True)
class Change:
    """A change of a recipe, and what a step takes after it."""

    settings: dict[str, Any]
    """Dotted fields and values, as `--set` takes them."""
    total: int
    fits: bool
    note: str = ""
    setup: Setup | None = None
    """What is run then; of a proposal."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"settings": dict(self.settings), "total": self.total, "fits": self.fits, "note": self.note}


def fits(total: int, limit: int) -> bool:
    """Whether tensors of `total` bytes and the overhead go into `limit` bytes."""
    return total + OVERHEAD <= limit


def remembering(predict: Predict) -> Predict:
    """Predictions of one entry, each setup once."""
    known: dict[Any, Prediction] = {}

    def find(setup: Setup) -> Prediction:
        bits = setup.quantization and setup.quantization.model_dump_json()
        key = (setup.shape, setup.micro_batches, setup.dtype, bits, setup.checkpointing, setup.offload)
        if key not in known:
            known[key] = predict(setup)
        return known[key]

    return find


def changes(setup: Setup, limit: int, predict: Predict) -> Iterator[Change]:
    """Each change that would help, made alone, with its effect."""
    for settings, changed, note in _single(setup):
        total = predict(changed).memory.total
        yield Change(settings, total, fits(total, limit), note)


def propose(setup: Setup, limit: int, predict: Predict) -> Change | None:
    """The least intrusive settings that fit: smaller micro-batches, checkpointing, 16 bits, 4, offload.

    Micro-batches leave the result as it is and cost little time; checkpointing leaves it too, for a third
    more time; 16 bits round the base, and 4 alter it; a base of which one layer is in memory is slow.

    Args:
        setup: The configuration.
        limit: Bytes that there are.
        predict: How the memory of a setup is found.

    Returns:
        The settings, empty if the configuration fits as it is; None if nothing does.
    """
    for settings, level in _levels(setup):
        if not fits(predict(_in_micro_batches(level, 1)).memory.total, limit):
            continue
        rows = level.shape.rows
        while rows > 1 and not fits(predict(_in_micro_batches(level, rows)).memory.total, limit):
            rows = math.ceil(rows / 2)
        smaller = {"train.micro_batch_size": rows} if rows < setup.shape.rows else {}
        chosen = _in_micro_batches(level, rows)
        return Change(smaller | settings, predict(chosen).memory.total, fits=True, setup=chosen)
    return None


def _levels(setup: Setup) -> Iterator[tuple[dict[str, Any], Setup]]:
    """The setup as it is, then with more given up each time."""
    found: dict[str, Any] = {}
    yield found, setup
    if not setup.method.trains:
        return
    if not setup.checkpointing:
        setup, found = setup.changed(checkpointing=True), {"train.gradient_checkpointing": True}
        yield found, setup
    if setup.quantization is None and setup.dtype == "float32":
        yield found | {"train.precision": "bf16"}, setup.changed(dtype="bfloat16")
    if _is_plain(setup) and setup.method.name != "full" and not setup.offload:
        bits = {"quantization": "nf4", "train.precision": "auto"}
        yield found | bits, setup.changed(quantization=NF4)
        yield found | _offload(setup), setup.changed(offload=True)


def _offload(setup: Setup) -> dict[str, Any]:
    return {"train.offload": "disk" if setup.device == "cpu" else "cpu"}


def _is_plain(setup: Setup) -> bool:
    """Whether the base is not quantized yet, by the recipe or in its checkpoint."""
    return setup.quantization is None and stored_settings(setup.config) is None


def _in_micro_batches(setup: Setup, rows: int) -> Setup:
    """The same optimizer step in micro-batches of `rows` rows."""
    if rows == setup.shape.rows:
        return setup
    whole = setup.shape.rows * setup.micro_batches
    return setup.changed(shape=setup.shape.with_rows(rows), micro_batches=math.ceil(whole / rows), exact=())


def _single(setup: Setup) -> Iterator[tuple[dict[str, Any], Setup, str]]:
    rows = setup.shape.rows
    for smaller in dict.fromkeys((math.ceil(rows / 2), 1)):
        if smaller < rows:
            changed = _in_micro_batches(setup, smaller)
            yield {"train.micro_batch_size": smaller}, changed, "the same result, in more micro-batches"
    if setup.method.trains and not setup.checkpointing:
        settings = {"train.gradient_checkpointing": True}
        yield settings, setup.changed(checkpointing=True), "the same result, about a third more time"
    alike = setup.method.name != "full" and setup.method.trains
    if _is_plain(setup) and alike and not setup.offload:
        bits: dict[str, Any] = {"quantization": "nf4", "train.precision": "auto"}
        yield bits, setup.changed(quantization=NF4), "a base in 4 bits"
        yield _offload(setup), setup.changed(offload=True), "the same result, slower: a layer at a time"
    if setup.quantization is None and setup.dtype == "float32":
        yield {"train.precision": "bf16"}, setup.changed(dtype="bfloat16"), "a base in 16 bits"
    if setup.shape.length > 64:
        half, target = setup.shape.with_half_inputs()
        shorter = setup.changed(shape=half, exact=())
        yield {"data.max_input_tokens": half.length - target}, shorter, "inputs cut to half"
