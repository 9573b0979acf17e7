"""`train.precision: auto`: measured once for each processor, and the same ever after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deltatune.comparison.check_folder import require_same_inputs
from deltatune.core.devices import HOST
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import PausedRun
from deltatune.training import Context, run
from deltatune.training.before import forecast as forecasting
from deltatune.training.before.forecast import forecast
from deltatune.training.given import precision
from deltatune.training.given.context import base_dtype
from deltatune.training.given.precision import CLEARLY, automatic
from deltatune.training.single import opening


class Machine:
    """A processor whose speeds are made up, and how often they are asked for."""

    def __init__(self) -> None:
        self.name, self.ratio, self.measured = "Processor A", 2.0, 0

    def measure(self) -> float:
        self.measured += 1
        return self.ratio

    def new_process(self) -> None:
        precision._ratio.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    made = Machine()
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "processor", lambda: made.name)
    monkeypatch.setattr(precision, "measured", made.measure)
    made.new_process()
    yield made
    made.new_process()


def test_a_processor_with_instructions_that_are_slow_computes_in_float32(machine: Machine) -> None:
    machine.ratio = 0.53
    assert base_dtype("auto", HOST) == "float32"
    assert automatic(HOST).why.startswith("Processor A multiplies 0.53 times as fast in bfloat16")
    assert base_dtype("bf16", HOST) == "bfloat16"  # memory is a reason, too
    assert machine.measured == 1


def test_what_was_measured_stays_so_though_the_machine_is_busy(machine: Machine) -> None:
    machine.ratio = CLEARLY + 0.01
    assert base_dtype("auto", HOST) == "bfloat16"
    machine.ratio = CLEARLY - 0.01
    machine.new_process()
    assert base_dtype("auto", HOST) == "bfloat16"
    assert machine.measured == 1


def test_within_noise_it_is_float32(machine: Machine) -> None:
    machine.ratio = CLEARLY - 0.01
    assert base_dtype("auto", HOST) == "float32"
    assert "it is taken from 1.15 times on" in automatic(HOST).why


def test_processors_that_share_a_cache_have_their_own(machine: Machine) -> None:
    assert base_dtype("auto", HOST) == "bfloat16"
    machine.name, machine.ratio = "Processor B", 0.5
    machine.new_process()
    assert base_dtype("auto", HOST) == "float32"
    machine.name = "Processor A"
    machine.new_process()
    assert base_dtype("auto", HOST) == "bfloat16"
    assert machine.measured == 2


@pytest.mark.parametrize("text", ["", "[1]", '{"bfloat16_by_float32": "fast"}', '{"bfloat16_by_float32": 0}'])
def test_a_damaged_file_is_measured_anew(machine: Machine, tmp_path: Path, text: str) -> None:
    automatic(HOST)
    [path] = (tmp_path / "cache" / "machines").iterdir()
    path.write_text(text, encoding="utf-8")
    machine.new_process()
    assert automatic(HOST).dtype == "bfloat16"
    assert machine.measured == 2


def test_another_process_may_be_faster(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    automatic(HOST)
    [path] = (tmp_path / "cache" / "machines").iterdir()
    content = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()

    def meanwhile() -> float:
        path.write_text(json.dumps(content | {"bfloat16_by_float32": 0.5}), encoding="utf-8")
        return 2.0

    monkeypatch.setattr(precision, "measured", meanwhile)
    machine.new_process()
    assert automatic(HOST).dtype == "float32"


def test_without_a_cache_each_process_measures(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        machine.new_process()
        assert automatic(HOST).dtype == "bfloat16"
    assert machine.measured == 2


def test_the_probe_leaves_torch_as_it_was() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()
    assert precision.measured() > 0
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_run_says_why_it_computes_in_its_type(
    machine: Machine, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    machine.ratio = 0.5
    said: list[Any] = []
    for asked in ("auto", "fp32"):
        recipe = make_recipe(f"train.precision={asked}", "train.max_steps=1", methods=["lora"])
        model = run(recipe, recipe.methods[0], 0, tmp_path / asked).model
        said.append((model.dtype, model.why_dtype and model.why_dtype.partition(" times")[0]))
    assert said == [("float32", "Processor A multiplies 0.5"), ("float32", None)]


def test_a_plan_shows_the_memory_of_both_where_float32_is_faster(
    machine: Machine, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(forecasting, "computes_bfloat16", lambda _: True)
    recipe, found = make_recipe(methods=["lora"]), []
    for machine.ratio in (2.0, 0.5):
        precision._ratio.cache_clear()
        monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / str(machine.ratio)))
        [entry] = forecast(recipe).planned
        found.append(entry)
    assert (found[0].precision, found[0].bf16_bytes) == ("bfloat16", None)
    assert found[1].precision == "float32"
    assert found[1].bf16_bytes == found[0].memory.total < found[1].memory.total


@pytest.mark.parametrize("noted", [True, False])
def test_what_was_begun_goes_on_in_its_precision_elsewhere(
    machine: Machine,
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    noted: bool,
) -> None:
    recipe, out = make_recipe("train.batch_size=16", methods=["lora"]), tmp_path / "runs/lora"
    paused = run(recipe, recipe.methods[0], 0, out, pause=lambda *_: True)
    assert isinstance(paused, PausedRun)
    if not noted:  # as version 0.2, which took bfloat16 where there are instructions
        monkeypatch.setattr(opening, "dtype_of_state", lambda _: None)
    machine.name, machine.ratio = "Processor B", 0.5
    machine.new_process()
    context = Context.open(recipe, Silent())
    assert context.dtype(recipe.methods[0]) == "float32"
    require_same_inputs(tmp_path, context)
    assert context.dtype(recipe.methods[0]) == "bfloat16"

    model = run(recipe, recipe.methods[0], 0, out, resume=True).model
    assert (model.dtype, model.why_dtype) == ("bfloat16", "what was begun before is in it")
    context = Context.open(recipe, Silent())
    require_same_inputs(tmp_path, context)
    assert context.dtype(recipe.methods[0]) == "bfloat16"

    monkeypatch.setattr("deltatune.training.given.context.computes_bfloat16", lambda _: False)
    assert context.dtype(recipe.methods[0]) == "float32"  # this device has none
