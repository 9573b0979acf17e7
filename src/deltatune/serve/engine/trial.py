"""A trial of each delta that is attached: may its rows share a pass with others, and join them later?

Most can. A delta that replaces the base's own parameters cannot act on some rows; an expert of a mixture sees
no rows; a decoder that counts positions by the length of its cache would count a joining row's padding.
Nobody lists such cases: two rows are computed together and apart, and what differs has passes of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.acting import acting
from deltatune.serve.engine.lane import Lane

FLOAT32, OTHERS = 1e-3, 6e-2
"""How far logits may be apart, as a share of the largest: in float32, and in bfloat16 or few bits."""
LONG, SHORT = 7, 4
"""Tokens of the two rows."""


class Trials:
    """Tries deltas out, those of one method and its settings once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[bool, bool]] = {}

    def __call__(self, served: Served) -> None:
        """Find out, and note, whether a delta's rows may be mixed with others and may join them."""
        model, adapter = served.run.model, served.run.adapter
        kind = (
            ("",)
            if adapter is None
            else (model.configs[adapter].name, model.configs[adapter].model_dump_json(), served.task.name)
        )
        if kind not in self._known:
            _try(served)
            self._known[kind] = served.mixes, served.joins
        served.mixes, served.joins = self._known[kind]


def _try(served: Served) -> None:
    model, adapter = served.run.model, served.run.adapter
    if served.task.writes_text:
        served.joins = _holds(lambda: joins_exactly(model, adapter, adapter))
        at_once = not served.joins
        served.mixes = adapter is None or _holds(lambda: joins_exactly(model, adapter, None, at_once=at_once))
    else:
        served.mixes = adapter is None or _holds(lambda: _mixes(model, adapter, served))


def _holds(trial: Callable[[], bool]) -> bool:
    """Whether a trial ends well; a model's code may raise anything at rows that it does not expect."""
    try:
        return trial()
    except Exception:
        return False


@torch.inference_mode()
def joins_exactly(
    model: AdaptedModel, first: str | None, second: str | None, *, at_once: bool = False
) -> bool:
    """Whether two rows give the same logits together, of which the second joins a step later, as apart."""
    rows = [(first, LONG), (second, SHORT)]
    apart = []
    for adapter, length in rows:
        lane = Lane(model, [adapter], _batch(model, [length]))
        lane.step([LONG])
        apart.append(lane.logits)
    if at_once:
        together = Lane(model, [first, second], _batch(model, [LONG, SHORT]))
        together.step([LONG, LONG])
        return _close(together.logits, torch.cat(apart), model)
    together = Lane(model, [first], _batch(model, [LONG]))
    together.step([LONG])
    together.join(Lane(model, [second], _batch(model, [SHORT])))
    together.step([SHORT, LONG])
    apart[0] = _after(model, first)
    return _close(together.logits, torch.cat(apart), model)


def _after(model: AdaptedModel, adapter: str | None) -> Tensor:
    lane = Lane(model, [adapter], _batch(model, [LONG]))
    lane.step([LONG])
    lane.step([SHORT])
    return lane.logits


@torch.inference_mode()
def _mixes(model: AdaptedModel, adapter: str | None, served: Served) -> bool:
    """Whether two rows, of which one is the plain base's, give the same together as apart."""
    outputs = [_outputs(model, [name], served, rows) for name, rows in ((adapter, [0]), (None, [1]))]
    return _close(_outputs(model, [adapter, None], served, [0, 1]), torch.cat(outputs), model)


def _outputs(model: AdaptedModel, adapters: list[str | None], served: Served, rows: list[int]) -> Tensor:
    """All that the base gives for some of two rows: logits, or states of tokens that are no padding."""
    if served.task.reads == "images":
        size = _image_size(served)
        shape = (2, served.run.encoder.pixels.channels, *size)
        count = shape[1] * shape[2] * shape[3]
        pixels = torch.linspace(-1, 1, 2 * count).view(shape).to(model.device)
        inputs: dict[str, Any] = {"pixel_values": pixels[rows].to(model.base.dtype)}
    else:
        whole = _batch(model, [LONG, SHORT], left=False)
        inputs = {name: tensor[rows] for name, tensor in whole.items()}
    with acting(model, adapters):
        found = model(**inputs)
    states: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return states[:, :SHORT] if states.dim() == 3 else states


def _image_size(served: Served) -> tuple[int, int]:
    """Height and width of what the image processor gives."""
    import numpy as np

    blank = np.zeros((32, 32, served.run.encoder.pixels.channels), np.uint8)
    height, width = served.run.encoder.pixels.batch([blank], [None]).shape[-2:]
    return int(height), int(width)


def _batch(model: AdaptedModel, lengths: list[int], *, left: bool | None = None) -> dict[str, Tensor]:
    """Rows of tokens that are all different, padded where the model wants them padded."""
    left = model.view.is_decoder_only if left is None else left
    longest, vocabulary = max(lengths), model.base.get_input_embeddings().weight.shape[0]
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(longest - length, longest) if left else slice(length)
        ids[row, place] = (torch.arange(length) * 5 + 7 + length) % vocabulary
        mask[row, place] = 1
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def _close(together: Tensor, apart: Tensor, model: AdaptedModel) -> bool:
    exact = model.base.dtype == torch.float32
    room = (FLOAT32 if exact else OTHERS) * float(apart.abs().max())
    return bool((together.float() - apart.float()).abs().max() <= room)
