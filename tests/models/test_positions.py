"""The number of positions is the one at which a forward pass still works, and the next one fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GPTJConfig, GPTJForCausalLM

from deltatune.models.positions import Positions, positions_of
from deltatune.testing import tiny

P = tiny.POSITIONS


def gptj() -> Any:
    config = GPTJConfig(
        n_embd=16, n_layer=1, n_head=2, n_positions=P, rotary_dim=4, vocab_size=tiny.VOCABULARY
    )
    return GPTJForCausalLM(config).eval()


def read(model: Any, length: int, written: int = 2) -> None:
    ids = torch.full((1, length), 5)
    more = {"decoder_input_ids": torch.full((1, written), 5)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)


@pytest.mark.parametrize(
    ("name", "input_", "decoder"),
    [
        ("bert", P, None),
        ("roberta", P - 1, None),  # the tiny one's padding id is 0; published ones have 1, and 514 rows
        ("deberta-v2", P, None),
        ("gpt2", P, None),
        ("opt", P, None),
        ("gptj", P, None),
        ("bart", P, P),
        ("mbart", P, P),
        ("marian", P, P),
    ],
)
def test_a_table_of_positions_ends_where_reading_fails(name: str, input_: int, decoder: int | None) -> None:
    model = gptj() if name == "gptj" else tiny.model(name)
    assert positions_of(model) == Positions(input_, decoder, None)
    read(model, input_)
    with pytest.raises((IndexError, RuntimeError)):
        read(model, input_ + 1)
    if decoder is not None:
        read(model, 2, decoder)
        with pytest.raises((IndexError, RuntimeError)):
            read(model, 2, decoder + 1)


@pytest.mark.parametrize(
    ("name", "trained"), [("llama", P), ("qwen2", P), ("gpt_neox", P), ("bloom", None), ("t5", None)]
)
def test_other_positions_have_no_end(name: str, trained: int | None) -> None:
    model = tiny.model(name)
    assert positions_of(model) == Positions(None, None, trained)
    read(model, P + 3, P + 3)


def test_tables_of_an_image_tower_are_not_those_of_a_text() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "num_key_value_heads": 2, "vocab_size": tiny.VOCABULARY, "max_position_embeddings": 128}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text | {"head_dim": 8}, vision_config=sizes | {"image_size": 32, "patch_size": 8},
            mm_tokens_per_image=4, boi_token_index=1, eoi_token_index=2, image_token_index=3,
        )
    ).eval()  # fmt: skip
    assert positions_of(model) == Positions(None, None, 128)
    read(model, 40)  # the tower has 16 patches
