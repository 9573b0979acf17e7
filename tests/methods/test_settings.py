"""Starts, settings and schedules of the methods."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError, TargetError, TrainingError
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.methods.lora import LoraDelta, LoraEmbeddingDelta
from deltatune.testing import tiny


def attached(architecture: str, method: str, processor: Any = None, **config: Any) -> Any:
    model = AdaptedModel(tiny.model(architecture), processor=processor)
    return model.attach("a", METHODS.get(method)(**config))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_describes_itself(name: str) -> None:
    config = METHODS.get(name)
    assert config.name == name
    assert config.title.endswith(".")
    assert config.paper
    assert config.default_lr > 0 or not config.trains
    assert all(field.description for field in config.model_fields.values())
    made = config(**({"peft_type": "LOHA"} if name == "peft" else {}))
    assert config.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("lora", {"r": 0}),
        ("lora", {"alpha": 0}),
        ("lora", {"dropout": 1.0}),
        ("lora", {"targets": []}),
        ("lora", {"rank": 8}),
        ("adalora", {"init_r": 4, "target_r": 5}),
        ("adalora", {"beta1": 1}),
        ("adalora", {"interval": 0}),
        ("prefix", {"n_tokens": 0}),
        ("prefix", {"scopes": ["middle"]}),
        ("prompt", {"init": "text"}),
        ("prompt", {"text": "no init"}),
        ("full", {"r": 8}),
    ],
)
def test_impossible_settings_are_refused(method: str, config: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        METHODS.get(method)(**config)


def test_lora_starts_as_loralib_does() -> None:
    delta = LoraDelta(64, 32, 8, 1.0)
    assert not delta.lora_B.weight.any()
    bound = 1 / math.sqrt(64)  # Kaiming-uniform with a = sqrt(5)
    assert delta.lora_A.weight.abs().max() <= bound
    assert delta.lora_A.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    embedding = LoraEmbeddingDelta(nn.Embedding(50, 64), 8, 1.0)
    assert not embedding.lora_embedding_A.any()
    assert embedding.lora_embedding_B.std().item() == pytest.approx(1, rel=0.15)


def test_lora_scales() -> None:
    lora = METHODS.get("lora")
    assert lora(r=4, alpha=8).scale == 2
    assert lora(r=4, alpha=8, rslora=True).scale == 4


def test_the_seed_decides_the_start() -> None:
    model = AdaptedModel(tiny.model("t5"))
    starts = [
        model.attach(n, METHODS.get("lora")(), seed=s).stored() for n, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    moving = [key for key in starts[0] if "lora_A" in key]
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in moving)
    assert not any(torch.equal(starts[0][key], starts[2][key]) for key in moving)


def test_adalora_needs_linear_layers() -> None:
    with pytest.raises(TargetError):
        attached("gpt2", "adalora", targets=["wte"])


def test_the_budget_falls_along_a_cubic() -> None:
    adapter = attached("bart", "adalora", init_r=6, target_r=2, tinit=10, tfinal=10)
    adapter.start(50)
    assert [adapter.budget(step) for step in (0, 10, 40, 50)] == [72, 72, 24, 24]
    assert adapter.budget(25) == int(24 + 48 * 0.5**3)
    falling = [adapter.budget(step) for step in range(51)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(("total", "first", "last"), [(100, 10, 70), (10, 1, 7), (7, 1, 5)])
def test_shares_of_the_real_number_of_steps(total: int, first: int, last: int) -> None:
    adapter = attached("llama", "adalora")
    adapter.start(total)
    assert (adapter.first, adapter.last) == (first, last)


@pytest.mark.parametrize(
    ("tinit", "tfinal", "total"), [(5, 5, 10), (0, 3, 2), (200, 1000, 1100), (0.5, 0.5, 8)]
)
def test_a_schedule_that_does_not_fit_is_refused_before_training(
    tinit: float, tfinal: float, total: int
) -> None:
    adapter = attached("llama", "adalora", tinit=tinit, tfinal=tfinal)
    with pytest.raises(RecipeError, match="leaves none"):
        adapter.start(total)


def test_a_schedule_that_was_cut_short_fails() -> None:
    adapter = attached("llama", "adalora", init_r=4, target_r=2, tinit=1, tfinal=2, interval=1)
    assert isinstance(adapter, AdaLoraAdapter)
    tiny.perturb(adapter)
    adapter.start(8)
    for step in range(1, 8 + 1):
        for parameter in adapter.parameters():
            parameter.grad = torch.ones_like(parameter)
        adapter.after_step(step)
        if step == 2:
            assert not adapter.settled
            with pytest.raises(TrainingError, match="of 8 singular values"):
                adapter.finish()
    assert adapter.settled
    assert adapter.finish() == {"budget": 8.0, "target_budget": 8.0}


def test_equal_importances_still_give_the_exact_budget() -> None:
    adapter = attached("llama", "adalora", init_r=4, target_r=1, tinit=0, tfinal=1, interval=1)
    adapter.start(3)
    for step in range(1, 4):
        for parameter in adapter.parameters():
            parameter.grad = torch.zeros_like(parameter)
        adapter.after_step(step)
    assert adapter.alive() == 4


@pytest.mark.parametrize("total", [1, 2])
def test_the_shortest_runs_meet_the_budget(total: int) -> None:
    """The only allocation stands after the first step, so this one must be weighed."""
    adapter = attached("llama", "adalora", init_r=4, target_r=1, tinit=0, tfinal=total - 1, interval=1)
    assert isinstance(adapter, AdaLoraAdapter)
    tiny.perturb(adapter)
    adapter.start(total)
    for step in range(1, total + 1):
        for parameter in adapter.parameters():
            parameter.grad = torch.ones_like(parameter)
        adapter.after_step(step)
    assert adapter.finish() == {"budget": 4.0, "target_budget": 4.0}


def test_orthonormal_factors_cost_nothing() -> None:
    adapter = attached("llama", "adalora", init_r=3, target_r=2)
    assert adapter.penalty().item() > 0.01
    for delta in adapter.low_rank.values():
        nn.init.orthogonal_(delta.lora_A)
        nn.init.orthogonal_(delta.lora_B)
    assert adapter.penalty().item() == pytest.approx(0, abs=1e-6)
    assert attached("llama", "adalora", orth_reg=0).penalty() is None


def test_a_prefix_stays_in_its_scopes() -> None:
    for scopes, sites in ((["encoder"], 2), (["decoder", "cross"], 4), (["cross"], 2)):
        adapter = attached("t5", "prefix", scopes=scopes)
        assert len(adapter.keys_values) == sites
    assert all("EncDecAttention" in path for path in adapter.keys_values)


def test_the_reparameterisation_is_dropped_when_saving() -> None:
    config = METHODS.get("prefix")(n_tokens=3, projection=True, projection_size=7)
    model = AdaptedModel(tiny.model("t5"))
    adapter = model.attach("a", config)
    assert set(config.for_inference(adapter).model_dump().items()) >= {("projection", False)}
    assert sum(t.numel() for t in adapter.stored().values()) == 6 * 2 * 3 * tiny.D
    with pytest.raises(AdapterError, match="reparameterised"):
        model.attach("b", config).load_stored(adapter.stored())


def test_a_prompt_starts_from_the_vocabulary() -> None:
    model = AdaptedModel(tiny.model("llama"))
    table = model.base.get_input_embeddings().weight
    vectors = model.attach("a", METHODS.get("prompt")(n_tokens=7)).prompt()
    assert all((table == vector).all(dim=1).any() for vector in vectors)
    random = model.attach("b", METHODS.get("prompt")(n_tokens=7, init="random")).prompt()
    assert random.abs().max() <= 0.5


class Tokenizer:
    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [3 + len(word) for word in text.split()]}


def test_a_prompt_starts_from_a_text_repeated_to_its_length() -> None:
    adapter = attached("llama", "prompt", Tokenizer(), n_tokens=5, init="text", text="a bcd")
    table = tiny.model("llama").get_input_embeddings().weight
    assert torch.equal(adapter.prompt(), table[[4, 6, 4, 6, 4]])
    with pytest.raises(TargetError, match="no tokens"):
        attached("llama", "prompt", Tokenizer(), init="text", text="  ")
    with pytest.raises(TargetError, match="tokenizer"):
        attached("llama", "prompt", init="text", text="a")
    with pytest.raises(TargetError, match="no vocabulary"):
        attached("vit", "prompt", Tokenizer(), init="text", text="a")
