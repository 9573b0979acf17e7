"""P-tuning against peft's PromptEncoder; P-tuning v2 against filled caches and the attention formula."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptEncoderConfig
from tests.oracle import bridge
from torch import Tensor, nn
from torch.func import functional_call
from transformers import DynamicCache

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods.p_tuning import LstmPrompt, MlpPrompt, PTuningConfig
from deltatune.methods.p_tuning_v2 import PTuningV2Config
from deltatune.testing import tiny
from deltatune.testing.building import close

TEXT = ("t5", "llama", "gpt2", "bert")


def of_peft(architecture: str, encoder: str, submodules: int = 1) -> Any:
    config = PromptEncoderConfig(
        num_virtual_tokens=3,
        num_transformer_submodules=submodules,
        encoder_reparameterization_type=encoder.upper(),
        encoder_hidden_size=6,
    )
    return bridge.in_peft(architecture, config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
@pytest.mark.parametrize("architecture", TEXT)
def test_copied_weights_give_the_logits_of_peft(architecture: str, encoder: str) -> None:
    theirs, batch = of_peft(architecture, encoder), tiny.batch(architecture)
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    adapter = model.attach("a", PTuningConfig(n_tokens=3, encoder=encoder, hidden=6))
    network = theirs.prompt_encoder["default"].state_dict()
    network["embedding"] = network.pop("embedding.weight")
    assert adapter.prompt is not None
    adapter.prompt.load_state_dict(network)
    if architecture == "bert":
        head = theirs.base_model.classifier.modules_to_save["default"].state_dict()
        adapter.deltas["classifier"].load_stored(head)
    expected = bridge.real_logits(theirs, architecture, batch)
    close(bridge.real_logits(model, architecture, batch), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
@pytest.mark.parametrize("architecture", TEXT)
def test_files_go_both_ways_without_the_network(architecture: str, encoder: str, tmp_path: Path) -> None:
    theirs, batch = of_peft(architecture, encoder), tiny.batch(architecture)
    expected = bridge.real_logits(theirs, architecture, batch)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bridge.load_in_ours(architecture, tmp_path / "theirs")
    assert ours.configs["default"] == PTuningConfig(n_tokens=3, encoder="none")
    close(bridge.real_logits(ours, architecture, batch), expected)
    ours.save(tmp_path / "ours")
    again = bridge.load_in_peft(architecture, tmp_path / "ours")
    close(bridge.real_logits(again, architecture, batch), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_prompt_for_the_decoder_is_refused(tmp_path: Path) -> None:
    of_peft("t5", "mlp", submodules=2).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="decoder"):
        AdaptedModel(tiny.model("t5")).load(tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_deep_prompts_are_a_filled_cache(architecture: str) -> None:
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", PTuningV2Config(n_tokens=4))
    tiny.perturb(adapter, std=0.5)
    ids = tiny.batch(architecture)["input_ids"]
    cache = DynamicCache()
    for layer, site in enumerate(adapter.keys_values.values()):
        cache.update(*(tensor.detach().expand(len(ids), -1, -1, -1) for tensor in site()), layer)
    expected = tiny.model(architecture)(input_ids=ids, past_key_values=cache).logits
    close(model(input_ids=ids).logits, expected)


def test_deep_prompts_in_an_encoder_follow_the_formula() -> None:
    """softmax(q [P_k; k]^T / sqrt(d)) [P_v; v] in every layer of BERT, written out."""
    model, batch = AdaptedModel(tiny.model("bert")), tiny.batch("bert")
    adapter = model.attach("a", PTuningV2Config(n_tokens=4))
    tiny.perturb(adapter, std=0.5)
    base: Any = tiny.model("bert")
    hidden = (1.0 - batch["attention_mask"][:, None, None, :].float()) * -1e9

    def attend(self: nn.Module, states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        rows, length, _width = states.shape
        query, key, value = (
            layer(states).view(rows, length, tiny.HEADS, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        prompt_keys, prompt_values = (t.expand(rows, -1, -1, -1) for t in self.prompt())
        scores = query @ torch.cat([prompt_keys, key], 2).transpose(2, 3) / query.shape[-1] ** 0.5
        scores = scores + torch.cat([hidden.new_zeros(rows, 1, 1, 4), hidden], 3)
        mixed = scores.softmax(-1) @ torch.cat([prompt_values, value], 2)
        return mixed.transpose(1, 2).reshape(rows, length, -1), None

    for path, prompt in adapter.keys_values.items():
        site = base.get_submodule(path)
        site.prompt, site.forward = prompt, types.MethodType(attend, site)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    close(model(**inputs).logits, base(**inputs).logits)


def test_the_method_covers_every_attention() -> None:
    model = AdaptedModel(tiny.model("t5"))
    paths = list(model.attach("a", PTuningV2Config(n_tokens=2)).keys_values)
    assert len(paths) == 3 * tiny.LAYERS
    assert sum("EncDecAttention" in path for path in paths) == tiny.LAYERS


@pytest.mark.parametrize("network", [LstmPrompt, MlpPrompt])
def test_gradients_of_the_network(network: type[LstmPrompt | MlpPrompt]) -> None:
    prompt = network(2, 3, 2).double()
    names = [name for name, _ in prompt.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in prompt.parameters())

    def run(*values: Tensor) -> Tensor:
        made: Tensor = functional_call(prompt, dict(zip(names, values, strict=True)), ())
        return made

    assert torch.autograd.gradcheck(run, values)
