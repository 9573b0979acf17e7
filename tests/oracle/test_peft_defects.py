"""What goes wrong in peft 0.21.2, beside what ours does. Where peft mends it, the test fails and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PrefixTuningConfig, PromptTuningConfig
from tests.oracle import bridge
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny
from deltatune.testing.building import close

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def first_logits(generate: Any, made: dict[str, Tensor]) -> Tensor:
    """Logits of the first new token, as `generate` computes them."""
    output: Tensor = generate(**made, **OPTIONS, return_dict_in_generate=True, output_logits=True).logits[0]
    return output


def one_by_one(generate: Any, made: dict[str, Tensor]) -> Tensor:
    """The same for each row without its padding: what a padded batch must equal."""
    rows = []
    for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True):
        seen = ids[mask.bool()][None]
        rows.append(first_logits(generate, {"input_ids": seen, "attention_mask": torch.ones_like(seen)}))
    return torch.cat(rows)


@pytest.mark.filterwarnings("ignore")
def test_left_padding_changes_what_peft_generates_with_a_prompt(tmp_path: Path) -> None:
    theirs, made = bridge.in_peft("llama", PromptTuningConfig(num_virtual_tokens=4)), tiny.prompts("llama")
    theirs.save_pretrained(tmp_path)
    ours = bridge.load_in_ours("llama", tmp_path)
    alone = one_by_one(theirs.generate, made)
    close(one_by_one(ours.generate, made), alone)
    close(first_logits(ours.generate, made), alone)
    wrong = (first_logits(theirs.generate, made) - alone).abs().amax(dim=1)
    padded = (made["attention_mask"] == 0).any(dim=1)
    assert (wrong[padded] > 1e-3).all()
    assert (wrong[~padded] < 1e-5).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", tiny.CORE_CAUSAL)
def test_a_prefix_of_peft_is_moved_by_padding_and_lost_in_generation(
    architecture: str, tmp_path: Path
) -> None:
    """Its `generate` was right, and drops the prefix since Transformers 5.24 calls the cache otherwise."""
    theirs = bridge.in_peft(architecture, PrefixTuningConfig(num_virtual_tokens=4))
    theirs.save_pretrained(tmp_path)
    ours, made = bridge.load_in_ours(architecture, tmp_path), tiny.prompts(architecture)
    rows = zip(made["input_ids"], made["attention_mask"], strict=True)
    with torch.no_grad():
        alone = torch.cat([theirs(input_ids=ids[mask.bool()][None]).logits[:, -1] for ids, mask in rows])
        close(ours(**made).logits[:, -1], alone)
        wrong = (theirs(**made).logits[:, -1] - alone).abs().amax(dim=1)
    close(first_logits(ours.generate, made), alone)
    assert (wrong[(made["attention_mask"] == 0).any(dim=1)] > 1e-2).all()
    generated = first_logits(theirs.generate, made)
    if bridge.CACHE_IS_CALLED_CACHE:
        assert ((generated - alone).abs().amax(dim=1) > 1e-2).all()
        bridge.perturb_trainable(theirs, seed=4)
        assert torch.equal(first_logits(theirs.generate, made), generated)  # whatever the prefix is
    else:
        close(generated, alone)


@pytest.mark.filterwarnings("ignore")
def test_a_prefix_of_peft_does_not_reach_the_encoder() -> None:
    batch, plain = tiny.batch("t5"), tiny.model("t5")
    with torch.no_grad():
        expected = plain(**batch).encoder_last_hidden_state
        theirs = bridge.in_peft("t5", PrefixTuningConfig(num_virtual_tokens=4))
        assert torch.equal(theirs(**batch).encoder_last_hidden_state, expected)
        model = AdaptedModel(tiny.model("t5"))
        model.attach("a", METHODS.get("prefix")(n_tokens=4, init_std=0.5))
        assert (model(**batch).encoder_last_hidden_state - expected).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_peft_cannot_recompute_layers_with_a_prefix() -> None:
    batch = tiny.batch("llama")
    theirs = bridge.in_peft("llama", PrefixTuningConfig(num_virtual_tokens=4)).train()
    theirs.base_model.activation_checkpointing_enable()
    with pytest.raises((RuntimeError, ValueError)):
        theirs(**batch).loss.backward()
    model = AdaptedModel(tiny.model("llama"))
    adapter = model.attach("a", METHODS.get("prefix")(n_tokens=4))
    model.train()
    model.gradient_checkpointing()
    model(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.any() for _, p in adapter.trainable())


@pytest.mark.filterwarnings("ignore")
def test_adalora_never_allocates_in_the_trainer_with_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through HF Trainer all singular values stay; ours ends with exactly the target."""
    from transformers import Trainer, TrainingArguments

    steps = 12
    config = AdaLoraConfig(
        init_r=4,
        target_r=2,
        tinit=2,
        tfinal=3,
        deltaT=1,
        total_step=steps,
        target_modules=["q_proj", "v_proj"],
    )
    theirs = bridge.in_peft("bart", config, act=False)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    monkeypatch.setattr(theirs.base_model, "update_and_allocate", count)
    whole = tiny.batch("bart")
    rows = [{name: values[row] for name, values in whole.items()} for row in range(4)]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(theirs, arguments, train_dataset=rows).train()
    alive = [(p != 0).flatten() for n, p in theirs.named_parameters() if "lora_E" in n]
    assert calls == 0
    assert torch.cat(alive).all()
    assert theirs.peft_config["default"].rank_pattern is None

    model, batch = AdaptedModel(tiny.model("bart")), tiny.batch("bart")
    adapter = model.attach("a", METHODS.get("adalora")(init_r=4, target_r=2, tinit=2, tfinal=3, interval=1))
    assert isinstance(adapter, AdaLoraAdapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    adapter.start(steps)
    model.train()
    budgets = []
    for step in range(1, steps + 1):
        penalty = adapter.penalty()
        assert penalty is not None
        loss = torch.nn.functional.cross_entropy(*model.labelled_logits(batch)) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        budgets.append(adapter.after_step(step)["budget"])
    assert budgets[0] == 48
    assert budgets == sorted(budgets, reverse=True)
    assert adapter.finish()["budget"] == 24
    assert sum(int((d.lora_E != 0).sum()) for d in adapter.low_rank.values()) == 24
