"""What was wrong on GPUs before there was one to try: each failed once."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltatune.core import devices
from deltatune.core.ahead import Ahead
from deltatune.core.devices import computes_bfloat16, device_of, memory_left, own_random_states
from deltatune.core.loss import summed_cross_entropy
from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError, TrainingError
from deltatune.evaluation import run as evaluation_run
from deltatune.evaluation.kinds.texts import Texts
from deltatune.memory.predict import Setup, predict
from deltatune.memory.shapes import llama
from deltatune.methods import METHODS
from deltatune.models.fingerprint import checksum
from deltatune.models.load import load_base
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.base_sections import ModelSpec
from deltatune.runs import merge
from deltatune.tasks.shapes import BatchShape
from deltatune.testing import tiny
from deltatune.training import Context, run
from deltatune.training.before.forecast import this_machine
from deltatune.training.given.context import base_dtype
from deltatune.training.given.machine import deterministic
from deltatune.training.loop.state import load_optimizer_state, optimizer_state
from deltatune.training.loop.trunk_cache import TrunkCache
from deltatune.training.proof.parts import without_effect
from deltatune.training.race.lanes import Out, _out
from tests.gpu_shaped import pretended

Make = Callable[..., Recipe]


class Heard(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def test_the_optimizer_counts_its_steps_where_its_parameters_are(gpu: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, device=gpu.device))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = [{key: value.cpu() for key, value in optimizer_state(optimizer, [parameter])[0].items()}]
    load_optimizer_state(optimizer, [parameter], saved)
    optimizer.step()
    assert {value.device.type for value in optimizer.state[parameter].values()} == {gpu.device.type}


def test_a_quantized_run_is_merged_and_compared(
    gpu: Any, make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run as it was trained goes to the GPU, wherever deltas are folded: so must the batch."""
    recipe = make_recipe("train.max_steps=2", "evaluation.max_new_tokens=2")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    as_if = {"format": "int8", "double": False, "compute": "fp32"}
    _change(tmp_path / "run/recipe.yaml", as_if)
    plain = load_base
    monkeypatch.setattr(
        "deltatune.runs.load.load_base", lambda *args, **kw: plain(*args, **kw | {"quantization": None})
    )
    assert merge(tmp_path / "run", tmp_path / "merged").max_abs_difference_to_quantized is not None


def _change(path: Path, quantization: dict[str, Any]) -> None:
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"quantization": quantization}), encoding="utf-8")


def test_one_base_at_a_time_is_on_the_gpu(counting: pretended.Gpu, make_recipe: Make) -> None:
    coarse = {"lora": {}, "name": "coarse", "train": {"precision": "bf16"}}
    recipe = make_recipe("train.precision=fp32", methods=["lora", coarse])
    context = Context.open(recipe, Silent())
    sizes = []
    for entry in recipe.methods:
        base = context.base(entry)
        base.adapted()
        gc.collect()
        sizes.append((base.dtype, counting.storages.bytes))
        del base
    [(_, fine), (dtype, both)] = sizes
    assert dtype == "bfloat16"
    assert both < 0.6 * fine


def test_what_a_gpu_emulates_it_is_not_asked_for(
    pretend: Callable[..., Any], make_recipe: Make, t5_folder: Path
) -> None:
    heard = Heard()
    with pretend(emulates_bf16=True) as old:
        assert not computes_bfloat16(old.device)
        assert base_dtype("auto", old.device) == "float32"
        recipe = make_recipe()
        assert Context.open(recipe, heard).base(recipe.methods[0]).dtype == "float32"
    assert any("no instructions for bfloat16" in warning for warning in heard.warned)
    with pretend() as new:
        assert base_dtype("auto", new.device) == "bfloat16"


