"""Twenty steps of training beside peft, and beside a plain loop: the same losses, the same ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from tests.oracle import bridge
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny
from deltatune.testing.building import close

STEPS = 20
LEAVES = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}


def copy_start(theirs: Any, adapter: Adapter) -> None:
    """Give our adapter peft's initial values."""
    values = {
        name.removeprefix("base_model.model.").replace(".default", ""): value
        for name, value in theirs.named_parameters()
        if "lora_" in name
    }
    adapter.load_stored(values)


def our_loss(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(*model.labelled_logits(batch))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=2e-2, weight_decay=0.01)


@pytest.mark.parametrize("architecture", tiny.CORE_GENERATING)
def test_lora_takes_the_same_steps_as_peft(architecture: str) -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=LEAVES[architecture])
    theirs = bridge.in_peft(architecture, config, act=False)
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get("lora")(r=2, alpha=4))
    copy_start(theirs, adapter)
    model.train()
    optimizers = optimizer_of(theirs.parameters()), optimizer_of(adapter.parameters())
    losses = []
    for step in range(STEPS):
        batch = tiny.batch(architecture, seed=step % 4)
        theirs_now = descend(optimizers[0], theirs(**batch).loss)
        losses.append((theirs_now, descend(optimizers[1], our_loss(model, batch))))
    close(torch.tensor(losses)[:, 1], torch.tensor(losses)[:, 0], 1e-4)
    assert losses[-4][1] < losses[0][1] - 0.05  # the same batch, four rounds later


@pytest.mark.parametrize("architecture", tiny.CORE_GENERATING)
def test_adalora_takes_the_same_steps_as_peft_driven_by_hand(architecture: str) -> None:
    config = AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=8,
        tinit=4,
        tfinal=6,
        deltaT=2,
        total_step=STEPS,
        orth_reg_weight=0.3,
        target_modules=LEAVES[architecture],
    )
    theirs = bridge.in_peft(architecture, config, act=False).train()
    for module in theirs.modules():  # the tiny models have no dropout of their own
        assert getattr(module, "p", 0) == 0
    model = AdaptedModel(tiny.model(architecture))
    ours = METHODS.get("adalora")(init_r=4, target_r=2, alpha=8, tinit=4, tfinal=6, interval=2, orth_reg=0.3)
    adapter = model.attach("a", ours)
    assert isinstance(adapter, AdaLoraAdapter)
    copy_start(theirs, adapter)
    adapter.start(STEPS)
    model.train()
    optimizers = optimizer_of(theirs.parameters()), optimizer_of(adapter.parameters())
    allocator = theirs.base_model.rankallocator
    losses, patterns = [], []
    for step in range(1, STEPS + 1):
        batch = tiny.batch(architecture, seed=step % 4)
        theirs_now = descend(optimizers[0], theirs(**batch).loss)
        penalty = adapter.penalty()
        assert penalty is not None
        losses.append((theirs_now, descend(optimizers[1], our_loss(model, batch) + penalty)))
        theirs.base_model.update_and_allocate(step)
        adapter.after_step(step)
        assert adapter.budget(step) == allocator.budget_schedule(step)[0]
        pattern = theirs.peft_config["default"].rank_pattern
        expected = pattern and {
            name.removesuffix(".lora_E.default"): alive for name, alive in pattern.items()
        }
        assert (adapter.rank_pattern() or None) == (expected or None)
        patterns.append(str(expected))
    close(torch.tensor(losses)[:, 1], torch.tensor(losses)[:, 0], 1e-4)
    assert len(set(patterns)) > 2
    assert adapter.finish() == {"budget": adapter.target, "target_budget": adapter.target}
    alive = sum(int((p != 0).sum()) for n, p in theirs.named_parameters() if "lora_E" in n)
    assert alive == adapter.target


@pytest.mark.parametrize("architecture", tiny.CORE_GENERATING)
def test_full_fine_tuning_is_a_plain_loop(architecture: str) -> None:
    plain = tiny.model(architecture)
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get("full")())
    model.train()
    optimizers = optimizer_of(plain.parameters()), optimizer_of(adapter.parameters())
    losses = []
    for step in range(STEPS):
        batch = tiny.batch(architecture, seed=step % 4)
        expected = descend(optimizers[0], plain(**batch, use_cache=False).loss)
        losses.append((expected, descend(optimizers[1], our_loss(model, batch))))
    close(torch.tensor(losses)[:, 1], torch.tensor(losses)[:, 0], 1e-4)
    assert losses[-4][1] < losses[0][1] - 0.5
