"""Whatever a GGUF file holds, it becomes a base or is refused with one message."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deltatune.errors import DeltatuneError
from deltatune.models.load import load_base
from deltatune.recipe.base_sections import ModelSpec
from tests.fuzz import mutations

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.timeout(600)

WIDTH, INNER, HEADS, WORDS = 32, 64, 4, [*"abcdefghij", "Ġ", "ab", "Ġa", "<s>", "</s>", "cd", "<|endoftext|>"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with a tokenizer of a few tokens."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(WORDS)
    writer.add_token_types([3 if word.startswith("<") else 1 for word in WORDS])
    writer.add_token_merges(["a b", "Ġ a", "c d"])
    writer.add_bos_token_id(WORDS.index("<s>"))
    writer.add_eos_token_id(WORDS.index("</s>"))
    torch.manual_seed(0)
    shapes = {
        "token_embd": (len(WORDS), WIDTH), "output": (len(WORDS), WIDTH), "output_norm": (WIDTH,),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        **{f"blk.0.{name}_norm": (WIDTH,) for name in ("attn", "ffn")},
        **{f"blk.0.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}, "blk.0.ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def accepted(path: Path) -> bool:
    try:
        load_base(ModelSpec(name=str(path)), "causal-lm", None)
    except DeltatuneError:
        return False
    return True


def test_the_file_is_whole(whole: Path) -> None:
    assert accepted(whole)


def accepted_of(whole: Path, folder: Path, seed: int, count: int) -> int:
    """How many of so many mutants are loaded; half of the changes are in the header."""
    drawn, content, found = random.Random(seed), whole.read_bytes(), 0
    header = content.index(b"blk.0.ffn_down.weight")
    path = folder / "mutant.gguf"
    for number in range(count):
        start = mutations.raw(content[:header], drawn) if number % 2 else content[:header]
        rest = content[header:] if number % 2 else mutations.raw(content[header:], drawn)
        path.write_bytes(start + rest)
        found += accepted(path)
    return found


def test_some_mutated_files_are_loaded_or_refused(whole: Path, tmp_path: Path) -> None:
    assert 0 < accepted_of(whole, tmp_path, seed=0, count=40) < 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_mutated_files_are_loaded_or_refused(whole: Path, tmp_path: Path, seed: int) -> None:
    assert 0 < accepted_of(whole, tmp_path, seed, count=500) < 500