def test_a_loss_is_predicted_in_the_pieces_in_which_it_is_computed() -> None:
    config = llama(64, 128, 1, 2, vocab_size=49152)
    setup = Setup(config, "causal-lm", METHODS.get("lora")(), BatchShape(16, 64, 0, 16 * 32))
    here, there = predict(setup).memory.parts, predict(setup.changed(device="cuda")).memory.parts
    pieces = 2**25 // 49152 * 49152 * 4  # bytes of float32 that a GPU makes at a time, of 512 rows all
    assert min(pieces, 512 * 49152 * 4) > 2**26
    assert there["logits"] > here["logits"] + 2**26


@pytest.mark.parametrize("apple", [False, True])
def test_running_out_of_memory_in_an_evaluation_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, apple: bool
) -> None:
    said = "MPS backend out of memory (...)" if apple else "CUDA out of memory. Tried to allocate 2 GiB."
    error = (RuntimeError if apple else torch.OutOfMemoryError)(said)

    def fail(*_: Any) -> Any:
        raise error

    for name in ("mean_loss", "answer"):
        monkeypatch.setattr(Texts, name, fail)
    encoder: Any = type("Encoder", (), {"task": "causal-lm"})()
    spec: Any = type("Spec", (), {"batch_size": 32, "num_beams": 4, "max_new_tokens": 8})()
    with pytest.raises(TrainingError, match=r"evaluation\.batch_size=16 .*max_new_tokens"):
        evaluation_run.loss_on(None, None, encoder, 32)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"with 4 beams.*num_beams=1"):
        evaluation_run.answer(None, [], None, encoder, spec)  # type: ignore[arg-type]


def test_what_is_drawn_for_a_start_leaves_all_generators_as_they_were(
    gpu: Any, tiny_on_gpu: None, t5_folder: Path
) -> None:
    before = devices.random_states()
    assert set(before) == {"cpu", gpu.device.type}
    model = AdaptedModel(tiny.model("llama"))
    model.attach("a", METHODS.get("lora")(), seed=3)
    load_base(ModelSpec(name=str(t5_folder)), "text-to-text", None)
    with own_random_states():
        torch.manual_seed(7)
        torch.rand(3, device=gpu.device)
    after = devices.random_states()
    assert all(torch.equal(before[kind], after[kind]) for kind in before)


def test_a_trial_of_parameters_draws_the_same_twice_on_the_gpu(gpu: Any) -> None:
    """A base whose dropout draws on the GPU has the same loss again, if the parameters have no effect."""
    parameter = torch.nn.Parameter(torch.ones(2, device=gpu.device))
    assert without_effect([parameter], lambda: float(torch.rand((), device=gpu.device)))


def test_an_error_of_a_raced_run_keeps_no_tensor() -> None:
    gone: list[weakref.ref[Any]] = []

    def fail() -> None:
        activations = torch.zeros(1000)
        gone.append(weakref.ref(activations))
        try:
            raise RuntimeError("CUDA out of memory.")
        except RuntimeError as cause:
            raise TrainingError("a step does not fit.") from cause

    def caught() -> Out:
        try:
            fail()
        except TrainingError as error:
            return _out(error)
        raise AssertionError

    out = caught()
    gc.collect()
    assert isinstance(out.outcome, TrainingError)
    assert gone[0]() is None


