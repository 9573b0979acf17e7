"""`train.offload` where a GPU is: one layer of the base is on it at a time, and no number differs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.core.offload import Offload, at_rest, offload_of
from deltatune.errors import AdapterError
from deltatune.methods import METHODS
from deltatune.recipe import Recipe
from deltatune.runs import evaluate_run, load_run, merge, predict
from deltatune.testing import tiny
from deltatune.training import run
from tests.gpu_shaped import pretended

Make = Callable[..., Recipe]
SHORT = ("train.max_steps=3", "evaluation.max_new_tokens=3", "train.epochs=1", "train.precision=fp32")


def deep_llama() -> LlamaForCausalLM:
    """Eight layers, which are most of it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def a_step(
    gpu: pretended.Gpu, method: str, *, offload: bool, recompute: bool = False
) -> tuple[AdaptedModel, list[torch.Tensor], int]:
    """The gradients of a step, and the most bytes that were on the device in it."""
    base = deep_llama()
    if offload:
        Offload(base).place(gpu.device)
    else:
        base.to(gpu.device)
    model = AdaptedModel(base)
    adapter = model.attach("a", METHODS.get(method)(), seed=3)
    model.gradient_checkpointing(recompute)
    model.train()
    batch = {key: value.to(gpu.device) for key, value in tiny.batch("llama").items()}
    gpu.storages.peak = gpu.storages.bytes
    summed_loss(model, batch, "causal-lm").backward()
    found = [p.grad.cpu() for _, p in adapter.trainable() if p.grad is not None]
    return model, found, gpu.storages.peak


@pytest.mark.parametrize(
    ("method", "recompute"),
    [
        ("lora", True),
        pytest.param("lora", False, marks=pytest.mark.slow),
        pytest.param("dora", False, marks=pytest.mark.slow),
        pytest.param("dora", True, marks=pytest.mark.slow),
    ],
)
def test_one_layer_at_a_time_is_on_the_device(counting: pretended.Gpu, method: str, recompute: bool) -> None:
    wanted, whole = a_step(counting, method, offload=False, recompute=recompute)[1:]
    gc.collect()
    model, got, layered = a_step(counting, method, offload=True, recompute=recompute)
    assert len(got) == len(wanted) > 0
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    rests = at_rest(model.base)
    assert rests > 0.75 * sum(p.nbytes for p in model.base.parameters())
    assert whole - layered > 0.99 * rests, "the graph keeps no weight on the device"
    offload_of(model.base).leave()  # the last layer that was computed again
    layers = [p for layer in model.base.model.layers for p in layer.parameters()]
    assert not any(counting.holds(p) for p in layers), "they rest on the host"
    assert counting.holds(model.base.model.embed_tokens.weight)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_run_and_all_that_is_done_with_it(
    gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path, place: str
) -> None:
    about: dict[str, Any] = {"task": "causal-lm", "model": str(llama_folder), "methods": ["dora"]}
    plain = make_recipe(*SHORT, **about)
    wanted = run(plain, plain.methods[0], 0, tmp_path / "plain")
    recipe = make_recipe(*SHORT, f"train.offload={place}", **about)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.metrics.test == wanted.metrics.test
    assert result.model.fingerprint == wanted.model.fingerprint
    assert result.cost.memory_kind == gpu.device.type
    tensors = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / tensors).read_bytes() == (tmp_path / "plain" / tensors).read_bytes()
    loaded = load_run(tmp_path / "run")
    assert {p.device.type for p in loaded.model.base.model.layers.parameters()} == {"cpu"}
    assert loaded.model.device.type == gpu.device.type
    with pytest.raises(AdapterError, match="on the GPU as a whole"):
        loaded.model.merged()
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4, abs=1e-4)
    texts = ["3 goals", "4 songs"]
    answers = [[p.prediction for p in predict(tmp_path / run, texts)] for run in ("run", "plain")]
    assert answers[0] == answers[1]
    assert merge(tmp_path / "run", tmp_path / "merged").max_abs_logit_difference < 1e-4
