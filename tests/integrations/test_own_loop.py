"""A loop of one's own trains as ours does, ends where the method promises, and says so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError, TrainingError
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny

ADALORA = dt.AdaLoraConfig(init_r=3, target_r=1, tinit=1, tfinal=2, interval=1)
LR = 1e-2


def batches(count: int) -> list[dict[str, Tensor]]:
    return [tiny.batch("llama", seed=seed) for seed in range(count)]


def trained(model: AdaptedModel, out: Path, steps: int = 6, announced: int | None = None) -> Any:
    with dt.own_loop(model, steps=announced or steps, out=out) as loop:
        optimizer = torch.optim.AdamW(loop.parameters(lr=LR))
        for batch in batches(steps):
            model(**batch).loss.backward()
            loop.step(optimizer)
    return loop


def parameters(model: AdaptedModel, name: str = "default") -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.adapter(name).named_parameters()}


def test_adalora_meets_its_budget_and_equals_a_loop_by_hand(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), ADALORA)
    loop = trained(model, tmp_path)
    adapter = model.adapter("default")
    assert isinstance(adapter, AdaLoraAdapter)
    assert adapter.alive() == adapter.target == loop.numbers["budget"]
    lines = {line.check: line for line in loop.certificate.lines}
    assert list(lines) == [
        "targets reached", "every tap fired", "gradient in every part", "every part changed in step one",
        "final budget", "logits moved", "same after reload", "base unchanged",
    ]  # fmt: skip
    assert loop.certificate.passed
    assert json.loads((tmp_path / "adapter/certificate.json").read_text())["passed"]
    again = AdaptedModel(tiny.model("llama"))
    again.load(tmp_path / "adapter")
    batch = tiny.batch("llama")
    assert torch.allclose(again(**batch).logits, model.eval()(**batch).logits, atol=1e-6)

    by_hand = dt.adapt(tiny.model("llama"), ADALORA).train()
    adapter = by_hand.adapter("default")
    adapter.start(6)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR)
    for step, batch in enumerate(batches(6), 1):
        penalty = adapter.penalty()
        assert penalty is not None
        (by_hand(**batch).loss + penalty).backward()
        optimizer.step()
        adapter.after_step(step)
        optimizer.zero_grad()
    for name, value in parameters(by_hand).items():
        torch.testing.assert_close(parameters(model)[name], value, rtol=1e-5, atol=1e-6)


def test_a_loop_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = dt.adapt(tiny.model("llama"), ADALORA.changed({"dropout": 0.1}))
    trained(whole, tmp_path / "whole")
    parts = [dt.adapt(tiny.model("llama"), whole.configs["default"]) for _ in range(2)]
    loop = dt.own_loop(parts[0], steps=6, out=tmp_path / "first")
    loop.begin()
    parts[0].train()
    optimizer = torch.optim.AdamW(loop.parameters(lr=LR))
    for batch in batches(6)[:3]:
        parts[0](**batch).loss.backward()
        loop.step(optimizer)
    loop.save(tmp_path / "state")
    rest = dt.own_loop(parts[1], steps=6, out=tmp_path / "second")
    rest.load(tmp_path / "state")
    assert rest.taken == 3
    with rest:
        again = torch.optim.AdamW(rest.parameters(lr=LR))
        again.load_state_dict(optimizer.state_dict())
        for batch in batches(6)[3:]:
            parts[1](**batch).loss.backward()
            rest.step(again)
    for name, value in parameters(whole).items():
        assert torch.equal(parameters(parts[1])[name], value), name


@pytest.mark.slow
def test_accumulated_batches_have_the_penalty_once(tmp_path: Path) -> None:
    config = ADALORA.changed({"orth_reg": 5.0})
    found = []
    for parts in (1, 2):
        model = dt.adapt(tiny.model("llama"), config)
        with dt.own_loop(model, steps=4, out=tmp_path / str(parts)) as loop:
            optimizer = torch.optim.SGD(loop.parameters(lr=LR))
            for batch in batches(4):
                rows = len(batch["input_ids"]) // parts
                for at in range(parts):
                    part = tiny.rows_of(batch, slice(at * rows, (at + 1) * rows))
                    share = (part["labels"][:, 1:] != -100).sum() / (batch["labels"][:, 1:] != -100).sum()
                    (model(**part).loss * share).backward()
                loop.step(optimizer, max_grad_norm=1.0)
        found.append(parameters(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def test_lora_plus_has_its_rates(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), dt.LoraPlusConfig(r=2))
    loop = dt.own_loop(model, steps=1, out=tmp_path)
    assert len({group["lr"] for group in loop.parameters(lr=LR)}) == 2
    alike = torch.optim.AdamW(model.adapter("default").parameters())
    loop.begin()
    model.train()(**tiny.batch("llama")).loss.backward()
    with pytest.raises(TrainingError, match="rates of their own") as refusal:
        loop.step(alike)
    assert "parameters(lr=" in str(refusal.value.remedy)


@pytest.mark.slow
def test_diff_pruning_closes_its_gates(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), dt.DiffPruningConfig(density=0.01, targets=("query",)))
    loop = trained(model, tmp_path)
    assert math.isclose(loop.numbers["density"], 0.01, rel_tol=0.05)


@pytest.mark.slow
def test_a_hard_prompt_is_searched(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), dt.HardPromptConfig(n_tokens=2, candidates=4))
    batch = tiny.batch("llama")
    with pytest.raises(TrainingError, match="judges them by the loss"):
        trained(model, tmp_path / "without")
    with dt.own_loop(model, steps=2, out=tmp_path) as loop:
        optimizer = torch.optim.SGD(loop.parameters(lr=0.0))
        losses = []
        for _ in range(2):
            loss = model(**batch).loss
            losses.append(loss.item())
            loss.backward()
            loop.step(optimizer, loss=lambda: float(model(**batch).loss))
    assert model(**batch).loss < losses[0]


@pytest.mark.parametrize("steps", [4, 9])
def test_a_wrong_number_of_steps_is_an_error(steps: int, tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), ADALORA)
    with pytest.raises(TrainingError, match=r"step 5 is one more|final budget"):
        trained(model, tmp_path, announced=steps)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_a_loop_that_breaks_off_writes_no_delta(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), ADALORA)
    with pytest.raises(ZeroDivisionError), dt.own_loop(model, steps=6, out=tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "adapter").exists()
    assert not model._forward_pre_hooks


def test_a_call_past_the_model_is_seen(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), dt.LoraConfig(r=2))
    loop = dt.own_loop(model, steps=1, out=tmp_path)
    loop.begin()
    model.base(**tiny.batch("llama")).loss.backward()
    with pytest.raises(TrainingError, match="not called"):
        loop.step(torch.optim.AdamW(loop.parameters(lr=LR)))


@pytest.mark.slow
def test_a_changed_base_is_seen(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), dt.LoraConfig(r=2))
    loop = dt.own_loop(model, steps=1, out=tmp_path)
    loop.begin()
    model.train()(**tiny.batch("llama")).loss.backward()
    loop.step(torch.optim.AdamW(loop.parameters(lr=LR)))
    model.base.model.norm.weight.data += 1.0
    with pytest.raises(TrainingError, match="base unchanged"):
        loop.finish()


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no delta"):
        dt.own_loop(tiny.model("llama"), steps=1, out=tmp_path)
    model = AdaptedModel(tiny.model("llama"))
    with pytest.raises(AdapterError, match="active: none"):
        dt.own_loop(model, steps=1, out=tmp_path)
    model.attach("a", dt.LoraConfig(r=2))
    model.attach("b", dt.LoraConfig(r=2))
    model.use("a", "b")
    with pytest.raises(AdapterError, match="active: a, b"):
        dt.own_loop(model, steps=1, out=tmp_path)
    model.use("a")
    with pytest.raises(DeltatuneError, match="active: a"):
        dt.own_loop(model, steps=1, out=tmp_path, name="b")
    model.attach("c", ADALORA)
    with pytest.raises(DeltatuneError, match="AdaLoRA"):
        dt.own_loop(model, steps=1, out=tmp_path).begin()


def test_what_a_loop_forgot_or_lost(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), ADALORA)
    loop = dt.own_loop(model, steps=6, out=tmp_path)
    optimizer = torch.optim.AdamW(loop.parameters(lr=LR))
    with pytest.raises(TrainingError, match="training has not begun"):
        loop.finish()
    model.train()(**tiny.batch("llama")).loss.backward()
    with pytest.raises(TrainingError, match="training has not begun"):
        loop.step(optimizer)
    optimizer.zero_grad()
    loop.begin()
    with pytest.raises(TrainingError, match="backward"):
        loop.step(optimizer)

    model = dt.adapt(tiny.model("llama"), dt.LoraConfig(r=2))
    trained(model, tmp_path, steps=1)
    kept = (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
    loop = dt.own_loop(model, steps=1, out=tmp_path)
    loop.begin()
    model.train()(**tiny.batch("llama")).loss.backward()
    loop.step(torch.optim.AdamW(loop.parameters(lr=float("inf"))))
    with pytest.raises(TrainingError, match="lower the learning rate"):
        loop.finish()
    assert (tmp_path / "adapter/adapter_model.safetensors").read_bytes() == kept
    loop.taken = loop.steps
    with pytest.raises(TrainingError, match="made already"):
        loop.begin()


def test_adapting_trains_the_head_of_a_classifier() -> None:
    model = dt.adapt(tiny.model("bert"), dt.LoraConfig(r=2))
    counted = dt.trainable(model)
    assert counted.heads == ("classifier",)
    assert counted.trained == sum(p.numel() for p in model.adapter("default").parameters())
    assert f"{counted.trained:,} trained" in str(counted)
    assert not dt.trainable(dt.adapt(tiny.model("bert"), dt.LoraConfig(r=2), heads=())).heads
    assert not dt.trainable(dt.adapt(tiny.model("llama"), dt.LoraConfig(r=2))).heads
