"""(IA)3, LN tuning, OFT, MiSS and SHiRA of peft: its files give its logits here, and its training our steps.

That our files give the same logits in peft is tested for every case in `test_peft_files.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, MissConfig, OFTConfig, ShiraConfig
from tests.oracle import bridge
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, TargetError
from deltatune.methods import METHODS
from deltatune.methods.oft import Rotation, divisor_near
from deltatune.testing import tiny
from deltatune.testing.building import close

LINEAR = {
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
    "llama": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "vit": ["q_proj", "v_proj"],
}
SCALED = {
    "t5": (["k", "v", "wo"], ["wo"]),
    "bart": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "vit": (["k_proj", "v_proj", "fc2"], ["fc2"]),
}
NORMS = {
    "t5": ["layer_norm", "final_layer_norm"],
    "bart": ["layernorm_embedding", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"],
    "gpt2": ["ln_1", "ln_2", "ln_f"],
    "bert": ["LayerNorm"],
    "vit": ["layernorm_before", "layernorm_after"],
}


def ia3(architecture: str) -> Any:
    targets, feedforward = SCALED[architecture]
    return IA3Config(
        target_modules=targets, feedforward_modules=feedforward, fan_in_fan_out=architecture == "gpt2"
    )


FROM_PEFT = [
    *(pytest.param(a, ia3(a), id=f"ia3-{a}") for a in SCALED),
    pytest.param(
        "llama", IA3Config(target_modules=r".*\.k_proj", feedforward_modules=[]), id="ia3-expression"
    ),
    pytest.param(
        "llama",
        IA3Config(target_modules=r".*\.(?:v|down)_proj", feedforward_modules=r".*\.1\..*down_proj"),
        id="ia3-two-expressions",
    ),
    pytest.param(
        "llama", OFTConfig(oft_block_size=4, target_modules=r".*\.1\..*q_proj"), id="oft-expression"
    ),
    pytest.param("llama", MissConfig(r=3, target_modules=r".*\.1\..*q_proj"), id="miss-expression"),
    *(pytest.param(a, LNTuningConfig(target_modules=NORMS[a]), id=f"ln_tuning-{a}") for a in NORMS),
    *(
        pytest.param(a, OFTConfig(oft_block_size=4, target_modules=t), id=f"oft-{a}")
        for a, t in LINEAR.items()
    ),
    *(
        pytest.param(
            a, OFTConfig(oft_block_size=8, use_cayley_neumann=False, target_modules=t), id=f"oft-exact-{a}"
        )
        for a, t in LINEAR.items()
    ),
    *(
        pytest.param(
            "llama",
            OFTConfig(oft_block_size=4, num_cayley_neumann_terms=n, target_modules=["q_proj"]),
            id=f"oft-{n}-terms",
        )
        for n in (4, 6, 9)
    ),
    *(
        pytest.param("t5", OFTConfig(oft_block_size=n, target_modules=["q", "wo"]), id=f"oft-block-{n}")
        for n in (6, 7, 32)
    ),
    *(pytest.param(a, MissConfig(r=3, target_modules=t), id=f"miss-{a}") for a, t in LINEAR.items()),
    pytest.param(
        "llama", MissConfig(r=4, miss_dropout=0.1, target_modules="all-linear"), id="miss-all-linear"
    ),
    *(pytest.param(a, ShiraConfig(r=2, target_modules=t), id=f"shira-{a}") for a, t in LINEAR.items()),
    pytest.param("llama", ShiraConfig(r=2, random_seed=5, target_modules=["down_proj"]), id="shira-mlp"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "config"), FROM_PEFT)
def test_files_of_peft_give_its_logits(architecture: str, config: Any, tmp_path: Path) -> None:
    theirs, batch = bridge.in_peft(architecture, config), tiny.batch(architecture)
    expected = bridge.real_logits(theirs, architecture, batch)
    plain = bridge.real_logits(tiny.model(architecture), architecture, batch)
    assert (expected - plain).abs().max() > 1e-3
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bridge.load_in_ours(architecture, tmp_path / "theirs")
    close(bridge.real_logits(ours, architecture, batch), expected)
    assert all(ours.fired().values())
    ours.save(tmp_path / "ours")
    again = bridge.load_in_peft(architecture, tmp_path / "ours")
    close(bridge.real_logits(again, architecture, batch), expected)


REFUSED = [
    OFTConfig(r=4, oft_block_size=0, target_modules=["q_proj"]),
    OFTConfig(oft_block_size=4, coft=True, target_modules=["q_proj"]),
    OFTConfig(oft_block_size=4, block_share=True, target_modules=["q_proj"]),
    MissConfig(r=4, init_weights="bat", target_modules=["q_proj"]),
    MissConfig(r=4, mini_r=4, init_weights="mini", target_modules=["q_proj"]),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", REFUSED)
def test_what_only_peft_computes_is_refused_without_it(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, test_peft_adapters.py loads them."""
    bridge.in_peft("llama", config).save_pretrained(tmp_path)
    model = AdaptedModel(tiny.model("llama"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AdapterError, match="does not compute"):
        model.load(tmp_path)
    assert not model.adapters


TRAINED = [
    pytest.param("ia3", {}, ia3, id="ia3"),
    pytest.param("ln_tuning", {}, lambda a: LNTuningConfig(target_modules=NORMS[a]), id="ln_tuning"),
    pytest.param(
        "oft",
        {"block_size": 4},
        lambda a: OFTConfig(oft_block_size=4, target_modules=LINEAR[a]),
        id="oft",
    ),
    pytest.param("miss", {"r": 3}, lambda a: MissConfig(r=3, target_modules=LINEAR[a]), id="miss"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["t5", "bart", "llama"])
@pytest.mark.parametrize(("method", "settings", "make"), TRAINED)
def test_twenty_steps_are_those_of_peft(
    method: str, settings: dict[str, Any], make: Any, architecture: str
) -> None:
    """Both start at the base, so nothing need be copied."""
    theirs = bridge.in_peft(architecture, make(architecture), act=False).train()
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get(method)(**settings))
    model.train()
    parameters = [p for p in theirs.parameters() if p.requires_grad], [p for _, p in adapter.trainable()]
    assert sum(p.numel() for p in parameters[0]) == sum(p.numel() for p in parameters[1])
    optimizers = [torch.optim.AdamW(group, lr=1e-2, weight_decay=0.01) for group in parameters]
    losses = []
    for step in range(20):
        batch = tiny.batch(architecture, seed=step % 4)
        both = theirs(**batch).loss, F.cross_entropy(*model.labelled_logits(batch))
        for optimizer, loss in zip(optimizers, both, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append([loss.item() for loss in both])
    close(torch.tensor(losses)[:, 1], torch.tensor(losses)[:, 0], 1e-4)
    assert losses[-4][1] < losses[0][1] - 0.02


def test_shira_draws_its_places_from_the_seed() -> None:
    def places(seed: int) -> torch.Tensor:
        adapter = AdaptedModel(tiny.model("llama")).attach("a", METHODS.get("shira")(r=2), seed=seed)
        return torch.cat([delta.get_buffer("shira_indices") for delta in adapter.deltas.values()], dim=1)

    assert torch.equal(places(1), places(1))
    assert not torch.equal(places(1), places(2))
    with pytest.raises(TargetError, match="at most 5"):
        AdaptedModel(tiny.model("llama")).attach("a", METHODS.get("shira")(r=6))


def test_the_rotation_of_oft_is_orthogonal() -> None:
    for terms, error in ((0, 1e-6), (5, 5e-3), (12, 1e-5)):
        rotation = Rotation(16, 8, terms)
        tiny.perturb(rotation, std=0.05)
        blocks = rotation()
        assert (blocks - torch.eye(8)).abs().max() > 0.1
        assert (blocks @ blocks.mT - torch.eye(8)).abs().max() < error
    assert [divisor_near(16, n) for n in (2, 6, 7, 32)] == [2, 4, 8, 16]
