"""Files of peft with options, spellings and places that people have: the same logits as peft's own model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltatune.checkpoint.inspection import inspect
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.testing import tiny
from deltatune.testing.building import close

PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
IDS = torch.randint(3, 40, (2, 8), generator=torch.Generator().manual_seed(0))


def saved(folder: Path, base: Any, *, name: str = "default", safe: bool = True, **options: Any) -> Tensor:
    """Write an adapter of peft's that acts, and give the logits that it has."""
    config = LoraConfig(**{**PLAIN, "task_type": "CAUSAL_LM", **options})
    return written(get_peft_model(copy.deepcopy(base), config, adapter_name=name), folder, safe=safe)


def written(theirs: Any, folder: Path, *, safe: bool = True) -> Tensor:
    """Let a model of peft's act, save it, and give its logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    theirs.eval().save_pretrained(folder, safe_serialization=safe)
    with torch.inference_mode():
        logits: Tensor = theirs(input_ids=IDS).logits
    return logits


def loaded(base: Any, folder: Path) -> Tensor:
    model = AdaptedModel(copy.deepcopy(base))
    model.load(folder)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=IDS).logits
    return logits


OPTIONS: dict[str, dict[str, Any]] = {
    "rank_pattern": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 32}},
    "both, rslora": {"rank_pattern": {"v_proj": 7}, "alpha_pattern": {"layers.1.*": 3}, "use_rslora": True},
    "dora with ranks": {"rank_pattern": {"v_proj": 2}, "use_dora": True},
    "a bias that is not there": {"bias": "lora_only"},
    "layers_to_transform": {"layers_to_transform": [1]},
    "layers_pattern": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "exclude_modules": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "regex": {"target_modules": r".*layers\.\d+\.self_attn\.(q|v)_proj"},
    "modules_to_save by the end of a name": {"modules_to_save": ["norm"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options: dict[str, Any], tmp_path: Path) -> None:
    base = tiny.model("llama")
    wanted = saved(tmp_path / "theirs", base, **options)
    close(loaded(base, tmp_path / "theirs"), wanted)
    model = AdaptedModel(copy.deepcopy(base))
    model.load(tmp_path / "theirs")
    model.save(tmp_path / "ours")  # and it goes back to peft
    close(loaded(base, tmp_path / "ours"), wanted)
    theirs = copy.deepcopy(base)
    (tmp_path / "ours/deltatune.json").unlink()
    close(loaded(theirs, tmp_path / "ours"), wanted)


def biased(architecture: str) -> Any:
    """A base whose biases are not zero."""
    base = tiny.model(architecture)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith(".bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return base


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_trained_biases(architecture: str, bias: str, options: dict[str, Any], tmp_path: Path) -> None:
    if architecture == "gpt2":
        options = {**options, "target_modules": ["c_attn"]}
    base = biased(architecture)
    wanted = saved(tmp_path / "theirs", base, bias=bias, **options)
    tensors = load_file(tmp_path / "theirs/adapter_model.safetensors")
    assert any(key.endswith(".base_layer.bias") for key in tensors)
    model = AdaptedModel(copy.deepcopy(base))
    model.load(tmp_path / "theirs")
    with torch.inference_mode():
        close(model(input_ids=IDS).logits, wanted)
        close(model.merged()(input_ids=IDS).logits, wanted)
    model.save(tmp_path / "ours")
    close(loaded(base, tmp_path / "ours"), wanted)
    theirs: Any = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "ours")).eval()
    with torch.inference_mode():
        close(theirs(input_ids=IDS).logits, wanted)


BRIDGED: dict[str, Any] = {
    "the update has a bias": LoraConfig(**PLAIN, lora_bias=True, task_type="CAUSAL_LM"),
    "the update has a bias, in one layer": LoraConfig(**PLAIN, lora_bias=True, layers_to_transform=[1]),
    "regex": LoHaConfig(r=2, target_modules=r".*layers\.\d+\.self_attn\.(q|v)_proj"),
    "layers_to_transform": LoHaConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1]),
    "exclude_modules": LoHaConfig(
        r=2, target_modules=["q_proj"], exclude_modules=["layers.0.self_attn.q_proj"]
    ),
}


@pytest.mark.parametrize("config", BRIDGED.values(), ids=BRIDGED)
def test_what_the_bridge_reads_acts_where_its_tensors_are(config: Any, tmp_path: Path) -> None:
    base = biased("qwen2")
    wanted = written(get_peft_model(copy.deepcopy(base), config), tmp_path)
    model = AdaptedModel(copy.deepcopy(base))
    model.load(tmp_path)
    assert model.configs["default"].name == "peft"
    with torch.inference_mode():
        close(model(input_ids=IDS).logits, wanted)
        close(model.merged()(input_ids=IDS).logits, wanted)
    model.save(tmp_path / "ours")
    close(loaded(base, tmp_path / "ours"), wanted)


def test_an_update_with_a_bias_is_not_merged_into_a_layer_without(tmp_path: Path) -> None:
    base = tiny.model("llama")
    wanted = saved(tmp_path, base, lora_bias=True)
    close(loaded(base, tmp_path), wanted)
    model = AdaptedModel(base)
    model.load(tmp_path)
    with pytest.raises(AdapterError, match="has no bias"):
        model.merged()


ROOT = "base_model.model."
SPELLINGS: dict[str, Callable[[str], str]] = {
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled within": lambda key: f"{ROOT}_orig_mod.{key.removeprefix(ROOT)}",
    "data parallel": lambda key: f"module.{key}",
    "no prefix": lambda key: key.removeprefix(ROOT),
    "with its name": lambda key: key.replace(".weight", ".default.weight"),
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_keys(spelled: Callable[[str], str], tmp_path: Path) -> None:
    base = tiny.model("llama")
    wanted = saved(tmp_path, base)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({spelled(key): value for key, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    close(loaded(base, tmp_path), wanted)


def test_a_folder_in_the_folder(tmp_path: Path) -> None:
    base = tiny.model("llama")
    wanted = saved(tmp_path, base, name="summaries")
    assert not (tmp_path / "adapter_config.json").exists()
    close(loaded(base, tmp_path), wanted)
    assert inspect(tmp_path).method == "lora"
    shutil.copytree(tmp_path / "summaries", tmp_path / "titles")
    with pytest.raises(AdapterError, match="2 adapters: summaries, titles"):
        loaded(base, tmp_path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    base = tiny.model("llama")
    saved(tmp_path, base)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match="a pickle") as refusal:
        loaded(base, tmp_path)
    assert "save_pretrained" in str(refusal.value.remedy)


def test_tables_of_added_tokens(tmp_path: Path) -> None:
    base = tiny.model("llama")
    larger, smaller = copy.deepcopy(base), copy.deepcopy(base)
    torch.manual_seed(5)
    larger.resize_token_embeddings(tiny.VOCABULARY + 2)
    wanted = saved(tmp_path, larger)
    torch.manual_seed(6)
    base.resize_token_embeddings(tiny.VOCABULARY + 2)  # anew, with other rows
    base.model.embed_tokens.weight.data[-2:] += 1.0
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors |= {f"{ROOT}{name}": larger.get_parameter(name).detach().clone()
                for name in ("model.embed_tokens.weight", "lm_head.weight")}  # fmt: skip
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    close(loaded(base, tmp_path), wanted)
    with pytest.raises(AdapterError, match="has the shape"):
        loaded(smaller, tmp_path)


def test_both_heads_of_a_distilbert(tmp_path: Path) -> None:
    """peft saves what ends in `classifier`, which DistilBERT's `pre_classifier` does as well."""
    torch.manual_seed(0)
    size = {"vocab_size": 48, "dim": 16, "n_layers": 1, "n_heads": 4, "hidden_dim": 32}
    base = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**size)).eval()
    wanted = saved(tmp_path, base, target_modules=["q_lin", "v_lin"], task_type="SEQ_CLS")
    torch.nn.init.normal_(base.classifier.weight)
    torch.nn.init.normal_(base.pre_classifier.weight)
    close(loaded(base, tmp_path), wanted)
    assert json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["modules_to_save"]
