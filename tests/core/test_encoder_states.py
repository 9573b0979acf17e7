"""An encoder that ran once serves generation and the loss, with every method, bit for bit."""

from __future__ import annotations

import torch
from tests.contract.cases import CASES, Case
from tests.contract.test_contract import over
from transformers.modeling_outputs import BaseModelOutput

from deltatune.testing import tiny
from deltatune.testing.building import adapted


@over("labelled_logits_are_exact", ("t5", "bart"))
@torch.inference_mode()
def test_known_states_change_nothing(case: Case, architecture: str) -> None:
    model, batch, prompts = adapted(case, architecture), tiny.batch(architecture), tiny.prompts(architecture)
    states = model.encoder_states({name: value for name, value in batch.items() if name != "labels"})
    expected, targets = model.labelled_logits(batch)
    logits, same = model.labelled_logits(batch, states)
    assert torch.equal(logits, expected)
    assert torch.equal(same, targets)
    for beams in (1, 2):
        options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        known = BaseModelOutput(last_hidden_state=model.encoder_states(prompts))
        found = model.generate(**prompts, encoder_outputs=known, **options)
        assert torch.equal(found, model.generate(**prompts, **options))


def test_without_an_encoder_there_are_none() -> None:
    model = adapted(CASES[0], "llama")
    assert model.encoder_states(tiny.prompts("llama")) is None
