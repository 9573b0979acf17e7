"""Texts behind one prompt share what the model makes of it, and score as each with a prompt of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deltatune.core.model import AdaptedModel
from deltatune.evaluation.beams import read_once
from deltatune.evaluation.continuations import Asked, Continuations, Score
from deltatune.methods import METHODS
from deltatune.testing import tiny

ASKED: list[Asked] = [
    ([5, 6, 7, 8, 9, 10, 11], [12]),
    ([5, 6, 7, 8, 9, 10, 11], [13, 14, 15, 16]),
    ([9, 8, 7], [12, 30]),
    ([5, 6, 7, 8, 9, 10, 11], [13, 14]),
    ([20, 21], [22, 23]),
    ([9, 8, 7], [31]),
]


def model_with(architecture: str, method: str | None, **settings: Any) -> AdaptedModel:
    model = AdaptedModel(tiny.model(architecture))
    if method is not None:
        tiny.perturb(model.attach("a", METHODS.get(method)(**settings)), seed=1)
    return model


def same(ours: list[Score], wanted: list[Score]) -> None:
    for one, other in zip(ours, wanted, strict=True):
        assert one.likelihood == pytest.approx(other.likelihood, rel=1e-4, abs=1e-4)
        assert one.greedy == other.greedy


@pytest.mark.parametrize(
    ("architecture", "method", "settings"),
    [
        ("llama", None, {}),
        ("llama", "lora", {"targets": ("all-linear",)}),
        ("llama", "prefix", {"n_tokens": 3}),
        ("llama", "prompt", {"n_tokens": 3}),
        ("gpt2", "prompt", {"n_tokens": 3}),
        ("gpt2", "prefix", {"n_tokens": 3}),
        ("bloom", "lora", {}),
    ],
)
def test_shared_prompts_give_what_each_gives_alone(
    architecture: str, method: str | None, settings: dict[str, Any]
) -> None:
    model = model_with(architecture, method, **settings)
    wanted = Continuations(model, 0, 1, room=40)._apart(ASKED)
    assert any(score.likelihood < -1 for score in wanted)
    for size in (1, 2, 32):
        texts = Continuations(model, 0, size, room=40)
        same(texts._together(ASKED), wanted)
        same(texts._apart(ASKED), wanted)
        same(texts.scores(ASKED), wanted)
        assert texts._shares


def test_a_prompt_goes_through_once() -> None:
    model, lengths = model_with("llama", "lora"), list[tuple[int, ...]]()
    model.base.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(
            tuple((args[0] if args else kwargs["hidden_states"]).shape[:2])
        ),
        with_kwargs=True,
    )
    texts = Continuations(model, 0, 32, room=40)
    texts._shares = True
    texts.scores(ASKED)
    assert lengths == [(2, 7), (3, 3), (1, 3)]  # two prompts; the longer texts' rest; a text alone


def test_a_model_whose_cache_says_something_else_is_asked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with("llama", "lora")
    wanted = Continuations(model, 0, 32, room=40)._apart(ASKED)
    original = Continuations._behind

    def wrong(self: Continuations, *args: Any) -> list[Score]:
        return [Score(score.likelihood - 1, score.greedy) for score in original(self, *args)]

    monkeypatch.setattr(Continuations, "_behind", wrong)
    texts = Continuations(model, 0, 32, room=40)
    same(texts.scores(ASKED), wanted)
    assert texts._shares is False


def test_long_rows_lose_their_beginning_and_share_nothing() -> None:
    model = model_with("llama", None)
    texts = Continuations(model, 0, 4, room=4)
    long: list[Asked] = [([5, 6, 7, 8, 9], [10, 11]), ([5, 6, 7, 8, 9], [12])]
    scores = texts.scores(long)
    assert texts._shares is None
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[7, 8, 9, 10]])).logits[0].log_softmax(-1)
    assert scores[0].likelihood == pytest.approx(float(logits[2, 10] + logits[3, 11]), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_beams_go_on_behind_a_prompt_that_was_read_once(architecture: str) -> None:
    model, beams = model_with(architecture, "lora"), 3
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    how: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(**batch, **how)
    read = read_once(model, batch, how)
    [cache] = read.values()
    assert cache.layers[0].keys.shape[:1] == (2 * beams,)
    assert torch.equal(model.generate(**batch, **how, **read), wanted)
    assert not read_once(model, {name: rows[:, -1:] for name, rows in batch.items()}, how)
