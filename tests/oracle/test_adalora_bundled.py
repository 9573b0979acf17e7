"""AdaLoRA on the bundled T5: through our trainer the budget is met, through HF Trainer and peft it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from deltatune.models.load import load_base
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.training import Context, run

STEPS, INIT_R, TARGET_R, MATRICES = 10, 6, 4, 48  # query and value of 8 + 8 + 8 attention layers


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": f"0 medal: {n}, nation: {n % 7},", "title": f"medals of nation {n % 7}"} for n in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return parse_recipe(
        {
            "task": "text-to-text",
            "model": "bundled:t5-small",
            "data": {
                "source": str(path),
                "columns": {"input": "text", "target": "title"},
                "split": {"validation": 0.1, "test": 0.1},
            },
            "methods": [{"adalora": {"init_r": INIT_R, "target_r": TARGET_R, "interval": 1}}],
            "train": {"epochs": 9, "max_steps": STEPS, "batch_size": 4, "evaluate_every": STEPS},
            "evaluation": {"max_new_tokens": 4},
        }
    )


def test_our_trainer_meets_the_budget(recipe: Recipe, tmp_path: Path) -> None:
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.method_result == {"budget": TARGET_R * MATRICES, "target_budget": TARGET_R * MATRICES}
    stored = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert sum(sum(mask) for mask in stored["rank_pattern"].values()) == TARGET_R * MATRICES


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_never_allocates_for_peft(recipe: Recipe, tmp_path: Path) -> None:
    base = load_base(recipe.model, recipe.task, None)
    context = Context.open(recipe, Silent())
    entry = recipe.methods[0]
    features = context.data(entry, context.base(entry)).encoded("train").features
    config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM", init_r=INIT_R, target_r=TARGET_R, tinit=1, tfinal=3, deltaT=1,
        total_step=STEPS, target_modules=["q", "v"],
    )  # fmt: skip
    model = get_peft_model(base.model, config)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=5e-3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(
        model, arguments, train_dataset=features, data_collator=DataCollatorForSeq2Seq(base.processor, model)
    ).train()
    alive = torch.cat([(p != 0).flatten() for n, p in model.named_parameters() if "lora_E" in n])
    assert len(alive) == INIT_R * MATRICES
    assert alive.all()
    assert model.peft_config["default"].rank_pattern is None
