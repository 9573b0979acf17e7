"""Reading quantized weights, against the layers themselves and against bitsandbytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune import quant
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.errors import AdapterError, ModelError
from deltatune.methods.lora import LoraConfig
from deltatune.models.fingerprint import fingerprint
from deltatune.quant.loading import check_widths, loading_options
from deltatune.testing import tiny
from tests.quant.conftest import FORMATS, original, quantized

ARCHITECTURES = ("t5", "llama", "gpt2", "bert", "vit")
ERROR = {"nf4": (0.08, 0.11), "fp4-single": (0.1, 0.15), "int8": (0.003, 0.01)}
"""Relative rounding error of a normally distributed weight in each format."""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_read_is_what_the_layer_computes_with(architecture: str, name: str) -> None:
    model = quantized(architecture, name)
    layers = [module for module in model.modules() if quant.codec_of(module)]
    assert len(layers) >= 8
    for module in layers:
        weight = quant.read_weight(module)
        assert weight.shape == (module.out_features, module.in_features)
        x = torch.randn(3, module.in_features)
        # LLM.int8 rounds the input to 8 bits as well
        tolerance = 0.02 if name == "int8" else 1e-5
        expected = F.linear(x, weight, module.bias)
        assert (module(x) - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("name", FORMATS)
def test_the_rounding_is_that_of_the_format(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4
    )
    plain = LlamaForCausalLM(config)
    plain.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, **loading_options(FORMATS[name]))
    exact = plain.model.layers[0].mlp.up_proj.weight
    error = (quant.read_weight(model.model.layers[0].mlp.up_proj) - exact).norm() / exact.norm()
    assert ERROR[name][0] < error < ERROR[name][1]


def test_widths_that_bitsandbytes_reads_wrongly_on_cpus_are_refused() -> None:
    """Its kernel for AVX512 mixes up the scales of 4-bit blocks that do not end with a row."""
    functional = pytest.importorskip("bitsandbytes").functional
    errors = []
    for width in (96, 128):
        weight = torch.randn(64, width)
        again = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4"))
        errors.append(float((again - weight).norm() / weight.norm()))
    assert errors[1] < 0.1
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert errors[0] > 0.1  # once this fails, the refusal can go
    with pytest.raises(ModelError, match="multiple of 64"):
        check_widths(quantized("llama", "nf4"), "tiny")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_are_those_of_the_plain_model(architecture: str) -> None:
    model, plain = quantized(architecture, "nf4"), original(architecture)
    assert quant.parameter_count(model) == sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in model.parameters()) < quant.parameter_count(model)
    assert quant.describe(plain) is None


def test_heads_and_output_keep_their_precision() -> None:
    for architecture, kept in (("bert", "classifier"), ("llama", "lm_head")):
        assert quant.codec_of(quantized(architecture, "nf4").get_submodule(kept)) is None


@pytest.mark.parametrize("name", FORMATS)
def test_evaluation_does_not_rewrite_the_weights(name: str) -> None:
    """bitsandbytes packs 4-bit weights anew, and rounds their scales, when a CPU model first evaluates."""
    model, batch = quantized("llama", name).eval(), tiny.batch("llama")
    before = fingerprint(model)
    with torch.inference_mode():
        first = model(**batch).logits
        again = model(**batch).logits
    assert torch.equal(first, again)
    assert fingerprint(model) == before


def test_roles_and_weights_of_a_quantized_conv1d() -> None:
    """GPT-2's transposed layers become ordinary ones when they are quantized."""
    view = BaseView(quantized("gpt2", "nf4"))
    found = view.select(["query"])
    assert found
    assert all(isinstance(module, nn.Linear) for module in found.values())
    assert view.weight(next(iter(found))).shape == (3 * tiny.D, tiny.D)


def test_folding_into_four_bits_is_refused() -> None:
    model = AdaptedModel(quantized("t5", "nf4"))
    model.attach("a", LoraConfig(r=2))
    with pytest.raises(AdapterError, match=r"nf4 double.*without quantization"):
        model.merged()


def test_a_delta_of_a_quantized_base_loads_on_the_plain_one(tmp_path: Path) -> None:
    model = AdaptedModel(quantized("t5", "nf4"))
    tiny.perturb(model.attach("a", LoraConfig(r=2)))
    model.save(tmp_path / "adapter")
    plain = AdaptedModel(original("t5"))
    plain.load(tmp_path / "adapter")
    assert str(plain.adapter("default").stored()) == str(model.adapter("a").stored())
    batch = tiny.batch("t5")
    with torch.inference_mode():
        expected = plain.eval()(**batch).logits
        torch.testing.assert_close(plain.merged()(**batch).logits, expected, rtol=1e-4, atol=1e-4)
