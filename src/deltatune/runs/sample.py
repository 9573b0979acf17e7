"""Rows of a run by which two ways to compute the same are compared."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltatune.core.fast.labelled_head import decoder_inputs
from deltatune.data.load import load_data
from deltatune.errors import DataError
from deltatune.runs.loaded import LoadedRun
from deltatune.tasks import TASKS, Task

ROWS = 8


def sample_batch(loaded: LoadedRun) -> tuple[dict[str, Tensor], str]:
    """The first test rows as a batch without labels, with what the decoder reads where there is one.

    Random inputs where the data are gone. The second part says in words which they are.
    """
    try:
        if not loaded.names_rows:
            raise DataError("there are none.")
        rows = load_data(loaded.recipe.data, loaded.recipe.task).test[:ROWS]
        batch = loaded.encoder.collate(loaded.encoder.encode(rows).features)
        note = f"{len(rows)} test rows"
    except DataError:
        batch, note = (
            _random_batch(loaded.base.model, TASKS.get(loaded.recipe.task)),
            f"random inputs (the data are {'gone' if loaded.names_rows else 'not named'})",
        )
    labels = batch.pop("labels", None)
    if labels is not None and loaded.model.view.is_encoder_decoder:
        batch["decoder_input_ids"] = decoder_inputs(loaded.base.model, labels)
    return batch, note


def _random_batch(model: PreTrainedModel, task: Task) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return {"pixel_values": torch.randn(ROWS, 3, size, size, generator=generator)}
    ids = torch.randint(3, model.config.vocab_size, (ROWS, 32), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task.embeds:
        return {name: tensor[:, None] for name, tensor in batch.items()}
    return batch | ({"labels": ids[:, :8]} if model.config.is_encoder_decoder else {})
