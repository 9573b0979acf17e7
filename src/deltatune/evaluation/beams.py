"""The prompts of a beam search, read once: Transformers reads a decoder's prompt once for each beam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from deltatune.evaluation.greedy import CACHES
from deltatune.evaluation.interfaces import Model


def read_once(model: Model, batch: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Cache]:
    """What `generate` is given so that its beams share what the model makes of a prompt.

    Args:
        model: A decoder that may drop rows, so that nothing but tokens is in its cache.
        batch: Ids and mask of prompts, padded on the left.
        arguments: Of `generate`, with `num_beams`.

    Returns:
        The cache of all tokens but the last one, a row for each beam, by its name; nothing if there is none.
    """
    but_last = {name: rows[:, :-1] for name, rows in batch.items()}
    if not but_last["input_ids"].shape[1]:
        return {}
    output = model.generate(
        **but_last, **{**arguments, "num_beams": 1, "max_new_tokens": 1, "return_dict_in_generate": True}
    )
    for name in CACHES:
        if isinstance(cache := getattr(output, name, None), Cache):
            rows = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)
            cache.batch_select_indices(rows.repeat_interleave(arguments["num_beams"]))
            return {name: cache}
    return {}
