"""Starts of LoftQ and PiSSA on quantized bases, against the theorem of Eckart and Young; what LoftQ is for.

peft's own start of LoftQ runs on GPUs only.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.model import AdaptedModel
from deltatune.errors import TargetError
from deltatune.methods.loftq import LoftqConfig
from deltatune.methods.pissa import PissaConfig
from deltatune.quant import read_weight
from deltatune.quant.loading import loading_options
from tests.quant.conftest import FORMATS


@pytest.fixture(params=["nf4", "int8"])
def bases(tmp_path: Path, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A Llama of realistic width, as it is and in few bits."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.1,
    )  # fmt: skip
    plain = LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path / "base")
    options = loading_options(FORMATS[request.param], ["lm_head"])
    quantized = LlamaForCausalLM.from_pretrained(tmp_path / "base", **options).eval()
    model = AdaptedModel(quantized, original=lambda path: read_weight(plain.get_submodule(path)))
    return SimpleNamespace(plain=plain, model=model)


def test_the_start_is_the_best_approximation_of_the_error(bases: SimpleNamespace) -> None:
    adapter = bases.model.attach("a", LoftqConfig(r=8, alpha=4, targets=["all-linear"]))
    assert len(adapter.deltas) == 14
    for path, delta in adapter.deltas.items():
        error = bases.plain.get_submodule(path).weight - read_weight(bases.model.view.modules[path])
        rest = error - delta.lora_B.weight @ delta.lora_A.weight * delta.scale
        assert torch.linalg.matrix_rank(error - rest, rtol=1e-4) == 8
        expected = torch.linalg.svdvals(error)[8:].square().sum().sqrt()
        torch.testing.assert_close(rest.norm(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "bases", ["nf4"], indirect=True
)  # int8 rounds inputs too, which no start makes up for
def test_it_brings_the_outputs_nearer_to_the_unquantized_base(bases: SimpleNamespace) -> None:
    ids = torch.randint(0, 64, (4, 16))
    with torch.inference_mode():
        exact = bases.plain(input_ids=ids).logits
        rounded = (bases.model(input_ids=ids).logits - exact).norm()
        bases.model.attach("a", LoftqConfig(r=32, targets=["all-linear"]))
        bases.model.eval()
        assert (bases.model(input_ids=ids).logits - exact).norm() < 0.75 * rounded


def test_pissa_starts_from_the_weight_that_the_codec_reads(bases: SimpleNamespace) -> None:
    ids = torch.randint(0, 64, (2, 8))
    with torch.inference_mode():
        before = bases.model.eval()(input_ids=ids).logits
    adapter = bases.model.attach("a", PissaConfig(r=8, targets=["all-linear"]))
    for path, delta in adapter.deltas.items():
        weight = read_weight(bases.model.view.modules[path])
        rest = weight - delta.lora_B.weight @ delta.lora_A.weight * delta.scale
        expected = torch.linalg.svdvals(weight)[8:].square().sum().sqrt()
        torch.testing.assert_close(rest.norm(), expected, rtol=1e-4, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(bases.model.eval()(input_ids=ids).logits, before, rtol=0, atol=1e-5)


def test_what_is_saved_is_plain_lora(bases: SimpleNamespace, tmp_path: Path) -> None:
    bases.model.attach("a", LoftqConfig(r=4))
    bases.model.save(tmp_path / "adapter")
    ids = torch.randint(0, 64, (2, 8))
    with torch.inference_mode():
        logits = bases.model.eval()(input_ids=ids).logits
    bases.model.use()
    again = AdaptedModel(bases.model.base)
    again.load(tmp_path / "adapter")
    assert again.configs["default"].name == "lora"
    with torch.inference_mode():
        assert torch.equal(again.eval()(input_ids=ids).logits, logits)


def test_without_quantization_it_says_what_to_do(bases: SimpleNamespace) -> None:
    with pytest.raises(TargetError, match="quantization: nf4"):
        AdaptedModel(bases.plain).attach("a", LoftqConfig())
