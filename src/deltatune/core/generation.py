"""Generation of a decoder-only model with a prompt: embedded once, then carried by the cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from deltatune.core.prompts import PromptTap
from deltatune.core.sites import WEIGHTS_INSTEAD
from deltatune.errors import TargetError


def generate_behind_prompt(base: Any, tap: PromptTap, arguments: dict[str, Any]) -> Any:
    """`generate` of `base` with the tap's prompt before the embedded input.

    Args:
        base: A decoder-only model.
        tap: Its prompts.
        arguments: Of `generate`, with `input_ids`.

    Returns:
        Token ids [rows, length], the input first, or Transformers' output with them as `sequences`.

    Raises:
        TargetError: The base's code cannot generate behind embedded input.
    """
    if "inputs_embeds" not in inspect.signature(base.prepare_inputs_for_generation).parameters:
        raise TargetError(
            f"{type(base).__name__} generates behind token ids only, and learned vectors have none.",
            field="model",
            remedy=WEIGHTS_INSTEAD,
        )
    rest = dict(arguments)
    ids = rest.pop("input_ids")
    extended = tap.extend(base.get_input_embeddings()(ids), rest.pop("attention_mask", None), ids)
    assert extended is not None
    with tap.active.suspension():
        output = base.generate(inputs_embeds=extended.embeds, attention_mask=extended.mask, **rest)
    new = output if isinstance(output, Tensor) else output.sequences
    rows = new.shape[0] // ids.shape[0]
    whole = torch.cat([ids.repeat_interleave(rows, dim=0), new], dim=1)
    if isinstance(output, Tensor):
        return whole
    output.sequences = whole
    return output
