"""How many positions a model can tell apart.

Models with a table of positions fail on longer rows, with an index error in the midst of training. Rotary and
relative positions have no end: beyond the length that a model was trained with it is only worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deltatune.core.adapter import Adapter

_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")
"""What Transformers calls tables of absolute positions, learned or of sines."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Tokens of the longest row that a model can read."""

    input: int | None
    """Of an encoder, or of the only stack that there is; None without a table."""
    decoder: int | None
    """Of the decoder of an encoder-decoder model; None without a table, or without a decoder of its own."""
    trained: int | None
    """Up to which the model was trained, if its config says so and there is no table."""


@dataclass(frozen=True, slots=True)
class Room:
    """The positions of a base, and how many of them a delta takes."""

    base: str
    """Its class."""
    positions: Positions
    taken: int
    """Tokens of the delta's own before the input, a prompt's or a prefix's."""
    taken_in_decoder: int = 0
    """Those before what the decoder of an encoder-decoder writes."""


def room_of(model: Any, adapter: Adapter | None) -> Room:
    """What a base has and an adapter takes, if there is one; the weights are not read."""
    prompt = shift = 0
    if adapter is not None:
        with torch.no_grad():
            prompt = 0 if adapter.prompt is None else len(adapter.prompt())
        shift = adapter.position_shift
    before = (prompt, shift) if model.config.is_encoder_decoder else (prompt + shift, 0)
    return Room(type(model).__name__, positions_of(model), *before)


def positions_of(model: Any) -> Positions:
    """Count them."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        read, written = _table(model.get_encoder()), _table(model.get_decoder())
    else:
        # Of a model with towers for images or sounds, whose tables are of patches, what reads text.
        text = model.base_model if config is model.config else model.get_decoder()
        read, written = _table(text), None
    trained = None if read else getattr(config, "max_position_embeddings", None)
    return Positions(read, written, None if model.config.is_encoder_decoder else trained)


def _table(stack: nn.Module) -> int | None:
    """The smallest table of positions in a stack, as far as tokens can use it."""
    sizes = [
        module.num_embeddings - _unused(module)
        for path, module in stack.named_modules()
        if isinstance(module, nn.Embedding) and path.rpartition(".")[2] in _TABLES
    ]
    sizes += [  # GPT-J and CodeGen keep sines in a buffer of each layer
        len(buffer) for path, buffer in stack.named_buffers() if path.rpartition(".")[2] in _TABLES
    ]
    return min(sizes, default=None)


def _unused(table: nn.Embedding) -> int:
    """Rows that no token gets: OPT and BART leave two out, RoBERTa counts on from its padding id."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
