"""LoftQ against the theorem of Eckart and Young (peft's own start runs on GPUs only), and what it is for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.model import AdaptedModel
from deltatune.errors import TargetError
from deltatune.methods.loftq import LoftqConfig
from deltatune.quant import read_weight
from deltatune.quant.loading import loading_options
from tests.quant.conftest import FORMATS


@pytest.fixture
def bases(tmp_path: Path) -> SimpleNamespace:
    """A Llama of realistic width, as it is and in four bits."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.1,
    )  # fmt: skip
    plain = LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path / "base")
    options = loading_options(FORMATS["nf4"], ["lm_head"])
    quantized = LlamaForCausalLM.from_pretrained(tmp_path / "base", **options).eval()
    model = AdaptedModel(quantized)
    model.view.original = lambda path: read_weight(plain.get_submodule(path))
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


def test_it_brings_the_outputs_nearer_to_the_unquantized_base(bases: SimpleNamespace) -> None:
    ids = torch.randint(0, 64, (4, 16))
    with torch.inference_mode():
        exact = bases.plain(input_ids=ids).logits
        rounded = (bases.model(input_ids=ids).logits - exact).norm()
        bases.model.attach("a", LoftqConfig(r=32, targets=["all-linear"]))
        bases.model.eval()
        assert (bases.model(input_ids=ids).logits - exact).norm() < 0.75 * rounded


def test_what_is_saved_is_plain_lora(bases: SimpleNamespace, tmp_path: Path) -> None:
    bases.model.attach("a", LoftqConfig(r=4))
    bases.model.save(tmp_path / "adapter")
    again = AdaptedModel(bases.model.base)
    again.load(tmp_path / "adapter")
    assert again.configs["default"].name == "lora"
    ids = torch.randint(0, 64, (2, 8))
    with torch.inference_mode():
        assert torch.equal(again.eval()(input_ids=ids).logits, bases.model.eval()(input_ids=ids).logits)


def test_without_quantization_it_says_what_to_do(bases: SimpleNamespace) -> None:
    with pytest.raises(TargetError, match="quantization: nf4"):
        AdaptedModel(bases.plain).attach("a", LoftqConfig())
