"""What peft computes with a folder of ours: the check that it reads it as it is meant."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.models.quiet import quiet, unheard
from deltatune.quant import describe
from deltatune.runs.loaded import LoadedRun
from deltatune.tasks import TASKS
from deltatune.training.proof.equal_logits import Logits, rounding

Batch = Mapping[str, Tensor]


def no_peft(loaded: LoadedRun, name: str) -> str | None:
    """Why peft cannot be asked about the adapter `name`, as a sentence; None if it can."""
    adapter = loaded.model.adapter(name)
    if TASKS.get(loaded.recipe.task).embeds and (adapter.prompt is not None or adapter.keys_values):
        return "It was not loaded in peft, whose models with prompts give no states of tokens to pool."
    if importlib.util.find_spec("peft") is None:
        return 'It was not loaded in peft, which is not installed here (pip install "deltatune[peft]").'
    formats = describe(loaded.model.base)
    if formats:
        return f"It was not loaded in peft: that is done on bases without quantization ({formats})."
    return None


def version() -> str:
    """Peft's name and version."""
    return f"peft {importlib.metadata.version('peft')}"


@torch.inference_mode()
def in_peft(loaded: LoadedRun, folder: Path, name: str, batch: Batch) -> tuple[Logits, Tensor]:
    """The outputs of an adapter of the run's model, and those of peft's model with the same in `folder`.

    peft gets a copy of the run's base. Rows are computed one at a time, without their padding: behind padding
    on the left peft's own prompts and prefixes stand in the wrong place.

    Args:
        loaded: The run.
        folder: With peft's files of the adapter.
        name: Of the adapter in the run's model.
        batch: Some rows, on the host, without labels.
    """
    model, task = loaded.model, TASKS.get(loaded.recipe.task)
    with quiet(), unheard():  # it imports backends of quantization that print
        from peft import PeftModel

        theirs: Any = PeftModel.from_pretrained(model.plain_base(), str(folder)).eval()
    if task.embeds:  # what stands in the base's place, whose states are pooled
        theirs = AdaptedModel(theirs.get_base_model(), pooling=loaded.base.pooling)
    rows = [to_device(row, model.device) for row in _single_rows(batch)]

    def outputs(of: Any) -> Tensor:
        return torch.cat([_told(task.outputs(of, row), row).float().flatten().cpu() for row in rows])

    def ours(*names: str) -> Tensor:
        with model.using(*names):
            return outputs(model)

    wanted = Logits(ours(name), ours(), f"{len(rows)} rows, each alone", rounding(model))
    return wanted, outputs(theirs)


def _single_rows(batch: Batch) -> list[dict[str, Tensor]]:
    """The rows of a batch, each without its padding; of texts that are compared the batch as it is."""
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() != 2:
        return [dict(batch)]
    count = len(next(iter(batch.values())))
    rows = [{name: tensor[index : index + 1] for name, tensor in batch.items()} for index in range(count)]
    if mask is None:
        return rows
    seen = [row.bool() for row in mask]
    return [
        {
            name: t[:, s] if t.shape[1:] == s.shape and name not in _OF_DECODER else t
            for name, t in row.items()
        }
        for row, s in zip(rows, seen, strict=True)
    ]


_OF_DECODER = ("decoder_input_ids", "decoder_attention_mask")


def _told(outputs: Tensor, row: Batch) -> Tensor:
    """Without the positions of a prompt, which peft's model gives outputs for as well."""
    ids = row.get("input_ids")
    if ids is None or outputs.dim() != 3 or "decoder_input_ids" in row:
        return outputs
    return outputs[:, -ids.shape[1] :]
