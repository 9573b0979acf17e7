"""What is proposed is the least intrusive that fits, and fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deltatune.memory.account import PARTS, Memory
from deltatune.memory.fit import OVERHEAD, changes, propose
from deltatune.memory.predict import Prediction, Setup
from deltatune.memory.shapes import llama
from deltatune.methods import METHODS
from deltatune.models.positions import Positions, Room
from deltatune.tasks.shapes import BatchShape

MB = 10**6


def made_up(setup: Setup) -> Prediction:
    """100 MB of weights (25 in 4 bits), 10 MB a row (2 with checkpointing)."""
    weights = 25 * MB if setup.quantization else 100 * MB
    rows = setup.shape.rows * (2 if setup.checkpointing else 10) * MB
    parts = dict.fromkeys(PARTS, 0) | {"weights": weights, "activations": rows}
    return Prediction(Memory(parts), 1, 1, 1, 1, 1, False, 1, 1, Room("", Positions(None, None, None), 0))


SETUP = Setup(llama(32, 64, 2, 4), "causal-lm", METHODS.get("lora")(), BatchShape(16, 64, 0, 64))


@pytest.mark.parametrize(
    ("room", "settings"),
    [
        (260, {}),
        (190, {"train.micro_batch_size": 8}),
        (111, {"train.micro_batch_size": 1}),
        (109, {"train.micro_batch_size": 4, "train.gradient_checkpointing": True}),
        (60, {"train.gradient_checkpointing": True, "quantization": "nf4", "train.precision": "auto"}),
        (20, None),
    ],
)
def test_the_least_intrusive_settings_are_proposed(room: int, settings: dict | None) -> None:
    found = propose(SETUP, OVERHEAD + room * MB, made_up)
    assert (found and found.settings) == settings


def test_16_bits_come_before_4() -> None:
    """Where `auto` means float32, since that is faster, memory is a reason of its own for bfloat16."""

    def halved(setup: Setup) -> Prediction:
        found = made_up(setup)
        if setup.quantization or setup.dtype == "float32":
            return found
        parts = {part: size // 2 for part, size in found.memory.parts.items()}
        return replace(found, memory=Memory(parts))

    found = propose(SETUP, OVERHEAD + 60 * MB, halved)
    assert found.settings == {
        "train.micro_batch_size": 8, "train.gradient_checkpointing": True, "train.precision": "bf16",
    }  # fmt: skip
    fast = propose(SETUP.changed(dtype="bfloat16"), OVERHEAD + 30 * MB, halved)
    assert fast.settings["quantization"] == "nf4"


def test_full_fine_tuning_is_not_quantized() -> None:
    full = SETUP.changed(method=METHODS.get("full")())
    assert propose(full, OVERHEAD + 60 * MB, made_up) is None
    assert all("quantization" not in change.settings for change in changes(full, 1, made_up))


def test_single_changes_say_what_they_come_to() -> None:
    found = {tuple(change.settings): change for change in changes(SETUP, OVERHEAD + 190 * MB, made_up)}
    assert found["train.micro_batch_size",].total == 110 * MB
    assert found["train.gradient_checkpointing",].fits
    assert found["quantization", "train.precision"].total == 185 * MB


def test_a_micro_batch_keeps_its_share_of_labels() -> None:
    shape = BatchShape(16, 64, 0, 64)
    assert shape.with_rows(4) == replace(shape, rows=4, labelled=16)
    half, target = shape.with_half_inputs()
    assert (half.length, target) == (4 + 30, 4)
