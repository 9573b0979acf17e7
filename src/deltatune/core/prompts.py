"""Prompt taps: learned vectors put before the embedded input, and taken out of the result again.

Text models get them through `inputs_embeds` of the encoder (encoder-decoder models) or of the backbone, with
the attention mask widened and, for decoder-only models, positions counted from the mask, so that padding on
either side changes nothing. Vision models get them behind the class token of the embedded patches (Jia et al.
2022, VPT-deep's shallow form) and lose them again at the end of the backbone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Prompt
from deltatune.core.sites import BaseView
from deltatune.core.taps import Active, call_arguments
from deltatune.errors import TargetError


class PromptTap:
    """The prompts of all adapters of a model, and the hooks that insert them."""

    def __init__(self, view: BaseView, active: Active) -> None:
        self.active = active
        self.prompts: dict[str, Prompt] = {}
        self.calls = 0
        self._width = 0
        base = view.base
        backbone = view.backbone
        if view.is_vision:
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
            if view.is_decoder_only:
                self._handles.append(backbone.register_forward_hook(self._remove_from_text))
        self._is_causal = view.is_decoder_only

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def collect(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Prompt vectors [batch, n, d_model] and which of them each row has [batch, n], or None.

        Rows with fewer than the longest are filled up on the left, farthest from the input.
        """
        routes = self.active.of(self.prompts)
        if not routes or self.active.suspended:
            return None
        self.calls += 1
        if self.active.batch_rows is None:
            vectors = torch.cat([self.prompts[route.name]() for route in routes]).to(like.dtype)
            seen = torch.ones(batch, vectors.shape[0], dtype=torch.long, device=like.device)
            return vectors.expand(batch, -1, -1), seen
        learned = {route.name: self.prompts[route.name]() for route in routes}
        n = max(vectors.shape[0] for vectors in learned.values())
        seen = torch.zeros(batch, n, dtype=torch.long, device=like.device)
        pieces, done = [], 0
        blank = like.new_zeros(1, n, like.shape[-1])
        for name, rows in self.active.stretched(routes, batch):
            vectors = learned[name].to(like.dtype)
            short = n - vectors.shape[0]
            pieces.append(blank.expand(rows.start - done, -1, -1))
            pieces.append(F.pad(vectors, (0, 0, short, 0)).expand(rows.stop - rows.start, -1, -1))
            seen[rows, short:] = 1
            done = rows.stop
        pieces.append(blank.expand(batch - done, -1, -1))
        return torch.cat(pieces), seen

    def extend(self, embeds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
        """Prompt and input as one.

        Returns:
            Embeddings [batch, n + length, d_model], mask [batch, n + length], and which of the n vectors each
            row has [batch, n]; or None without a prompt.
        """
        found = self.collect(embeds.shape[0], embeds)
        if found is None:
            return None
        vectors, seen = found
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return self._join(vectors, embeds, seen), self._join(seen.to(mask.dtype), mask, seen), seen

    def _join(self, before: Tensor, tensor: Tensor, seen: Tensor) -> Tensor:
        """Put `before` [batch, n, ...] before `tensor` [batch, length, ...].

        Where tokens see both ways, what fills up a shorter prompt goes to the end of its row, so that the
        row's positions and its first token are those that it has alone.
        """
        joined = torch.cat([before, tensor], dim=1)
        if self.active.batch_rows is None or self._is_causal:
            return joined
        places = torch.arange(joined.shape[1], device=joined.device)
        order = (places + (seen == 0).sum(dim=1, keepdim=True)) % joined.shape[1]
        return joined[torch.arange(len(joined), device=joined.device)[:, None], order]

    def _insert_into_text(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._width = 0
        if not self.active.of(self.prompts) or self.active.suspended:
            return None
        call = call_arguments(module, args, kwargs)
        past = call.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            raise TargetError(
                "a cached forward pass cannot insert a prompt in the middle of a text.",
                remedy="Generate with AdaptedModel.generate, which embeds the prompt once.",
            )
        embeds = call.get("inputs_embeds")
        if embeds is None:
            embeds = _embed(module, call["input_ids"])
        extended = self.extend(embeds, call.get("attention_mask"))
        assert extended is not None
        embeds, mask, seen = extended
        self._width = embeds.shape[1] - _length(call)
        call |= {"input_ids": None, "inputs_embeds": embeds, "attention_mask": mask}
        segments = call.get("token_type_ids")
        if segments is not None:  # a prompt belongs to the first segment
            call["token_type_ids"] = self._join(torch.zeros_like(seen).to(segments.dtype), segments, seen)
        if self._is_causal and "position_ids" in inspect.signature(module.forward).parameters:
            call["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return (), call

    def _remove_from_text(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._width:
            output["last_hidden_state"] = output["last_hidden_state"][:, self._width :]
        return output

    def _widen_cross_mask(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if states is None or (mask is not None and mask.shape[1] == states.shape[1]):
            return None
        found = self.collect(states.shape[0], states)
        if found is None:
            return None
        _, seen = found
        if mask is None:
            mask = seen.new_ones(states.shape[0], states.shape[1] - seen.shape[1])
        return args, {**kwargs, "encoder_attention_mask": self._join(seen.to(mask.dtype), mask, seen)}

    def _insert_into_patches(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._width = 0
        embedded = output[0] if isinstance(output, tuple) else output
        found = self.collect(embedded.shape[0], embedded)
        if found is None:
            return None
        vectors, seen = found
        if not bool(seen.all()):
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


def _embed(module: Any, ids: Tensor) -> Tensor:
    embeds: Tensor = module.get_input_embeddings()(ids)
    return embeds


def _length(call: dict[str, Any]) -> int:
    given = call["inputs_embeds"] if call.get("inputs_embeds") is not None else call["input_ids"]
    return int(given.shape[1])


def _child(module: nn.Module, name: str) -> nn.Module:
    child = getattr(module, name, None)
    if not isinstance(child, nn.Module):
        raise TargetError(
            f"{type(module).__name__} has no module {name!r} that prompts could follow.",
            remedy="Choose a method that does not add tokens, such as lora.",
        )
    return child
