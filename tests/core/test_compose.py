"""Composition: weighted sums beside the frozen output, and batches whose rows name their adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError, TargetError
from deltatune.methods import METHODS
from deltatune.testing import tiny

MIXED = ["b", None, "a", "b"]
OPTIONS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "lora": (("lora", {"r": 2}), ("lora", {"r": 3, "targets": ["key"]})),
    "lora-ia3": (("lora", {"r": 2}), ("ia3", {})),
    "prefix": (("prefix", {"n_tokens": 3, "init_std": 0.5}), ("prefix", {"n_tokens": 5, "init_std": 0.5})),
    "prompt": (("prompt", {"n_tokens": 3}), ("prompt", {"n_tokens": 5})),
    "prompt-prefix": (("prompt", {"n_tokens": 3}), ("prefix", {"n_tokens": 2, "init_std": 0.5})),
    "adapter": (("adapter", {}), ("lora", {"r": 2})),
}


def pair(label: str, architecture: str) -> AdaptedModel:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    for seed, (name, (method, settings)) in enumerate(zip("ab", PAIRS[label], strict=True), 1):
        tiny.perturb(model.attach(name, METHODS.get(method)(**settings), seed=seed), seed=seed)
    return model.eval()


def inputs(architecture: str) -> dict[str, Any]:
    made = tiny.batch(architecture)
    if architecture in tiny.SEQ2SEQ:
        made["decoder_input_ids"] = made["labels"].clamp(min=3)
    return {name: value for name, value in made.items() if name != "labels"}


def alone(model: AdaptedModel, name: str | None, made: dict[str, Any]) -> Any:
    with model.using(*filter(None, [name])):
        return model(**made).logits


def refuses_lengths(label: str, architecture: str) -> bool:
    return label.startswith("prompt") and architecture in tiny.VISION


@torch.no_grad()
@pytest.mark.parametrize("architecture", tiny.CORE)
@pytest.mark.parametrize("label", PAIRS)
def test_rows_in_any_order_get_their_own_adapter(label: str, architecture: str) -> None:
    model, made = pair(label, architecture), inputs(architecture)
    before = model.active
    if refuses_lengths(label, architecture):
        with pytest.raises(TargetError, match="attention mask"):
            model(**made, adapters=MIXED)
        return
    found = model(**made, adapters=MIXED).logits
    for row, name in enumerate(MIXED):
        one = alone(model, name, tiny.rows_of(made, slice(row, row + 1)))[0]
        seen = slice(None)
        if architecture in tiny.CAUSAL:
            seen = made["attention_mask"][row].bool()
        torch.testing.assert_close(found[row][seen], one[seen], rtol=2e-5, atol=2e-5)
    assert model.active == before


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("architecture", ["t5", "bart", "gpt2", "llama"])
@pytest.mark.parametrize("label", PAIRS)
def test_generation_of_mixed_rows_is_that_of_each_alone(label: str, architecture: str, beams: int) -> None:
    model, made = pair(label, architecture), tiny.prompts(architecture)
    found = model.generate(**made, adapters=MIXED, num_beams=beams, **OPTIONS)[:, -5:]
    for row, name in enumerate(MIXED):
        seen = made["attention_mask"][row].bool()
        ids = made["input_ids"][row][seen][None]
        with model.using(*filter(None, [name])):
            one = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=beams, **OPTIONS
            )
        assert torch.equal(found[row], one[0, -5:])


def test_dropout_of_scattered_rows_is_that_of_the_rows_alone() -> None:
    model, made = AdaptedModel(tiny.model("llama")), inputs("llama")
    for seed, name in enumerate("ab", 1):
        tiny.perturb(model.attach(name, METHODS.get("lora")(dropout=0.5), seed=seed), seed=seed)
    model.train()
    found = model(**made, adapters=MIXED).logits
    rows = {key: value[[0, 3]] for key, value in made.items()}
    assert model.adapter("b").clock.tick == 1
    model.adapter("b").clock.tick = 0
    torch.testing.assert_close(found[[0, 3]], alone(model, "b", rows), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", tiny.CORE)
def test_weights_of_lora_are_weights_of_its_updates(architecture: str) -> None:
    model, made = AdaptedModel(tiny.model(architecture)), inputs(architecture)
    for seed, name in enumerate("ab", 1):
        tiny.perturb(model.attach(name, METHODS.get("lora")(r=2), seed=seed), seed=seed)
    model.use({"a": 0.7, "b": 0.3})
    found = model(**made).logits
    merged = model.merged()
    base = tiny.model(architecture)
    for path in model.adapter("a").deltas:
        weight = base.get_submodule(path).weight
        start = weight.clone()
        for name, factor in (("a", 0.7), ("b", 0.3)):
            weight += factor * (model.adapter(name).deltas[path].fold(start, None)[0] - start)
    torch.testing.assert_close(found, base(**made).logits, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(found, merged(**made).logits, rtol=2e-5, atol=2e-5)
    again = model.merged({"a": 0.7, "b": 0.3})
    assert all(torch.equal(p, q) for p, q in zip(merged.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def test_an_average_of_biases_and_heads_merges_too() -> None:
    model, made = AdaptedModel(tiny.model("bert"), tiny.heads("bert")), inputs("bert")
    for seed, (name, method) in enumerate([("a", "bitfit"), ("b", "lora")], 1):
        tiny.perturb(model.attach(name, METHODS.get(method)(), seed=seed), seed=seed)
    model.use({"a": 0.5, "b": 0.5})
    torch.testing.assert_close(model.merged()(**made).logits, model(**made).logits, rtol=2e-5, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["lora", "ia3", "adapter", "bitfit", "oft", "dora"])
@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_the_whole_weight_of_one_is_that_one(method: str, architecture: str) -> None:
    model, made = AdaptedModel(tiny.model(architecture), tiny.heads(architecture)), inputs(architecture)
    for seed, name in enumerate("ab", 1):
        tiny.perturb(model.attach(name, METHODS.get(method)(), seed=seed), seed=seed)
    expected = {name: alone(model, name, made) for name in "ab"}
    model.use({"a": 1.0, "b": 0.0})
    torch.testing.assert_close(model(**made).logits, expected["a"], rtol=2e-5, atol=2e-5)
    model.use({"b": 1})
    torch.testing.assert_close(model(**made).logits, expected["b"], rtol=2e-5, atol=2e-5)
    model.use({"a": 0.5, "b": 0.5})
    assert all((model(**made).logits - one).abs().max() > 1e-4 for one in expected.values())
    model.use("a")
    assert torch.equal(model(**made).logits, expected["a"])


@torch.no_grad()
def test_an_average_is_not_a_stack() -> None:
    """Side by side both see the frozen output; one after another, the second sees the first's."""
    model, made = AdaptedModel(tiny.model("llama")), inputs("llama")
    for seed, name in enumerate("ab", 1):
        tiny.perturb(model.attach(name, METHODS.get("adapter")(), seed=seed), seed=seed)
    model.use({"a": 1.0, "b": 1.0})
    beside = model(**made).logits
    model.use("a", "b")
    assert (model(**made).logits - beside).abs().max() > 1e-4


def test_what_cannot_be_composed_is_refused() -> None:
    model = pair("prompt-prefix", "llama")
    model.attach("full", METHODS.get("full")())
    model.attach("lora", METHODS.get("lora")())
    for name in ("a", "b", "full"):
        with pytest.raises(AdapterError, match="cannot be weighted"):
            model.use({name: 0.5, "lora": 0.5})
    with pytest.raises(AdapterError, match="cannot be mixed"):
        model.use("lora", {"lora": 0.5})
    with pytest.raises(AdapterError, match="weight of 'lora' is nan"):
        model.use({"lora": float("nan")})
    with pytest.raises(AdapterError, match="no adapter 'lorb'"):
        model.use({"lorb": 1.0})
    assert model.active == ("lora",)
    made = inputs("llama")
    with pytest.raises(DeltatuneError, match="names 2 adapters for a batch of 4 rows"):
        model(**made, adapters=["a", "b"])
    with pytest.raises(TargetError, match="cannot act on some rows"):
        model(**made, adapters=["full", None, None, None])
