"""From the states of a text's tokens to one vector, as sentence encoders make it.

A prompt's vectors count as tokens of the text, as a text would that a template puts there: so it is in peft's
models for feature extraction, and in Sentence Transformers, which pools what these give.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from deltatune.core.hooks import Hooks

POOLINGS = ("mean", "cls", "last")
"""The mean over all tokens, the state of the first one, or that of the last one."""


def text_vectors(model: Any, batch: Mapping[str, Tensor], hooks: Hooks) -> Tensor:
    """Unit vectors of texts, in float32 or wider.

    Args:
        model: An `AdaptedModel` whose base is a bare encoder or decoder, without a head.
        batch: `input_ids` and `attention_mask` [rows, texts, length]; what else is in it is left alone.
        hooks: What hangs on the base.

    Returns:
        [rows, texts, width].
    """
    inputs = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
    mask = inputs["attention_mask"]
    cache = {"use_cache": False} if model.view.is_decoder_only else {}
    prompt = hooks.prompt
    kept = prompt.kept() if prompt is not None else contextlib.nullcontext()
    with kept, hooks.padding_told(batch):
        states = model(**inputs, **cache).last_hidden_state
        if prompt is not None and prompt.mask is not None:
            mask = prompt.mask
    vectors = pooled(states, mask, model.pooling)
    return F.normalize(vectors, dim=-1).unflatten(0, batch["input_ids"].shape[:2])


def pooled(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector a row, [rows, width], of states [rows, length, width] where the mask [rows, length] is 1."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    seen = mask.ne(0)
    if how == "mean":
        weights = seen.to(states.dtype)
        return (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    # Argmax finds the first of several, here from the end that is asked for.
    places = seen.int().argmax(dim=1) if how == "cls" else -1 - seen.flip(1).int().argmax(dim=1)
    places = places % states.shape[1]
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
