"""Rows that are written together, one token each at a step, and the cache that they share.

Rows end at the last place of the cache, so that all have their next token at the same place; shorter ones
have padding before them, which the mask hides. So a row may join at any time: what is shorter is padded
further on its left. Positions are counted from the mask. Of an encoder-decoder, what the encoder made of a
row is kept beside the cache and padded on its right.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from deltatune.core.model import AdaptedModel
from deltatune.evaluation.greedy import CACHES
from deltatune.serve.engine.acting import acting


class Lane:
    """Rows in the midst of being written.

    Args:
        model: The model; what acts on a row is named by `adapters`.
        adapters: Of each row.
        batch: Of `collate_prompts`, on the model's device: prompts padded on the left, or what an encoder
            reads padded on the right.

    Attributes:
        logits: Of the next token of each row, [rows, vocabulary] in float32, as the latest pass gave them,
            whose rows they have.
    """

    def __init__(
        self, model: AdaptedModel, adapters: Sequence[str | None], batch: Mapping[str, Tensor]
    ) -> None:
        self.adapters = list(adapters)
        self._model = model
        self._takes = inspect.signature(model.base.forward).parameters
        self._states: Tensor | None = None
        self._seen: Tensor | None = None
        self._cache: Any = DynamicCache()
        self._decodes = model.view.is_encoder_decoder
        if self._decodes:
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            start = torch.full((len(self.adapters), 1), _start_of(model.base), device=model.device)
            self._mask = torch.ones_like(start)
            with acting(model, self.adapters):
                self._states = model.encoder_states(batch)
                prompted = model.prompted_mask
            self._seen = batch["attention_mask"] if prompted is None else prompted
            self.logits = self._pass(start)
            return
        self._mask = batch["attention_mask"]
        with acting(model, self.adapters):
            self.logits = self._compute(batch["input_ids"], self._mask)
            prompted = model.prompted_mask
        self._mask = self._mask if prompted is None else prompted

    def __len__(self) -> int:
        return len(self.adapters)

    @property
    def length(self) -> int:
        """Places of the cache."""
        return self._mask.shape[1]

    def step(self, tokens: Sequence[int]) -> None:
        """Put a token behind each row; `logits` are those of the next one then."""
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        self.logits = self._pass(ids)

    def join(self, other: Lane) -> None:
        """Take in the rows of another lane, behind those that are here."""
        length = max(self.length, other.length)
        ours, theirs = length - self.length, length - other.length
        self._mask = torch.cat([_left(self._mask, ours), _left(other._mask, theirs)])
        for mine, its in zip(self._written(), other._written(), strict=True):
            for name in ("keys", "values"):
                pair = _before(getattr(mine, name), ours), _before(getattr(its, name), theirs)
                setattr(mine, name, torch.cat(pair))
        if self._states is not None and self._seen is not None:
            assert other._states is not None
            assert other._seen is not None
            read = max(self._seen.shape[1], other._seen.shape[1])
            ours, theirs = read - self._seen.shape[1], read - other._seen.shape[1]
            self._seen = torch.cat([F.pad(self._seen, (0, ours)), F.pad(other._seen, (0, theirs))])
            self._states = torch.cat([_behind(self._states, ours), _behind(other._states, theirs)])
            for mine, its in zip(self._read(), other._read(), strict=True):
                for name in ("keys", "values"):
                    pair = _behind(getattr(mine, name), ours), _behind(getattr(its, name), theirs)
                    setattr(mine, name, torch.cat(pair))
        self.adapters += other.adapters

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; places that none of them has are given up."""
        index = torch.tensor(rows, device=self._mask.device)
        mask = self._mask.index_select(0, index)
        first = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, first:]
        for layer in self._written():
            layer.keys = layer.keys.index_select(0, index)[:, :, first:]
            layer.values = layer.values.index_select(0, index)[:, :, first:]
        if self._states is not None and self._seen is not None:
            seen = self._seen.index_select(0, index)
            last = int(seen.any(dim=0).nonzero()[-1]) + 1
            self._seen = seen[:, :last]
            self._states = self._states.index_select(0, index)[:, :last]
            for layer in self._read():
                layer.keys = layer.keys.index_select(0, index)[:, :, :last]
                layer.values = layer.values.index_select(0, index)[:, :, :last]
        self.adapters = [self.adapters[row] for row in rows]

    def _pass(self, ids: Tensor) -> Tensor:
        """Logits behind ids [rows, 1], which the mask has already, and whose prompts are in the cache."""
        with acting(self._model, self.adapters), self._model.behind_prompts():
            return self._compute(ids, self._mask)

    def _compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        inputs: dict[str, Any] = {_cache_name(self._takes): self._cache, "use_cache": True}
        if self._decodes:
            inputs |= {
                "encoder_outputs": BaseModelOutput(last_hidden_state=self._states),
                "attention_mask": self._seen,
                "decoder_input_ids": ids,
                "decoder_attention_mask": mask,
            }
        else:
            inputs |= {"input_ids": ids, "attention_mask": mask}
            if "position_ids" in self._takes:
                inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            if "logits_to_keep" in self._takes:
                inputs["logits_to_keep"] = 1
        logits: Tensor = self._model(**inputs).logits
        return logits[:, -1].float()

    def _written(self) -> Iterable[Any]:
        """Layers of the cache of what is written."""
        cache = self._cache.self_attention_cache if self._decodes else self._cache
        return [layer for layer in cache.layers if layer.is_initialized]

    def _read(self) -> Iterable[Any]:
        """Layers of the cache of what the encoder made."""
        return [layer for layer in self._cache.cross_attention_cache.layers if layer.is_initialized]


def _cache_name(parameters: Iterable[str]) -> str:
    return next((name for name in CACHES if name in parameters), CACHES[-1])


def _start_of(base: Any) -> int:
    """The token that a decoder begins with, as Transformers' `generate` chooses it."""
    for config in (base.generation_config, base.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if (token := getattr(config, name, None)) is not None:
                return int(token)
    return 0


def _left(mask: Tensor, places: int) -> Tensor:
    return F.pad(mask, (places, 0))


def _before(tensor: Tensor, places: int) -> Tensor:
    """Zeros before what a cache holds, [rows, heads, length, width]."""
    return F.pad(tensor, (0, 0, places, 0)) if places else tensor


def _behind(tensor: Tensor, places: int) -> Tensor:
    """Zeros behind [..., length, width]."""
    return F.pad(tensor, (0, 0, 0, places)) if places else tensor
