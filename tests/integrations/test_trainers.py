"""Trainers of Transformers and TRL drive our schedules, save our files and go on from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AdaLoraConfig, PeftModel
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError, TargetError, TrainingError
from deltatune.integrations.transformers import DeltaCallback
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
ADALORA = dt.AdaLoraConfig(init_r=3, target_r=1, tinit=1, tfinal=2, interval=1)
QUIET: dict[str, Any] = {
    "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "learning_rate": 1e-2,
    "per_device_train_batch_size": 4, "logging_strategy": "no",
}  # fmt: skip
TEXTS = Dataset.from_dict({"text": [f"a film of the {n}th day" for n in range(12)]})
PAIRS = Dataset.from_dict(
    {
        "prompt": [f"a film {n}" for n in range(8)],
        "chosen": [f" is good {n}" for n in range(8)],
        "rejected": [f" was bad {n}" for n in range(8)],
    }
)


def driven(model: AdaptedModel, rows: Any, out: Path, **settings: Any) -> tuple[Trainer, DeltaCallback]:
    delta = DeltaCallback(model)
    arguments = TrainingArguments(str(out), **{**QUIET, "max_steps": 6, **settings})
    return Trainer(delta.model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[delta]), delta


def budget(model: AdaptedModel, name: str = "default") -> tuple[int, int]:
    adapter = model.adapter(name)
    assert isinstance(adapter, AdaLoraAdapter)
    return sum(int((delta.lora_E != 0).sum()) for delta in adapter.low_rank.values()), adapter.target


def parameters(model: AdaptedModel, name: str = "default") -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.adapter(name).named_parameters()}


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=ids).logits
    return found


def test_sft_with_our_adalora_meets_its_budget_and_with_pefts_does_not(
    llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """The reason why there is an integration at all: nothing calls peft's schedule, and nothing says so."""
    arguments = {**QUIET, "max_steps": 8, "max_length": 16}
    theirs = SFTTrainer(
        copy.deepcopy(llama),
        args=SFTConfig(str(tmp_path / "theirs"), **arguments),
        train_dataset=TEXTS,
        processing_class=tokenizer,
        peft_config=AdaLoraConfig(
            init_r=3, target_r=1, tinit=1, tfinal=2, deltaT=1, total_step=8,
            target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    theirs.train()
    alive = [int((p != 0).sum()) for n, p in theirs.model.named_parameters() if "lora_E" in n]
    assert sum(alive) == 3 * len(alive)  # the budget is 1 * len(alive)

    model = dt.adapt(llama, ADALORA)
    delta = DeltaCallback(model)
    SFTTrainer(
        delta.model,
        args=SFTConfig(str(tmp_path / "ours"), **arguments),
        train_dataset=TEXTS,
        processing_class=tokenizer,
        callbacks=[delta],
    ).train()
    assert budget(model) == (len(alive), len(alive))
    assert delta.certificate is not None
    assert delta.certificate.passed
    found = dt.inspect(tmp_path / "ours")  # the adapter in it, and its certificate
    assert found.certificate is not None
    again = PeftModel.from_pretrained(
        type(llama).from_pretrained(llama.name_or_path), tmp_path / "ours/adapter"
    )
    ids = torch.arange(5, 13)[None]
    torch.testing.assert_close(logits(again.eval(), ids), logits(model.eval(), ids), rtol=1e-4, atol=1e-5)
    said = dt.predict(tmp_path / "ours", ["a film"])
    assert said[0].prediction is not None
    merged = model.merged()
    assert torch.allclose(logits(merged, ids), logits(model, ids), atol=1e-5)
    assert merged.forward.__self__ is merged  # TRL's own forward stays with the base


@pytest.mark.slow
def test_dpo_compares_with_where_the_delta_began(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    plain = copy.deepcopy(llama)
    model = dt.adapt(llama, dt.LoraConfig(r=2, dropout=0.1))
    tiny.perturb(model.adapter("default"))
    start = copy.deepcopy(parameters(model))
    delta = DeltaCallback(model)
    arguments = DPOConfig(str(tmp_path), **{**QUIET, "max_steps": 2, "logging_strategy": "steps"},
                          logging_steps=1, max_length=32)  # fmt: skip
    trainer = DPOTrainer(
        delta.model, args=arguments, train_dataset=PAIRS, processing_class=tokenizer, callbacks=[delta]
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: where it began, it is its own reference
    assert losses[1] < losses[0]
    for name, value in parameters(model, "ref").items():
        assert torch.equal(value, start[name])
    assert model.active == ("default",)
    with pytest.raises(AdapterError, match="'ref'"):
        DPOTrainer(
            DeltaCallback(model).model, args=arguments, train_dataset=PAIRS, processing_class=tokenizer
        )
    ids = torch.arange(5, 13)[None]
    with model.using():
        assert torch.equal(logits(model.eval(), ids), logits(plain.eval(), ids))
    assert delta.certificate is not None


@pytest.mark.slow
def test_a_trainer_that_goes_on_is_the_one_that_never_stopped(llama: Any, rows: Any, tmp_path: Path) -> None:
    whole = dt.adapt(copy.deepcopy(llama), ADALORA.changed({"dropout": 0.1}))
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer, _ = driven(whole, rows, tmp_path / "out", **saving)
    trainer.train()
    rest = dt.adapt(copy.deepcopy(llama), whole.configs["default"])
    trainer, delta = driven(rest, rows, tmp_path / "out", **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-3"))
    for name, value in parameters(whole).items():
        assert torch.equal(parameters(rest)[name], value), name
    assert delta.certificate is not None
    assert {"every tap fired", "base unchanged"} <= {line.check for line in delta.certificate.lines}
    assert dt.inspect(tmp_path / "out").method == "adalora"  # adapter/, and none of the checkpoints
    kept = {path.name for path in (tmp_path / "out/checkpoint-3").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "deltatune.json"} <= kept
    assert not {"model.safetensors", "pytorch_model.bin"} & kept

    other = dt.adapt(copy.deepcopy(llama), ADALORA)
    trainer, _ = driven(other, rows, tmp_path / "other", **saving)
    with pytest.raises(AdapterError, match="other settings"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-3"))
    lora = dt.adapt(copy.deepcopy(llama), dt.LoraConfig(r=2))
    trainer, _ = driven(lora, rows, tmp_path / "lora", **saving)
    with pytest.raises(AdapterError, match="is of adalora"):  # and not the optimizer's of its parts
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-3"))
    trainer, _ = driven(rest, rows, tmp_path / "whole", **saving)
    with pytest.raises(TrainingError, match="6 of 6 steps are made"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-6"))
    longer = dt.adapt(copy.deepcopy(llama), whole.configs["default"])
    trainer, _ = driven(longer, rows, tmp_path / "longer", max_steps=9)
    with pytest.warns(UserWarning, match="laid out over 6 steps, and is now over 9"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-3"))
    assert budget(longer) == (4, 4)


@pytest.mark.slow
def test_epochs_with_a_last_partial_group_of_accumulated_batches(
    llama: Any, rows: Any, tmp_path: Path
) -> None:
    model = dt.adapt(llama, ADALORA)
    trainer, delta = driven(
        model, rows[:10], tmp_path, max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=2,
        warmup_steps=2, activation_checkpointing=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.max_steps == delta.loop.taken == 6  # two a epoch: batches of 4 + 4 and of 2 rows
    assert budget(model) == (4, 4)


@pytest.mark.slow
def test_the_penalty_has_its_weight_however_batches_are_accumulated(
    llama: Any, rows: Any, tmp_path: Path
) -> None:
    found = []
    for size in (4, 2):
        model = dt.adapt(copy.deepcopy(llama), ADALORA.changed({"orth_reg": 5.0}))
        trainer, _ = driven(
            model, rows, tmp_path / str(size), optim="sgd", per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size, train_sampling_strategy="sequential",
        )  # fmt: skip
        trainer.train()
        found.append(parameters(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_training_stop = state.global_step == 3


@pytest.mark.slow
def test_a_schedule_that_did_not_end_is_an_error_at_the_end(llama: Any, rows: Any, tmp_path: Path) -> None:
    trainer, _ = driven(dt.adapt(copy.deepcopy(llama), ADALORA), rows, tmp_path / "stopped")
    trainer.add_callback(Stop())
    with pytest.raises(TrainingError, match="final budget") as refusal:
        trainer.train()
    assert "max_steps=3" in str(refusal.value.remedy)
    assert not json.loads((tmp_path / "stopped/certificate.json").read_text())["passed"]

    trainer, delta = driven(
        dt.adapt(copy.deepcopy(llama), ADALORA), rows, tmp_path / "best", load_best_model_at_end=True,
        save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1, greater_is_better=True,
    )  # fmt: skip
    trainer.add_callback(EarlyStoppingCallback(10))
    with pytest.raises(TrainingError, match="final budget") as refusal:
        trainer.train()
    assert trainer.state.best_global_step < 4
    assert "load_best_model_at_end" in str(refusal.value.remedy)
    assert delta.loop.taken == trainer.state.best_global_step  # the best one's own state is back

    model = dt.adapt(copy.deepcopy(llama), dt.LoraConfig(r=2))  # which has no schedule
    trainer, delta = driven(model, rows, tmp_path / "lora")
    trainer.add_callback(Stop())
    trainer.train()
    assert delta.certificate is not None


@pytest.mark.slow
def test_mixed_precision(llama: Any, rows: Any, tmp_path: Path) -> None:
    model = dt.adapt(llama, ADALORA)
    trainer, delta = driven(model, rows, tmp_path, bf16=True)
    trainer.train()
    assert budget(model) == (4, 4)
    assert {p.dtype for p in model.adapter("default").parameters()} == {torch.float32}
    assert delta.certificate is not None


@pytest.mark.slow
def test_rates_of_their_own(llama: Any, rows: Any, tmp_path: Path) -> None:
    model = dt.adapt(llama, dt.LoraPlusConfig(r=2))
    trainer, delta = driven(model, rows, tmp_path / "plain")
    with pytest.raises(TrainingError, match="rates of their own"):
        trainer.train()
    delta = DeltaCallback(model)
    groups = delta.parameters(lr=1e-3)
    assert sorted(group["lr"] for group in groups) == [1e-3, 1.6e-2]
    arguments = TrainingArguments(str(tmp_path / "told"), **QUIET, max_steps=2)
    optimizer = torch.optim.AdamW(groups)
    Trainer(
        delta.model, arguments, train_dataset=rows, callbacks=[delta], optimizers=(optimizer, None)
    ).train()
    assert delta.certificate is not None


@pytest.mark.slow
def test_a_hard_prompt_is_searched_by_the_models_own_loss(llama: Any, rows: Any, tmp_path: Path) -> None:
    model = dt.adapt(llama, dt.HardPromptConfig(n_tokens=2, candidates=4))
    trainer, _ = driven(model, rows, tmp_path / "two", gradient_accumulation_steps=2)
    with pytest.raises(RecipeError, match="one batch"):
        trainer.train()
    before = model.adapter("default").hard.tokens().clone()
    trainer, _ = driven(model, rows, tmp_path / "one")
    trainer.train()
    assert not torch.equal(model.adapter("default").hard.tokens(), before)


@pytest.mark.slow
def test_what_a_trainer_must_not_do(llama: Any, rows: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no delta"):
        DeltaCallback(llama)
    model = dt.adapt(llama, dt.LoraConfig(r=2))
    arguments = TrainingArguments(str(tmp_path), **QUIET, max_steps=2)
    delta = DeltaCallback(model)
    with pytest.raises(AdapterError, match="another model"):
        Trainer(llama, arguments, train_dataset=rows, callbacks=[delta])
    with pytest.raises(AdapterError, match="of another DeltaCallback"):
        Trainer(delta.model, arguments, train_dataset=rows, callbacks=[delta, DeltaCallback(model)])
    with pytest.raises(RecipeError, match="twice"):
        Trainer(delta.model, arguments, train_dataset=rows, callbacks=[delta, delta]).train()
    for given in ([], [delta]):
        with pytest.raises(AdapterError, match=r"Trainer\(delta\.model"):
            Trainer(model, arguments, train_dataset=rows, callbacks=given)
    with pytest.raises(AdapterError, match=r"Trainer\(delta\.model"):
        SFTTrainer(
            model, args=SFTConfig(str(tmp_path), **QUIET), train_dataset=TEXTS, processing_class=tokenizer
        )
    with pytest.raises(RecipeError, match="push_to_hub"):
        delta.model.save_pretrained(tmp_path / "pushed", push_to_hub=True)
    with pytest.raises(TrainingError, match="nothing drives its schedule"):
        Trainer(delta.model, arguments, train_dataset=rows).train()
    for setting in ({"bf16_full_eval": True}, {"_n_gpu": 2}):
        trainer, _ = driven(model, rows, tmp_path / "refused")
        for name, value in setting.items():
            setattr(trainer.args, name, value)
        with pytest.raises(RecipeError):
            trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    model.attach("second", dt.LoraConfig(r=2))
    model.use("default", "second")
    with pytest.raises(AdapterError, match="active: default, second"):
        DeltaCallback(model)
    model.attach("head", dt.LoraConfig(r=2, targets=("lm_head",)))
    delta = DeltaCallback(model)
    trainer = SFTTrainer(
        delta.model, args=SFTConfig(str(tmp_path), **QUIET, max_steps=1), train_dataset=TEXTS,
        processing_class=tokenizer, callbacks=[delta],
    )  # fmt: skip
    with pytest.raises(TargetError, match="output head"):
        trainer.train()


@pytest.mark.slow
def test_generation_with_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    whole = tiny.batch("t5")
    rows = [{name: values[row] for name, values in whole.items()} for row in range(4)]
    model = dt.adapt(tiny.model("t5"), dt.PrefixConfig(n_tokens=2))
    delta = DeltaCallback(model)
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), **QUIET, max_steps=2, predict_with_generate=True, generation_max_length=5
    )
    trainer = Seq2SeqTrainer(delta.model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[delta])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    said = trainer.predict(rows).predictions
    inputs = {name: whole[name] for name in ("input_ids", "attention_mask")}
    alone = model.generate(**inputs, max_length=5)
    assert torch.equal(torch.as_tensor(said)[:, : alone.shape[1]], alone)
    assert delta.certificate is not None


@pytest.mark.slow
def test_smoothed_labels_are_shifted_as_without_a_delta(llama: Any, rows: Any, tmp_path: Path) -> None:
    smoothed = {"label_smoothing_factor": 0.1}
    trainer, _ = driven(dt.adapt(copy.deepcopy(llama), dt.LoraConfig(r=2)), rows, tmp_path, **smoothed)
    arguments = TrainingArguments(str(tmp_path), **QUIET, max_steps=2, **smoothed)
    plain = Trainer(llama, arguments, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-5)


@pytest.mark.slow
def test_one_of_two_deltas_is_trained(llama: Any, rows: Any, tmp_path: Path) -> None:
    model = dt.adapt(llama, dt.LoraConfig(r=2))
    model.attach("other", dt.LoraConfig(r=2))
    model.use("default")
    before = parameters(model, "other")
    trainer, _ = driven(model, rows, tmp_path, max_steps=2)
    trainer.train()
    for name, value in parameters(model, "other").items():
        assert torch.equal(before[name], value)
