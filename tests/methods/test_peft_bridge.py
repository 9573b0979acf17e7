"""Methods of peft in our taps: the same logits as in peft itself, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.oracle import bridge

from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.methods.peft_bridge import injectable
from deltatune.methods.peft_layers import PeftAdapter
from deltatune.recipe import parse_recipe
from deltatune.testing import tiny
from deltatune.testing.building import anatomy, close

SMALL: dict[str, dict[str, Any]] = {
    "ADAMSS": {"r": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "FOURIERFT": {"n_frequency": 10},
    "OFT": {"r": 0, "oft_block_size": 4},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "RANDLORA": {"r": 2},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "VBLORA": {"vector_length": 4, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 10},
}
UNMERGED = ("BEFT", "LILY")


def bridged(kind: str, architecture: str = "llama", **settings: Any) -> tuple[AdaptedModel, PeftAdapter]:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    settings = {**SMALL.get(kind, {}), **settings}
    adapter = model.attach("a", METHODS.get("peft")(peft_type=kind, **settings), seed=1)
    assert isinstance(adapter, PeftAdapter)
    return model.eval(), adapter


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("kind", injectable())
def test_every_type_gives_the_logits_of_peft(kind: str, architecture: str, tmp_path: Path) -> None:
    """Train-able, moved, saved: peft loads the file to the same logits; and merged where peft can."""
    base = tiny.model(architecture)
    model, batch = AdaptedModel(base, tiny.heads(architecture)), tiny.batch(architecture)
    before = anatomy(base)
    adapter = model.attach("a", METHODS.get("peft")(peft_type=kind, **SMALL.get(kind, {})), seed=1)
    tiny.perturb(adapter, std=0.1)
    model.eval()
    expected = bridge.real_logits(model, architecture, batch)
    model.save(tmp_path / "delta")
    theirs = bridge.load_in_peft(architecture, tmp_path / "delta")
    close(bridge.real_logits(theirs, architecture, batch), expected)
    again = bridge.load_in_ours(architecture, tmp_path / "delta")
    close(bridge.real_logits(again, architecture, batch), expected, 1e-6)
    if kind == "RANDLORA":  # sums of large random factors: in float32 the order of summing shows
        expected = bridge.real_logits(again.double(), architecture, batch)
    if kind not in UNMERGED:
        source = again if kind == "RANDLORA" else model
        merged = AdaptedModel(source.merged(), tiny.heads(architecture))
        close(bridge.real_logits(merged, architecture, batch), expected, 1e-4)
    model.detach("a")
    assert anatomy(base) == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LOHA", "BOFT", "FOURIERFT", "VBLORA"])
def test_files_of_peft_are_read(kind: str, tmp_path: Path) -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](target_modules=["q_proj", "v_proj"], **SMALL.get(kind, {}))
    theirs, batch = bridge.in_peft("llama", config), tiny.batch("llama")
    theirs.save_pretrained(tmp_path)
    ours = bridge.load_in_ours("llama", tmp_path)
    assert ours.configs["default"].name == "peft"
    close(bridge.real_logits(ours, "llama", batch), bridge.real_logits(theirs, "llama", batch))


@pytest.mark.parametrize("kind", ["LOHA", "HRA", "OFT", "MISS"])
def test_a_layer_that_computes_from_the_weight_keeps_what_others_added(kind: str) -> None:
    """Stacked on lora, the update of lora stays in the result: at one site both are there."""
    model, adapter = bridged(kind)
    tiny.perturb(adapter, std=0.1)
    delta = next(iter(adapter.deltas.values()))
    path = next(iter(adapter.deltas))
    x = torch.randn(2, 3, tiny.D)
    y = model.view.modules[path].forward(x)
    shift = torch.randn_like(y)
    close(delta(x, y + shift), delta(x, y) + shift)


def test_dropout_is_a_function_of_time() -> None:
    model, adapter = bridged("LORA", lora_dropout=0.5)
    tiny.perturb(adapter)
    model.train()
    batch = {k: v for k, v in tiny.batch("llama").items() if k != "labels"}
    adapter.clock.tick = 3
    first = model(**batch).logits
    torch.manual_seed(99)
    adapter.clock.tick = 3
    assert torch.equal(model(**batch).logits, first)
    assert not torch.equal(model(**batch).logits, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "peft_type"),
        ({"peft_type": "LOHAA"}, "Did you mean 'LOHA'"),
        ({"peft_type": "LOHA", "rr": 3}, "no setting 'rr'. Did you mean 'r'"),
        ({"peft_type": "PREFIX_TUNING"}, "prompt, prefix, p_tuning"),
        ({"peft_type": "ADALORA"}, "deltatune's own adalora"),
        ({"peft_type": "LORA", "bias": "all"}, "bias must be 'none'"),
        ({"peft_type": "LORA", "modules_to_save": ["lm_head"]}, "decided by deltatune"),
        ({"peft_type": "BOFT", "boft_block_size": 4, "boft_block_num": 4}, "peft refuses the settings"),
    ],
)
def test_what_cannot_be_run_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        METHODS.get("peft")(**settings)


def test_a_recipe_names_the_entry() -> None:
    content = {
        "task": "causal-lm",
        "model": "m",
        "data": {"source": "x.csv", "split": {}},
        "methods": [{"peft": {"peft_type": "loha", "rr": 8}}],
    }
    with pytest.raises(RecipeError, match=r"methods\.0\.peft.*no setting 'rr'"):
        parse_recipe(content)
    content["methods"] = [{"peft": {"peft_type": "loha", "r": 8, "target_modules": ["q", "v"]}}]
    recipe = parse_recipe(content)
    assert recipe.methods[0].config == {"peft_type": "LOHA", "target_modules": ["q", "v"], "r": 8}
    assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}])
def test_a_start_that_changes_the_base_is_refused(settings: dict[str, Any]) -> None:
    base = tiny.model("llama")
    model, before = AdaptedModel(base), anatomy(base)
    with pytest.raises(TargetError, match="changes the weight"):
        model.attach("a", METHODS.get("peft")(peft_type="LORA", **settings))
    assert anatomy(base) == before


@pytest.mark.parametrize("setting", ["rank_dropout", "module_dropout"])
def test_randomness_that_cannot_be_repeated_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting):
        bridged("LOHA", **{setting: 0.1})


def test_without_peft_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r'pip install "deltatune\[peft\]"'):
        METHODS.get("peft")(peft_type="LOHA")


def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    model, _ = bridged("LOHA")
    model.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LOHA"
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
