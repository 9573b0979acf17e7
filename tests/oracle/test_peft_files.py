"""Copied weights give peft's logits, and files load both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from tests.contract.cases import CASES, Case
from tests.oracle import bridge

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny
from deltatune.testing.building import adapted, close

_PROJECTIONS = ["bart", "mbart", "marian", "opt", "llama", "qwen2", "mistral", "glm", "mixtral"]
TARGETS = {
    **{a: ["q", "v"] for a in ("t5", "mt5")},
    **{a: ["q_proj", "v_proj"] for a in (*_PROJECTIONS, *tiny.VISION)},
    **{a: ["query", "value"] for a in ("bert", "roberta")},
    "deberta-v2": ["self.query_proj", "value_proj"],
    **{a: ["query_key_value"] for a in ("gpt_neox", "bloom")},
    "gpt2": ["c_attn"],
}
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "bert": "word_embeddings"}


def lora(architecture: str, **options: Any) -> Any:
    return LoraConfig(
        **{"r": 2, "lora_alpha": 4, "target_modules": TARGETS[architecture], "lora_dropout": 0.1, **options}
    )


FROM_PEFT = [
    *(pytest.param(a, lora(a), id=f"lora-{a}") for a in tiny.ARCHITECTURES),
    *(
        pytest.param(a, lora(a, target_modules="all-linear"), id=f"lora-all-linear-{a}")
        for a in ("t5", "bart", "llama", "gpt2", "bert")
    ),
    *(
        pytest.param(a, lora(a, target_modules=[*TARGETS[a], module]), id=f"lora-embedding-{a}")
        for a, module in EMBEDDINGS.items()
    ),
    pytest.param("llama", lora("llama", use_rslora=True, r=4), id="rslora-llama"),
    pytest.param("gpt2", lora("gpt2", target_modules=["c_attn", "c_proj", "c_fc"]), id="lora-conv1d-gpt2"),
    *(
        pytest.param(
            a,
            AdaLoraConfig(init_r=3, target_r=2, lora_alpha=4, total_step=10, target_modules=TARGETS[a]),
            id=f"adalora-{a}",
        )
        for a in tiny.CORE
    ),
    *(
        pytest.param(a, PrefixTuningConfig(num_virtual_tokens=3), id=f"prefix-{a}")
        for a in (*tiny.CORE_CAUSAL, "bloom", *tiny.SEQ2SEQ)
    ),
    *(
        pytest.param(
            a,
            PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=6),
            id=f"prefix-projection-{a}",
        )
        for a in (*tiny.CORE_GENERATING, "bloom")
    ),
    *(
        pytest.param(
            a, PromptTuningConfig(num_virtual_tokens=3, num_transformer_submodules=1), id=f"prompt-{a}"
        )
        for a in ("t5", "llama", "gpt2", "bert")
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "config"), FROM_PEFT)
def test_files_of_peft_give_its_logits(architecture: str, config: Any, tmp_path: Path) -> None:
    theirs, batch = bridge.in_peft(architecture, config), tiny.batch(architecture)
    expected = bridge.real_logits(theirs, architecture, batch)
    plain = bridge.real_logits(tiny.model(architecture), architecture, batch)
    assert (expected - plain).abs().max() > 1e-3
    theirs.save_pretrained(tmp_path)
    ours = bridge.load_in_ours(architecture, tmp_path)
    close(bridge.real_logits(ours, architecture, batch), expected)
    assert all(ours.fired().values())


LEAVES_LOGITS = [
    pytest.param(
        case,
        architecture,
        marks=[] if architecture in tiny.CORE or case.label == "lora" else [pytest.mark.slow],
        id=f"{case.label}-{architecture}",
    )
    for case in CASES
    for architecture in sorted(case.peft)
    if not case.refused(architecture)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "architecture"), LEAVES_LOGITS)
def test_our_files_give_the_same_logits_in_peft(case: Case, architecture: str, tmp_path: Path) -> None:
    ours, batch = adapted(case, architecture), tiny.batch(architecture)
    ours.save(tmp_path / "delta")
    theirs = bridge.load_in_peft(architecture, tmp_path / "delta")
    close(bridge.real_logits(theirs, architecture, batch), bridge.real_logits(ours, architecture, batch))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_our_lora_on_everything_loads_in_peft(architecture: str, tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    targets = ["all-linear", *([EMBEDDINGS[architecture]] if architecture in EMBEDDINGS else [])]
    tiny.perturb(model.attach("a", METHODS.get("lora")(r=2, targets=targets)), std=0.05)
    batch = tiny.batch(architecture)
    model.save(tmp_path / "delta")
    theirs = bridge.load_in_peft(architecture, tmp_path / "delta")
    close(bridge.real_logits(theirs, architecture, batch), bridge.real_logits(model, architecture, batch))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", tiny.CORE)
def test_allocated_adalora_loads_both_ways(architecture: str, tmp_path: Path) -> None:
    model, batch = AdaptedModel(tiny.model(architecture), tiny.heads(architecture)), tiny.batch(architecture)
    adapter = model.attach("a", METHODS.get("adalora")(init_r=3, target_r=1, tinit=1, tfinal=1, interval=1))
    assert isinstance(adapter, AdaLoraAdapter)
    tiny.perturb(adapter)
    adapter.start(4)
    for step in range(1, 5):
        generator = torch.Generator().manual_seed(step)
        for _, parameter in adapter.trainable():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        adapter.after_step(step)
    assert adapter.alive() == len(adapter.low_rank)
    expected = bridge.real_logits(model, architecture, batch)
    model.save(tmp_path / "ours")
    pattern = json.loads((tmp_path / "ours/adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(alive) for alive in pattern.values()) == adapter.target
    theirs = bridge.load_in_peft(architecture, tmp_path / "ours")
    close(bridge.real_logits(theirs, architecture, batch), expected)
    theirs.save_pretrained(tmp_path / "theirs")
    again = bridge.load_in_ours(architecture, tmp_path / "theirs")
    close(bridge.real_logits(again, architecture, batch), expected)


REFUSED = [  # other options are read, see test_peft_options.py
    ("llama", lora("llama", target_modules=[], target_parameters=["q_proj.weight"], lora_dropout=0.0)),
    ("qwen2", AdaLoraConfig(init_r=3, target_r=2, total_step=10, target_modules=["q_proj"], bias="all")),
    ("llama", lora("llama", init_lora_weights="pissa_niter_4")),
    ("llama", lora("llama", init_lora_weights="olora")),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "config"), REFUSED)
def test_files_of_peft_that_compute_something_else_are_refused(
    architecture: str, config: Any, tmp_path: Path
) -> None:

    bridge.in_peft(architecture, config).save_pretrained(tmp_path)
    model = AdaptedModel(tiny.model(architecture))
    with pytest.raises(AdapterError):
        model.load(tmp_path)
    assert not model.adapters
    assert not model.active


@pytest.mark.filterwarnings("ignore")
def test_a_prompt_for_the_decoder_is_refused(tmp_path: Path) -> None:

    bridge.in_peft("t5", PromptTuningConfig(num_virtual_tokens=3)).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="decoder"):
        AdaptedModel(tiny.model("t5")).load(tmp_path)
