"""Training on a CPU attends by matrix products up to some length: the same to rounding, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import FalconConfig, FalconForCausalLM

from deltatune.core import attention
from deltatune.core.attention import tokens_of_a_row
from deltatune.core.fast import lean_attention
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny

TASKS = {
    "llama": "causal-lm",
    "t5": "text-to-text",
    "bert": "text-classification",
    "vit": "image-classification",
}


def trained(architecture: str, method: str, eager_up_to: int) -> tuple[AdaptedModel, dict[str, Tensor]]:
    base = tiny.model(architecture, attention="sdpa")
    model = AdaptedModel(base, tiny.heads(architecture), eager_up_to=eager_up_to)
    tiny.perturb(model.attach("a", METHODS.get(method)()), seed=1)
    return model.train(), tiny.batch(architecture)


def implementations(model: AdaptedModel) -> set[str]:
    return {m.config._attn_implementation for m in model.base.modules() if hasattr(m, "config")}


@pytest.mark.parametrize("method", ["lora", "prefix"])
@pytest.mark.parametrize("architecture", TASKS)
def test_loss_and_gradients_are_the_same(
    architecture: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = []
    eager = attention.AttentionSwitch.eager
    monkeypatch.setattr(
        attention.AttentionSwitch, "eager", lambda switch: entered.append(switch) or eager(switch)
    )
    found: list[list[Any]] = []
    for limit in (0, 256):
        model, batch = trained(architecture, method, limit)
        before = implementations(model)
        loss = summed_loss(model, batch, TASKS[architecture])
        loss.backward()
        assert implementations(model) == before
        assert len(entered) == (1 if limit else 0)
        found.append([loss, *(p.grad for _, p in model.adapter("a").trainable())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("method", ["lora", "prefix", "full"])
@pytest.mark.parametrize("architecture", TASKS)
def test_of_long_rows_nothing_is_kept_and_the_rest_is_the_same(
    architecture: str, method: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T5 whose position bias is trained, and attention that is not known, is left to SDPA."""
    calls: dict[str, int] = {}

    def noted(name: str, function: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **named)

        return call

    long = lean_attention._LongAttention
    monkeypatch.setattr(lean_attention, "KEEPS_UP_TO", 1)
    monkeypatch.setattr(long, "forward", noted("long", long.forward))
    sdpa = lean_attention.sdpa_attention_forward
    monkeypatch.setattr(lean_attention, "sdpa_attention_forward", noted("sdpa", sdpa))
    if not known:
        monkeypatch.setattr(lean_attention, "_attends_plainly", lambda *_: False)
    found: list[list[Any]] = []
    for limit in (0, 256):
        model, batch = trained(architecture, method, limit)
        loss = summed_loss(model, batch, TASKS[architecture])
        loss.backward()
        found.append([loss, *(p.grad for _, p in model.adapter("a").trainable() if p.grad is not None)])
    assert set(calls) == ({"long"} if known and not (architecture == "t5" and method == "full") else
                          {"long", "sdpa"} if known else {"sdpa"})  # fmt: skip
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_longer_rows_where_the_base_is_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    eager = attention.AttentionSwitch.eager
    monkeypatch.setattr(
        attention.AttentionSwitch, "eager", lambda switch: entered.append(switch) or eager(switch)
    )
    monkeypatch.setattr("deltatune.core.fast.paths.LONG_UP_TO", 20)
    for dtype, length, used in (
        (torch.float32, 20, 0),
        (torch.bfloat16, 20, 1),
        (torch.bfloat16, 21, 0),
        (torch.float32, 8, 1),
    ):
        entered.clear()
        model = AdaptedModel(tiny.model("llama", attention="sdpa").to(dtype), eager_up_to=8)
        model.attach("a", METHODS.get("lora")())
        model.train()
        ids = torch.ones(2, length, dtype=torch.long)
        summed_loss(model, {"input_ids": ids, "labels": ids}, "causal-lm").backward()
        assert len(entered) == used


def test_where_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("eager attention")

    monkeypatch.setattr(attention.AttentionSwitch, "eager", refuse)
    model, batch = trained("llama", "lora", 256)
    with pytest.raises(AssertionError, match="eager attention"):
        summed_loss(model, batch, "causal-lm")
    model.fast.eager_up_to = batch["input_ids"].shape[1] - 1  # longer rows
    summed_loss(model, batch, "causal-lm")
    model.fast.eager_up_to = 256
    model.gradient_checkpointing(True)
    summed_loss(model, batch, "causal-lm")
    model.gradient_checkpointing(False)
    model.eval()
    summed_loss(model, batch, "causal-lm")


@pytest.mark.parametrize(("patch", "tokens"), [(8, 2 * 6 + 1), ((8, 16), 2 * 3 + 1), (1, 16 * 48 + 1)])
def test_an_image_is_as_long_as_it_has_patches(patch: Any, tokens: int) -> None:
    config = type("Config", (), {"patch_size": patch})
    assert tokens_of_a_row({"pixel_values": torch.zeros(2, 3, 16, 48)}, config) == tokens


@pytest.mark.parametrize("bias", [True, False])
def test_where_the_name_of_the_attention_chooses_another_way(bias: bool) -> None:
    """Falcon does not ask Transformers' table, and its own eager way adds ALiBi in another manner."""
    torch.manual_seed(0)
    size = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = FalconConfig(
        **size, ffn_hidden_size=32, initializer_range=0.2, alibi=True, multi_query=False,
        parallel_attn=False, bias=bias,
    )  # fmt: skip
    model, batch = AdaptedModel(FalconForCausalLM(config)), tiny.batch("llama")
    model.attach("a", METHODS.get("lora")())
    expected = model.eval().labelled_logits(batch)[0]
    torch.testing.assert_close(model.train().labelled_logits(batch)[0], expected, rtol=1e-4, atol=1e-5)
