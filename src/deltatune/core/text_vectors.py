"""Vectors of texts, as sentence encoders make them.

A prompt's vectors count as tokens of the text, as a text would that a template puts there: so it is in peft's
models for feature extraction, and in Sentence Transformers, which pools what these give.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from deltatune.core.hooks import Hooks
from deltatune.core.pooling import pooled


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
