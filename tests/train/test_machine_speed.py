"""The speed of training, measured on a shallow model like the one that is asked about."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune import quant
from deltatune.memory.predict import Setup
from deltatune.memory.shapes import llama
from deltatune.methods import METHODS
from deltatune.recipe.base_sections import QuantizationSpec
from deltatune.tasks.shapes import BatchShape
from deltatune.training.before import machine_speed
from deltatune.training.before.machine_speed import MachineSpeed

LLAMA = llama(64, 128, 4, 4, vocab_size=400)


def timed_bases(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    bases: list[Any] = []
    make = machine_speed._random_base
    monkeypatch.setattr(machine_speed, "_random_base", lambda setup: bases.append(make(setup)) or bases[-1])
    return bases


def test_a_rate_is_measured_once_on_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    bases, rates = timed_bases(monkeypatch), MachineSpeed()
    setup = Setup(LLAMA, "causal-lm", METHODS.get("lora")(), BatchShape(2, 16, 0, 8))
    assert rates.of(setup) > 0
    assert rates.of(setup.changed(checkpointing=True)) == rates.of(setup)
    assert [len(base.model.layers) for base in bases] == [2]
    rates.of(setup.changed(method=METHODS.get("full")()))
    assert len(bases) == 2


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_quantized_base_is_timed_with_its_bits(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    pytest.importorskip("bitsandbytes")
    bases = timed_bases(monkeypatch)
    setup = Setup(LLAMA, "causal-lm", METHODS.get("loftq")(), BatchShape(2, 16, 0, 8))
    assert MachineSpeed().of(setup.changed(quantization=QuantizationSpec(format=name))) > 0
    assert (quant.describe(bases[0]) or "").startswith(name)
