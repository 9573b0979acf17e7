"""Prompt taps: learned vectors put before the embedded input, and taken out of the result again.

Text models get them through `inputs_embeds` of the encoder (encoder-decoder models) or of the backbone, with
the attention mask widened and, for decoder-only models, positions counted from the mask, so that padding on
either side changes nothing. A prompt that is a text stands where the text would: behind the special tokens
that begin the input. Vision models get them behind the class token of the embedded patches (Jia et al.
2022, VPT-deep's shallow form) and lose them again at the end of the backbone.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Prompt
from deltatune.core.devices import on_gpu, send
from deltatune.core.sites import WEIGHTS_INSTEAD, BaseView
from deltatune.core.taps import Active, cached_length, call_arguments
from deltatune.errors import TargetError


@dataclass(frozen=True)
class Collected:
    """The prompts that the rows of a batch get."""

    vectors: Tensor
    """[batch, n, d_model]. Rows with fewer than the longest are filled up on the left."""
    seen: Tensor
    """Which of them each row has, [batch, n]."""
    behind: Tensor
    """Which of them stand behind the beginning of the input, [batch, n]."""
    beginnings: tuple[tuple[int, ...], ...]
    """Token ids that count as a beginning."""
    alike: bool
    """Whether each row has all of them."""


@dataclass(frozen=True)
class Extended:
    """Prompt and input as one."""

    embeds: Tensor
    """[batch, n + length, d_model]."""
    mask: Tensor
    """[batch, n + length]."""
    seen: Tensor
    """Which of the n vectors each row has, [batch, n]."""
    order: Tensor | None
    """Where each place of a row is found in the prompt followed by the input; None leaves it so."""


class PromptTap:
    """The prompts of all adapters of a model, and the hooks that insert them."""

    def __init__(self, view: BaseView, active: Active) -> None:
        self.active = active
        self.prompts: dict[str, Prompt] = {}
        self.calls = 0
        self.mask: Tensor | None = None
        """Which places of the latest pass are seen, [batch, n + length]; None if no prompt was put in."""
        self._keeps = False
        self._width = 0
        self._order_of_rows: Tensor | None = None
        base = view.base
        backbone = view.backbone
        if view.is_vision:
            _require_one_sequence(view)
            self._handles = [
                _child(backbone, "embeddings").register_forward_hook(self._insert_into_patches),
                backbone.register_forward_hook(self._remove_from_patches),
            ]
        elif view.is_encoder_decoder:
            self._handles = [
                base.get_encoder().register_forward_pre_hook(self._insert_into_text, with_kwargs=True),
                base.get_decoder().register_forward_pre_hook(self._widen_cross_mask, with_kwargs=True),
            ]
        else:
            self._handles = [
                # First of all hooks: the positions that others shift count the prompt as well.
                backbone.register_forward_pre_hook(self._insert_into_text, with_kwargs=True, prepend=True),
            ]
            if view.is_decoder_only or view.labels_tokens:
                self._handles.append(backbone.register_forward_hook(self._remove_from_text))
        self._is_causal = view.is_decoder_only
        self._foretells = not view.labels_tokens

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block, the states of a decoder-only model are those of the prompt as well."""
        self._keeps, before = True, self._keeps
        try:
            yield
        finally:
            self._keeps = before

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def collect(self, batch: int, like: Tensor) -> Collected | None:
        """The prompts of `batch` rows in the dtype of `like`, or None if none is active."""
        routes = self.active.of(self.prompts)
        if not routes or self.active.suspended:
            return None
        self.calls += 1
        learned = {route.name: self.prompts[route.name]().to(like.dtype) for route in routes}
        placed = {route.name: self.prompts[route.name].behind for route in routes}
        beginnings = tuple(ids for found in placed.values() for ids in found or ())
        if self.active.batch_rows is None:
            names = sorted(learned, key=lambda name: placed[name] is not None)
            vectors = torch.cat([learned[name] for name in names])
            first = sum(len(learned[name]) for name in names if placed[name] is None)
            seen = torch.ones(batch, len(vectors), dtype=torch.long, device=like.device)
            where = (torch.arange(len(vectors), device=like.device) >= first).expand(batch, -1)
            return Collected(vectors.expand(batch, -1, -1), seen, where, beginnings, alike=True)
        n = max(vectors.shape[0] for vectors in learned.values())
        seen = torch.zeros(batch, n, dtype=torch.long, device=like.device)
        where = torch.zeros(batch, n, dtype=torch.bool, device=like.device)
        pieces, done, each = [], 0, 0
        blank = like.new_zeros(1, n, like.shape[-1])
        for name, rows in self.active.stretched(routes, batch):
            short = n - learned[name].shape[0]
            pieces.append(blank.expand(rows.start - done, -1, -1))
            pieces.append(F.pad(learned[name], (0, 0, short, 0)).expand(rows.stop - rows.start, -1, -1))
            seen[rows, short:] = 1
            each += (rows.stop - rows.start) * (short == 0)
            where[rows] = placed[name] is not None
            done = rows.stop
        pieces.append(blank.expand(batch - done, -1, -1))
        return Collected(torch.cat(pieces), seen, where, beginnings, alike=each == batch)

    def extend(self, embeds: Tensor, mask: Tensor | None, ids: Tensor | None = None) -> Extended | None:
        """Put the active prompts into the embedded input.

        Args:
            embeds: The input, [batch, length, d_model].
            mask: Its attention mask, [batch, length].
            ids: Its token ids, [batch, length], which tell a prompt that is a text where to stand.

        Returns:
            Both as one, or None without a prompt.
        """
        found = self.collect(embeds.shape[0], embeds)
        if found is None:
            return None
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        order = self._order(found, mask, ids)
        joined = _join(found.vectors, embeds, order)
        return Extended(joined, _join(found.seen.to(mask.dtype), mask, order), found.seen, order)

    def _order(self, found: Collected, mask: Tensor, ids: Tensor | None) -> Tensor | None:
        """The order of prompt and input, [batch, n + length], or None if it is the plain one.

        A text stands before the token at which the input's own text starts. Behind padding on the left the
        prompt stands next to the input: attention within a window counts places, a recurrence steps through
        them. Where tokens see both ways, what fills up a shorter prompt goes to the end of its row, so that
        the row's positions and its first token are those that it has alone.
        """
        placed = self.active.batch_rows is None and not any(
            self.prompts[route.name].behind is not None for route in self.active.of(self.prompts)
        )
        # A GPU is not asked whether a row is padded on the left: that order is right for any row.
        if placed and not (self._is_causal and (on_gpu(mask.device) or bool((mask[:, 0] == 0).any()))):
            return None
        length = mask.shape[1]
        start = _text_starts(mask, ids, found.beginnings)
        first = mask.ne(0).int().argmax(dim=1) if self._is_causal else torch.zeros_like(start)
        rank = torch.where(found.behind, 2 * start[:, None] + 1, 2 * first[:, None] + 1)
        rank = rank.masked_fill(found.seen == 0, -2 if self._is_causal else 2 * length + 2)
        own = 2 * torch.arange(length, device=mask.device) + 2
        return torch.cat([rank, own.expand(len(rank), -1)], dim=1).argsort(dim=1, stable=True)

    def _insert_into_text(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._width, self.mask = 0, None
        if not self.active.of(self.prompts) or self.active.suspended:
            return None
        call = call_arguments(module, args, kwargs)
        if cached_length(call):
            raise TargetError(
                "a cached forward pass cannot insert a prompt in the middle of a text.",
                remedy="Generate with AdaptedModel.generate, which embeds the prompt once.",
            )
        embeds = call.get("inputs_embeds")
        if embeds is None:
            embeds = _embed(module, call["input_ids"])
        extended = self.extend(embeds, call.get("attention_mask"), call.get("input_ids"))
        assert extended is not None
        seen, mask, self._order_of_rows = extended.seen, extended.mask, extended.order
        self.mask = mask
        self._width = seen.shape[1]
        call |= {"input_ids": None, "inputs_embeds": extended.embeds, "attention_mask": mask}
        if call.get("global_attention_mask") is not None:  # Longformer: what all tokens see, and sees all
            call["global_attention_mask"] = _join(
                seen.to(call["global_attention_mask"].dtype), call["global_attention_mask"], extended.order
            )
        segments = call.get("token_type_ids")
        if segments is not None:  # a prompt belongs to the first segment
            call["token_type_ids"] = _join(
                torch.zeros_like(seen).to(segments.dtype), segments, extended.order
            )
        if self._is_causal and "position_ids" in inspect.signature(module.forward).parameters:
            call["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return (), call

    def _remove_from_text(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._width or self._keeps:
            return output
        states, order = output["last_hidden_state"], self._order_of_rows
        if order is None:
            output["last_hidden_state"] = states[:, self._width :]
            return output
        places = order.argsort(dim=1)[:, self._width :]
        if self._foretells:  # a token's is the state just before it, which may be that of the prompt's last
            places = torch.cat([places[:, 1:] - 1, places[:, -1:]], dim=1)
        output["last_hidden_state"] = states[torch.arange(len(states), device=states.device)[:, None], places]
        return output

    def _widen_cross_mask(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if states is None or (mask is not None and mask.shape[1] == states.shape[1]):
            return None
        found = self.collect(states.shape[0], states)
        if found is None:
            return None
        if mask is None:
            mask = found.seen.new_ones(states.shape[0], states.shape[1] - found.seen.shape[1])
        # Without the ids: a text is put among tokens that are all seen, so the mask is the same.
        widened = _join(found.seen.to(mask.dtype), mask, self._order(found, mask, None))
        return args, {**kwargs, "encoder_attention_mask": widened}

    def _insert_into_patches(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._width = 0
        embedded = output[0] if isinstance(output, tuple) else output
        found = self.collect(embedded.shape[0], embedded)
        if found is None:
            return None
        vectors = found.vectors
        if not found.alike:
            raise TargetError(
                "prompts of different lengths cannot share a batch of images, which have no attention mask.",
                remedy="Train them one after another.",
            )
        self._width = vectors.shape[1]
        embedded = torch.cat([embedded[:, :1], vectors, embedded[:, 1:]], dim=1)
        return (embedded, *output[1:]) if isinstance(output, tuple) else embedded

    def _remove_from_patches(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._width:
            states = output["last_hidden_state"]
            output["last_hidden_state"] = torch.cat([states[:, :1], states[:, 1 + self._width :]], dim=1)
        return output


def _require_one_sequence(view: BaseView) -> None:
    """Refuse images whose patches are no sequence that could become longer.

    Raises:
        TargetError: They are in windows and merged on the way, or have a bias for each pair of places.
    """
    config = getattr(view.config, "vision_config", view.config)
    why = None
    if getattr(config, "depths", None):  # of the stages between which patches are merged
        why = "attends within windows of the image, and merges patches from stage to stage"
    if any(getattr(config, f"use_{kind}relative_position_bias", False) for kind in ("", "shared_")):
        why = "has an attention bias for each pair of patches (relative positions)"
    if why is not None:
        raise TargetError(
            f"{view.model_type} {why}, where learned vectors have no place.",
            field="model",
            remedy=WEIGHTS_INSTEAD,
        )


def _embed(module: Any, ids: Tensor) -> Tensor:
    embeds: Tensor = module.get_input_embeddings()(ids)
    return embeds


def _join(before: Tensor, tensor: Tensor, order: Tensor | None) -> Tensor:
    """Put `before` [batch, n, ...] before `tensor` [batch, length, ...], or into it as `order` says."""
    joined = torch.cat([before, tensor], dim=1)
    if order is None:
        return joined
    return joined[torch.arange(len(joined), device=joined.device)[:, None], order]


def _text_starts(mask: Tensor, ids: Tensor | None, beginnings: tuple[tuple[int, ...], ...]) -> Tensor:
    """Where the text of each row starts, [batch]: after padding and the longest beginning that it has."""
    first = mask.ne(0).int().argmax(dim=1)
    starts = first
    for beginning in sorted(beginnings, key=len):
        if ids is None or not beginning or len(beginning) > ids.shape[1]:
            continue
        places = first[:, None] + torch.arange(len(beginning), device=first.device)
        inside = places[:, -1] < ids.shape[1]
        found = ids.gather(1, places.clamp(max=ids.shape[1] - 1))
        hit = inside & (found == send(torch.tensor(beginning), ids.device)).all(dim=1)
        starts = torch.where(hit, first + len(beginning), starts)
    return starts


def _child(module: nn.Module, name: str) -> nn.Module:
    child = getattr(module, name, None)
    if not isinstance(child, nn.Module):
        raise TargetError(
            f"{type(module).__name__} has no module {name!r} that prompts could follow.",
            remedy="Choose a method that does not add tokens, such as lora.",
        )
    return child
