"""Predicted memory is measured memory, deep models follow from shallow ones, and QLoRA's claim comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.memory_accuracy import CASES, Case, measure
from transformers import (
    AutoConfig,
    BertConfig,
    DebertaConfig,
    FunnelConfig,
    Gemma3TextConfig,
    MambaConfig,
    XLNetConfig,
)

from deltatune.memory.predict import Setup, predict
from deltatune.memory.scale import computed_dtype, depths_of, predict_scaled, with_depths
from deltatune.memory.shapes import SHAPES, llama, shape_named
from deltatune.methods import METHODS
from deltatune.models.tasks import model_class
from deltatune.recipe.base_sections import QuantizationSpec
from deltatune.tasks.shapes import BatchShape

NF4 = QuantizationSpec(format="nf4")
QUICK = (
    Case("llama", settings='{"targets": ["all-linear"]}', checkpointing=True, length=160),
    Case("gpt2", "full", batch=8, micro=4),
    Case("t5", "prefix", batch=8, length=128),
    Case("bert", "p_tuning_v2", batch=8),
    Case("vit", "lora", batch=16),
)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.label)
def test_a_prediction_is_what_the_trainer_takes(case: Case) -> None:
    assert case in CASES
    row = measure(case)
    assert abs(row["error"]) < 0.001
    for part in ("weights", "delta", "optimizer", "activations"):
        assert row["predicted"][part] == pytest.approx(row["measured"][part], rel=0.001)


def test_a_prediction_holds_for_four_bits() -> None:
    pytest.importorskip("bitsandbytes")
    case = Case("llama", settings='{"targets": ["all-linear"]}', quantization="nf4")
    assert case in CASES
    assert abs(measure(case)["error"]) < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_prediction_is_within_the_goal(case: Case) -> None:
    assert abs(measure(case)["error"]) < 0.02


LLAMA = llama(32, 64, 9, 4, vocab_size=400)
T5 = AutoConfig.for_model(
    "t5", d_model=32, d_ff=64, d_kv=8, num_layers=12, num_decoder_layers=9, num_heads=4,
    decoder_start_token_id=0, vocab_size=900,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "method", "changes"),
    [
        (LLAMA, "prompt", {"checkpointing": True}),
        (LLAMA, "full", {"checkpointing": True, "dtype": "bfloat16", "micro_batches": 4}),
        pytest.param(LLAMA, "lora", {"quantization": NF4}, marks=pytest.mark.slow),
        pytest.param(T5, "lora", {}, marks=pytest.mark.slow),
        pytest.param(T5, "full", {"checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_a_few_layers_tell_of_all(config: Any, method: str, changes: dict[str, Any]) -> None:
    if "quantization" in changes:
        pytest.importorskip("bitsandbytes")
    seq2seq = config is T5
    task = "text-to-text" if seq2seq else "causal-lm"
    shape = BatchShape(4, 32, 8 if seq2seq else 0, 30)
    setup = Setup(config, task, METHODS.get(method)(), shape, **changes)
    direct, scaled = predict(setup), predict_scaled(setup)
    assert scaled.memory.parts == direct.memory.parts
    assert replace(scaled, memory=direct.memory) == direct


def test_qlora_brings_65b_into_48_gigabytes() -> None:
    """Dettmers et al. 2023, abstract and section 1: from more than 780 GB to less than 48 GB."""
    pytest.importorskip("bitsandbytes")
    task, config = "causal-lm", shape_named("llama-65b")
    shape = BatchShape(1, 512, 0, 128)
    qlora = METHODS.get("lora")(r=64, targets=("all-linear",))
    small = predict_scaled(Setup(config, task, qlora, shape, quantization=NF4, checkpointing=True))
    full = predict_scaled(
        Setup(config, task, METHODS.get("full")(), shape, dtype="bfloat16", checkpointing=True)
    )
    assert small.total_parameters == full.total_parameters == 65_285_660_672
    assert small.memory.total < 48e9
    assert full.memory.total > 780e9
    # the paper's own sum for 16 bits: weights and gradients of 2 bytes, and Adam's moments of 4 and 4
    assert 12 * full.total_parameters > 780e9


def test_the_work_of_a_step_is_that_of_the_formula() -> None:
    """6 FLOP a token and parameter of the layers for full fine-tuning, 4 for LoRA (no weight gradients).

    Of the last layer's output and feed-forward part, only at the one label of each row.
    """
    config = llama(64, 128, 4, 4, vocab_size=8)
    shape = BatchShape(2, 16, 0, 2)
    layers = 4 * (4 * 64 * 64 + 3 * 64 * 128) - 15 / 16 * (64 * 64 + 3 * 64 * 128)
    full = predict(Setup(config, "causal-lm", METHODS.get("full")(), shape))
    lora = predict(Setup(config, "causal-lm", METHODS.get("lora")(r=1), shape))
    assert full.flops / (6 * 32 * layers) == pytest.approx(1, abs=0.1)
    assert lora.flops / (4 * 32 * layers) == pytest.approx(1, abs=0.15)


def test_shorter_state_of_8_bit_adam_counts_on_gpus_only() -> None:
    config, method = llama(64, 128, 2, 4, vocab_size=400), METHODS.get("full")()
    setup = Setup(config, "causal-lm", method, BatchShape(1, 8, 0, 2), optimizer="adamw-8bit")
    on_cpu, on_gpu = predict(setup), predict(setup.changed(device="cuda"))
    assert on_gpu.memory.parts["optimizer"] < 0.3 * on_cpu.memory.parts["optimizer"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_that_its_paper_prints(name: str) -> None:
    """Rounded or cut off where the paper does: 540.35B to tens of millions, 120B to tens of billions."""
    shape, config = SHAPES[name], shape_named(name)
    digits = shape.published.rstrip("BM")
    scale = 1e9 if shape.published.endswith("B") else 1e6
    _, _, decimals = digits.partition(".")
    least = 10.0 ** (-len(decimals) if decimals else len(digits) - len(digits.rstrip("0")))
    task = "text-to-text" if config.is_encoder_decoder else "causal-lm"
    counts = []
    for deep in (1, 2):
        with torch.device("meta"):
            base = model_class(task).from_config(with_depths(config, dict.fromkeys(depths_of(config), deep)))
        counts.append(sum(parameter.numel() for parameter in base.parameters()))
    [layers] = set(depths_of(config).values())
    counted = counts[0] + (layers - 1) * (counts[1] - counts[0]) + shape.lacks
    if not shape.embeddings_counted:
        counted -= base.get_input_embeddings().weight.numel()
    assert abs(counted / scale - float(digits)) < least


def test_an_unknown_shape_suggests_the_nearest() -> None:
    from deltatune.errors import ModelError

    with pytest.raises(ModelError, match="Did you mean 'llama-65b'"):
        shape_named("llama65b")


@pytest.mark.parametrize(("kind", "dtype"), [(DebertaConfig, "float32"), (BertConfig, "bfloat16")])
def test_code_that_cannot_compute_in_bfloat16_is_planned_in_float32(kind: Any, dtype: str) -> None:
    config = kind(hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=16)
    setup = Setup(
        config, "text-classification", METHODS.get("lora")(), BatchShape(2, 8, 0, 2), dtype="bfloat16"
    )
    assert computed_dtype(setup) == dtype
    predict_scaled(setup.changed(dtype=dtype))


SSM = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 10, "state_size": 4}
GEMMA = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (MambaConfig(**SSM), "causal-lm"),  # the kinds of its layers follow from their number
        (Gemma3TextConfig(**GEMMA), "causal-lm"),  # has a buffer made with torch.tensor
        (XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=16), "text-classification"),
        (FunnelConfig(vocab_size=64, block_sizes=[5, 5], d_model=16, n_head=2, d_head=8, d_inner=16),
         "text-classification"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)  # fmt: skip
def test_any_way_to_build_a_base_can_be_planned(config: Any, task: str) -> None:
    setup = Setup(config, task, METHODS.get("lora")(targets=("all-linear",)), BatchShape(2, 8, 0, 2))
    assert predict_scaled(setup).memory.total > 0
