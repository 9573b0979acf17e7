"""The other side of the benchmarks: LoRA by peft and the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deltatune.core.devices import device_of
from deltatune.models.load import load_base
from deltatune.recipe.schema import MethodEntry
from deltatune.training import Context
from deltatune.training.given.context import base_dtype

TASKS = {"text-to-text": "SEQ_2_SEQ_LM", "causal-lm": "CAUSAL_LM", "text-classification": "SEQ_CLS"}


def peft_trainer(
    context: Context,
    entry: MethodEntry,
    folder: Path,
    *,
    tuned: bool = False,
    on_step: Callable[[], None] | None = None,
) -> Any:
    """A Trainer for an entry with LoRA: the same modules, settings, rate, steps and rows.

    With the Trainer's defaults: float32, random batches padded to their longest row, the base's own dropout,
    all logits. `tuned`: as a user does who knows how, with the base in bfloat16 where the processor computes
    in it, rows grouped by length and the base's dropout off. The base is loaded anew.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ours, recipe = context.base(entry), context.recipe
    dtype = base_dtype("auto", device_of()) if tuned else "float32"
    base = load_base(recipe.models[0], recipe.task, context.dataset.labels, dtype=dtype)
    lora = entry.build_config()
    paths = ours.adapted().view.select(lora.targets, lora.kinds)
    config = LoraConfig(
        task_type=TASKS[recipe.task], r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=list(paths), modules_to_save=base.new_modules or None,
    )  # fmt: skip
    if tuned:
        for part in base.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    data = context.data(entry, ours)
    encoded, encoder = data.encoded("train"), data.encoder
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), num_train_epochs=entry.train.epochs,
        learning_rate=entry.train.lr, per_device_train_batch_size=entry.train.batch_size, save_strategy="no",
        report_to=[], logging_steps=10, seed=0, use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
        remove_unused_columns=False, train_sampling_strategy="group_by_length" if tuned else "random",
    )  # fmt: skip

    class EachStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_step is not None:
                on_step()

    return Trainer(
        get_peft_model(base.model, config),
        arguments,
        train_dataset=[dict(feature) for feature in encoded.features],
        data_collator=encoder.collate,
        callbacks=[EachStep()],
    )
