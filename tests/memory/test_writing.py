"""Keys and values of generated texts: predicted, and as Transformers keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune.memory.fit import OVERHEAD
from deltatune.memory.predict import Setup, predict
from deltatune.memory.shapes import llama
from deltatune.memory.writing import cache_bytes
from deltatune.methods import METHODS
from deltatune.recipe import parse_recipe
from deltatune.tasks.shapes import BatchShape
from deltatune.testing import tiny
from deltatune.training.before.writing import resting_too_much, writing_too_much


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2", "bart"])
def test_the_cache_is_as_large_as_predicted(name: str) -> None:
    model: Any = tiny.model(name)
    prompts = tiny.prompts(name)
    output = model.generate(
        **prompts, max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True
    )
    cache = getattr(output, "cache", None) or output.past_key_values
    parts = (
        [cache.self_attention_cache, cache.cross_attention_cache]
        if hasattr(cache, "self_attention_cache")
        else [cache]
    )
    kept = sum(t.nbytes for part in parts for layer in part.layers for t in (layer.keys, layer.values))
    rows, read = prompts["input_ids"].shape
    written = 5 - (name not in tiny.SEQ2SEQ)  # the last token is not read any more
    assert cache_bytes(model.config, rows, read, written, 4) == kept


def test_a_plan_says_if_an_evaluation_does_not_fit() -> None:
    config = llama(64, 128, 2, 4, vocab_size=1000)
    setup = Setup(config, "causal-lm", METHODS.get("lora")(), BatchShape(1, 16, 0, 8))
    found = predict(setup)
    recipe = parse_recipe({
        "task": "causal-lm", "model": "m", "methods": ["lora"],
        "data": {"source": "rows.jsonl", "split": {"test": 0.1}},
        "evaluation": {"batch_size": 512, "max_new_tokens": 100},
    })  # fmt: skip
    limit = OVERHEAD + found.memory.total
    [warning] = writing_too_much(recipe, {}, setup, found, limit)
    assert "lower evaluation.batch_size" in warning
    assert writing_too_much(recipe, {}, setup, found, 100 * limit) == []


def test_a_plan_says_if_a_base_has_no_room_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(
        llama(64, 128, 2, 4, vocab_size=1000), "causal-lm", METHODS.get("lora")(), BatchShape(1, 16, 0, 8),
        offload=True, device="cuda",
    )  # fmt: skip
    found = predict(setup)
    plain = predict(setup.changed(offload=False))
    layer = 4 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64)
    assert plain.memory.total - found.memory.total == layer, "of two, one rests"
    [entry] = parse_recipe({
        "task": "causal-lm", "model": "m", "methods": ["lora"], "train": {"offload": "cpu"},
        "data": {"source": "rows.jsonl", "split": {"test": 0.1}},
    }).methods  # fmt: skip
    assert resting_too_much(entry, setup, found) == []
    monkeypatch.setattr("deltatune.training.before.writing.total_memory", lambda: 1000)
    [warning] = resting_too_much(entry, setup, found)
    assert "which has 1.00 kB: `disk` leaves it in its files" in warning