def test_no_device_is_asked_for_float64(gpu: Any, tiny_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have none: numbers are copied to the host first."""
    plain = torch.Tensor.double

    def double(self: torch.Tensor, *args: Any) -> torch.Tensor:
        assert self.device.type == "cpu", "float64 on the GPU"
        return plain(self, *args)

    monkeypatch.setattr(torch.Tensor, "double", double)
    from deltatune.evaluation.kinds.texts import _losses

    job: Any = type("Job", (), {"model": AdaptedModel(tiny.model("llama")), "encoder": None})()
    job.encoder = type("Encoder", (), {"task": "causal-lm"})()
    batch = tiny.batch("llama")
    batch["labels"] = batch["labels"].cpu()
    assert len(_losses(job, batch)) == 4


def test_devices_have_names(pretend: Callable[..., Any], make_recipe: Make) -> None:
    assert make_recipe(device="cuda:1").device == "cuda:1"
    assert "device" not in make_recipe().dump()
    with pytest.raises(RecipeError, match="device"):
        make_recipe(device="gpu")
    with contextlib.suppress(RuntimeError):  # of a machine that has one
        assert torch.cuda.is_available() or device_of("auto").type != "cuda"
    with pretend() as there:
        assert device_of("auto").type == there.device.type
        assert device_of("cpu").type == "cpu"
        with pytest.raises(RecipeError, match=r"no cuda:1; this machine has cpu, cuda"):
            device_of("cuda:1")


def test_apples_and_intels_gpus_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind in ("xpu", "mps")))
    assert device_of("auto").type == "xpu"
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == "mps"))
    assert device_of("auto").type == "mps"
    assert not computes_bfloat16(torch.device("mps"))


def test_what_others_have_of_a_gpu_does_not_count_as_room(pretend: Callable[..., Any]) -> None:
    with pretend(total=80 << 30, taken=60 << 30) as shared:
        mine = torch.zeros(1 << 20, device=shared.device)
        assert memory_left(shared.device) == 20 << 30  # what this process has is its own room
        assert this_machine(shared.device).memory_bytes == 20 << 30
        del mine


def test_class_weights_go_where_the_logits_are(gpu: Any) -> None:
    logits = torch.randn(4, 3).to(gpu.device).requires_grad_()
    targets = torch.tensor([0, 1, 2, 0]).to(gpu.device)
    summed_cross_entropy(logits, targets, torch.tensor([1.0, 2.0, 3.0])).backward()
    assert gpu.holds(logits.grad)


def test_whether_a_base_was_altered_is_told_where_it_is(counting: pretended.Gpu) -> None:
    """Once a run, without copying the weights: by a sum that any change of one number changes."""
    base = tiny.model("llama").to(counting.device)
    base.register_buffer("places", torch.arange(5, device=counting.device))
    before, waited = checksum(base), counting.waited
    assert checksum(base) == before
    assert counting.waited - waited == 1
    with torch.no_grad():
        for parameter in [*base.parameters()][::4]:
            bits = parameter.view(torch.int32).view(-1)
            bits[-1] ^= 1 << 31
            assert checksum(base) != before
            bits[-1] ^= 1 << 31
    assert checksum(base) == before
    assert checksum(base.bfloat16()) != before


def test_kept_rows_are_brought_without_waiting(counting: pretended.Gpu) -> None:
    kept = np.arange(24, dtype=np.uint8).reshape(6, 4)
    like = torch.zeros(1, device=counting.device)
    cache = TrunkCache(None, kept, [(0, 4), (4, 2)], like, 0.0)  # type: ignore[arg-type]
    hidden = cache._padded([0, 1])
    assert counting.holds(hidden)
    assert hidden.shape == (2, 4, 1)
    assert counting.waited == 0


def test_a_gpu_may_be_asked_for_the_same_each_time(gpu: Any, make_recipe: Make) -> None:
    assert not make_recipe().train.deterministic
    with deterministic(torch.device("cpu"), True):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(gpu.device, True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_batches_are_made_ahead_by_threads_in_pinned_memory(counting: pretended.Gpu) -> None:
    made: list[str] = []

    def make(rows: Any) -> dict[str, torch.Tensor]:
        made.append(threading.current_thread().name)
        return {"input_ids": torch.tensor(list(rows))}

    parts = [[0, 1], [2, 3], [4, 5]]
    with Ahead(make, counting.device) as ahead:
        found = [(rows, batch["input_ids"]) for rows, batch in ahead.in_turn(parts)]
    assert [ids.tolist() for _, ids in found] == parts
    assert all(ids.is_pinned() for _, ids in found)
    assert all(name.startswith("batches") for name in made)
    with Ahead(make, torch.device("cpu")) as ahead:
        assert [batch["input_ids"].tolist() for _, batch in ahead.in_turn(parts)] == parts
    assert made[-1] == threading.current_thread().name
