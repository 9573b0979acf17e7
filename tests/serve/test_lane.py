"""Lanes: rows that join are written as alone, or the trial says that none may; on all that writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.evaluation.generation import PLAIN_DECODING
from deltatune.methods import METHODS
from deltatune.serve.engine.lane import Lane
from deltatune.serve.engine.trial import joins_exactly
from deltatune.testing import tiny

NEW = 5
COUNT_THE_CACHE = ("bart", "mbart", "marian")
"""Their decoders count positions by the length of the cache, padding included."""
DELTAS: dict[str, dict[str, Any]] = {"lora": {"r": 2}, "prefix": {"n_tokens": 3}, "prompt": {"n_tokens": 2}}


def adapted(architecture: str) -> AdaptedModel:
    model = AdaptedModel(tiny.model(architecture))
    for seed, (name, settings) in enumerate(DELTAS.items()):
        if name == "prefix" and architecture == "mixtral":
            continue
        tiny.perturb(model.attach(name, METHODS.get(name)(**settings)), seed=seed)
    return model


def alone(model: AdaptedModel, adapter: str | None, row: dict[str, Tensor]) -> list[int]:
    names = [] if adapter is None else [adapter]
    with model.using(*names):
        arguments = PLAIN_DECODING | {"max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0}
        written = model.generate(**row, **arguments)
    return written[0, -NEW:].tolist()


@torch.inference_mode()
def joined(model: AdaptedModel, rows: list[tuple[str | None, dict[str, Tensor]]]) -> list[list[int]]:
    """Each row joins when those before it have one token more."""
    tokens: list[list[int]] = []
    lane: Lane | None = None
    for turn in range(NEW + len(rows) - 1):
        if turn < len(rows):
            adapter, row = rows[turn]
            new = Lane(model, [adapter], row)
            first = new.logits.argmax(dim=-1).tolist()
            if lane is not None:
                lane.step([each[-1] for each in tokens])
                for each, token in zip(tokens, lane.logits.argmax(dim=-1).tolist(), strict=True):
                    each.append(token)
                lane.join(new)
            else:
                lane = new
            tokens.append(first)
            continue
        assert lane is not None
        lane.step([each[-1] for each in tokens])
        for each, token in zip(tokens, lane.logits.argmax(dim=-1).tolist(), strict=True):
            each.append(token)
    return [each[:NEW] for each in tokens]


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[] if name in tiny.CORE_GENERATING else pytest.mark.slow)
        for name in tiny.GENERATING
    ],
)
def test_rows_that_join_are_written_as_alone(architecture: str) -> None:
    model = adapted(architecture)
    if architecture in COUNT_THE_CACHE:
        assert not joins_exactly(model, None, None)
        assert joins_exactly(model, "lora", None, at_once=True)
        return
    rows = [(name, tiny.prompts(architecture, rows=1, length=6 - place, seed=place))
            for place, name in enumerate([*model.adapters, None])]  # fmt: skip
    assert all(joins_exactly(model, name, None) for name in model.adapters)
    assert joined(model, rows) == [alone(model, name, row) for name, row in rows]


@torch.inference_mode()
def test_rows_that_leave_do_not_change_the_others() -> None:
    model = adapted("llama")
    batch = tiny.prompts("llama", rows=3, length=7)
    lane = Lane(model, ["lora", None, "prompt"], batch)
    tokens = lane.logits.argmax(dim=-1).tolist()
    lane.keep([2, 1])
    written = [[tokens[2]], [tokens[1]]]
    for _ in range(NEW - 1):
        lane.step([each[-1] for each in written])
        for each, token in zip(written, lane.logits.argmax(dim=-1).tolist(), strict=True):
            each.append(token)
    expected = []
    for row, name in ((2, "prompt"), (1, None)):
        part = {key: value[row : row + 1] for key, value in batch.items()}
        expected.append(alone(model, name, part))
    assert written == expected


def test_the_past_of_a_t5_may_not_be_joined() -> None:
    """The prefix of peft has a bias by its distance there, which the padding of a cache changes."""
    model = AdaptedModel(tiny.model("t5"))
    config = METHODS.get("prefix")(n_tokens=3, scopes=("decoder",), cached_layers=tiny.LAYERS)
    tiny.perturb(model.attach("past", config), std=1.0)
    assert not joins_exactly(model, "past", "past")
    assert joins_exactly(model, "past", None, at_once=True)
