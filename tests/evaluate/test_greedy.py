"""Rows that have ended leave the batch; those that stay get what Transformers gives them in the whole one."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import pytest

from deltatune.core.model import AdaptedModel
from deltatune.evaluation.greedy import FEWEST, greedy_ids
from deltatune.methods.lora import LoraConfig
from deltatune.methods.p_tuning_v2 import PTuningV2Config
from deltatune.methods.prompt import PromptConfig
from deltatune.testing import tiny

ROWS, TOKENS = 64, 20
LORA, KEYS = LoraConfig(), PTuningV2Config(n_tokens=5)
CASES = [(name, LORA) for name in tiny.GENERATING] + [
    (name, KEYS) for name in ("mt5", "bart", "llama", "gpt2")
]
ARGUMENTS = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}


def adapted(name, config, seed=0):
    model = AdaptedModel(tiny.model(name), tiny.heads(name))
    tiny.perturb(model.attach("delta", config), seed=seed, std=0.4 if config is LORA else 0.1)
    return model.eval()


def varied(name, config, batch, start):
    """A model, and ids at which at least half of the rows end, but not all: a tiny one may repeat itself."""
    for seed in range(20):
        model = adapted(name, config, seed)
        ends = some_ends(model.generate(**batch, **ARGUMENTS, eos_token_id=None)[:, start:])
        if ends is not None:
            return model, ends
    raise AssertionError("all rows of all models end at once")


def some_ends(new):
    """Ids at which half of the rows end, or more, and some never; None if there are none."""
    ends, half = [], False
    for token in range(tiny.VOCABULARY):
        lengths = [len(ended(row, 0, [*ends, token])) for row in new]
        if sum(length == TOKENS for length in lengths) > FEWEST:
            ends.append(token)
            half = sum(length < TOKENS for length in lengths) >= ROWS // 2
    return ends if half else None


def ended(ids, start, ends):
    """What was generated, up to the end of the text."""
    new = ids[start:].tolist()
    end = next((place for place, token in enumerate(new) if token in ends), len(new))
    return new[: end + 1]


@pytest.mark.parametrize(("name", "config"), CASES, ids=[f"{name}-{config.name}" for name, config in CASES])
def test_equals_the_whole_batch(name, config):
    batch = tiny.prompts(name, rows=ROWS, length=9)
    start = batch["input_ids"].shape[1] if name in tiny.CAUSAL else 1
    model, ends = varied(name, config, batch, start)
    arguments = ARGUMENTS | {"eos_token_id": ends}
    whole = model.generate(**batch, **arguments)
    sizes = []

    def generate(**inputs):
        sizes.append(len(inputs["input_ids"]))
        return AdaptedModel.generate(model, **inputs)

    with mock.patch.object(model, "generate", generate):
        found = greedy_ids(model, batch, model.encoder_states(batch), arguments)
    assert [ended(row, start, ends) for row in found] == [ended(row, start, ends) for row in whole]
    assert sizes[0] == ROWS
    assert len(sizes) > 1, "rows left the batch"
    assert sizes == sorted(set(sizes), reverse=True)


def test_rows_end_by_what_they_say_too():
    model, start, end = adapted("llama", LORA), 9, 5
    batch = tiny.prompts("llama", rows=ROWS, length=start)
    arguments = ARGUMENTS | {"eos_token_id": None}
    whole = model.generate(**batch, **arguments)[:, start:].tolist()
    pairs = [row[end - 2 : end] for row in whole]  # what ends a row is two tokens

    def over(row, ids):
        return pairs[row] in ([*pair] for pair in pairwise(ids))

    for row, found in enumerate(greedy_ids(model, batch, None, arguments, over)):
        new = found[start:].tolist()
        assert len(new) <= end
        last = next(place for place in range(2, end + 1) if pairs[row] == whole[row][place - 2 : place])
        assert new[:last] == whole[row][:last]


def test_rows_stay_where_they_cannot_be_told_apart_later():
    model = adapted("llama", LoraConfig())
    assert model.may_drop_rows
    with model.routing({"delta": slice(0, 2)}, 4):
        assert not model.may_drop_rows
    assert not adapted("llama", PromptConfig()).may_drop_rows
