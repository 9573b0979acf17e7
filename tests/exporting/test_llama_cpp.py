"""llama.cpp itself loads what was written: it splits texts and computes as Transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from deltatune.core.pooling import pooled
from deltatune.exporting.gguf.adapter import write_adapter
from deltatune.exporting.gguf.families import FAMILIES
from deltatune.exporting.gguf.model import read_model
from deltatune.exporting.gguf.splits import KNOWN, WITHOUT_MARKS
from deltatune.models.bundled import resolve
from deltatune.testing.tiny_tokenizers import SENTENCES
from tests.exporting.files import (
    TEXTS,
    VARIANTS,
    bert,
    model,
    sentence_pieces,
    tokenizer,
    word_pieces,
    written,
)
from tests.exporting.llama_cpp import LlamaCpp

pytestmark = pytest.mark.slow
HARD = (
    *TEXTS[:2],
    "a <s> b</s>c",
    "1 22 333 4444 55555 ½ ٣ Ⅷ",
    "I'LL you'Re IT'S x's \u2019s\r\n\r\n  \t \u00a0 \u3000z",
    "HTTPServer camelCase _snake_case// /path/ --flag=1;{}[]",
    "e\u0301 ﬁ ß İ ǅ ไทย עברית",
)
MARKS = ("हिन्दी", "한국어")
"""What llama.cpp parts otherwise, for some tokenizers; `deltatune export` says so."""


def next_tokens(of: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    end: Any = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False, "max_new_tokens": count}
    return of.generate(torch.tensor([ids]), **end)[0, len(ids) :].tolist()


def log_chances(of: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = of(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tiny_model_is_computed_as_transformers_does(variant: str, tmp_path: Path) -> None:
    made = model(variant)
    engine = LlamaCpp(written(made, tmp_path))
    ids = tokenizer()(TEXTS[0])["input_ids"]
    assert engine.tokens(TEXTS[0]) == ids
    assert engine.greedy(ids, 8) == next_tokens(made, ids, 8)
    wanted = log_chances(made, ids)
    exact = 1e-3 if variant == "gpt2" else 1e-4  # its GELU is a table in float16
    for token, chance in engine.log_chances(ids).items():
        assert chance == pytest.approx(float(wanted[token]), abs=exact)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_every_type_is_loaded(kind: Any, tmp_path: Path) -> None:
    made = model("llama")
    path = written(made, tmp_path, kind)
    ids = tokenizer()(TEXTS[0])["input_ids"]
    wanted = log_chances(read_model(path, made, FAMILIES["llama"]), ids)
    found = LlamaCpp(path).log_chances(ids)
    assert all(abs(chance - float(wanted[token])) < 0.3 for token, chance in found.items())


def of_split(name: str) -> PreTrainedTokenizerFast:
    made: Any = Tokenizer(models.BPE(ignore_merges=KNOWN[name][1]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(setting), "isolated")
            if step == "Split"
            else pre_tokenizers.Digits(setting)
            if step == "Digits"
            else pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=setting)
            for step, setting in KNOWN[name][0]
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>"]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*SENTENCES, *HARD, *HARD], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("name", KNOWN)
def test_texts_are_split_as_the_name_of_the_split_says(name: str, tmp_path: Path) -> None:
    reader = of_split(name)
    made = model("llama").__class__(sized(len(reader)))
    engine = LlamaCpp(written(made, tmp_path, reader=reader))
    exact = name not in WITHOUT_MARKS
    for text in (*HARD, *MARKS) if exact else HARD[:-1]:
        assert engine.tokens(text) == reader(text)["input_ids"], text
    assert exact or any(engine.tokens(text) != reader(text)["input_ids"] for text in (*MARKS, HARD[-1]))


def sized(vocabulary: int) -> Any:
    config = model("llama").config.to_dict() | {"vocab_size": vocabulary}
    return type(model("llama").config)(**config)


def test_sentence_pieces_are_put_together_in_their_order(tmp_path: Path) -> None:
    reader = sentence_pieces()
    engine = LlamaCpp(written(model("llama").__class__(sized(len(reader))), tmp_path, reader=reader))
    for text in (*HARD[:2], *HARD[3:]):
        assert engine.tokens(text) == reader(text)["input_ids"], text


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_and_vectors(lowercase: bool, tmp_path: Path) -> None:
    reader = word_pieces(lowercase=lowercase)
    made = bert(reader)
    engine = LlamaCpp(written(made, tmp_path, reader=reader, pooling="mean"), embedding=True, context=64)
    for text in (*TEXTS[:2], "ÀÉÎ Naïve THE QUICK"):
        batch = reader(text, return_tensors="pt")
        assert engine.tokens(text) == batch["input_ids"][0].tolist(), text
        with torch.no_grad():
            states = made(**batch).last_hidden_state
        wanted = F.normalize(pooled(states, batch["attention_mask"], "mean"), dim=-1)[0]
        torch.testing.assert_close(torch.tensor(engine.vector(text)), wanted, atol=5e-3, rtol=0)


def test_a_classifier_gives_its_logits(tmp_path: Path) -> None:
    reader = word_pieces()
    made = bert(reader, "BertForSequenceClassification", num_labels=3)
    path = written(made, tmp_path, reader=reader, labels=["a", "b", "c"])
    engine = LlamaCpp(path, embedding=True, context=64)
    for text in TEXTS[:2]:
        with torch.no_grad():
            wanted = made(**reader(text, return_tensors="pt")).logits[0].tolist()
        assert engine.outputs(text, 3) == pytest.approx(wanted, abs=5e-3)


def test_a_lora_is_added_to_the_base(tmp_path: Path) -> None:
    base = model("llama")
    shapes = {"self_attn.q_proj": (64, 64, 3), "self_attn.k_proj": (64, 32, 5), "mlp.down_proj": (96, 64, 2)}
    generator = torch.Generator().manual_seed(0)
    merged, factors = base.__class__(base.config).eval(), {}
    merged.load_state_dict(base.state_dict())
    for path, (d_in, d_out, rank) in shapes.items():
        a = torch.randn(rank, d_in, generator=generator) * 0.2
        b = torch.randn(d_out, rank, generator=generator) * 0.2
        factors[f"model.layers.1.{path}"] = a, b
        merged.get_submodule(f"model.layers.1.{path}").weight.data += b @ a
    adapter = tmp_path / "adapter.gguf"
    write_adapter(base.config, "LlamaForCausalLM", factors, adapter, name="x")
    ids = tokenizer()(TEXTS[0])["input_ids"]
    engine = LlamaCpp(written(base, tmp_path), adapter=adapter)
    wanted = log_chances(merged, ids)
    assert float((wanted - log_chances(base, ids)).abs().max()) > 0.1
    for token, chance in engine.log_chances(ids).items():
        assert chance == pytest.approx(float(wanted[token]), abs=1e-4)


@pytest.fixture(scope="module")
def smollm() -> tuple[PreTrainedModel, Any]:
    folder = resolve("smollm2-135m")
    return (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.parametrize(("kind", "least"), [("f16", 24), ("q8_0", 8)])
def test_a_real_model_goes_on_with_the_same_tokens(
    smollm: tuple[PreTrainedModel, Any], kind: Any, least: int, tmp_path: Path
) -> None:
    made, reader = smollm
    engine = LlamaCpp(written(made, tmp_path, kind, reader=reader))
    for text in HARD:
        assert engine.tokens(text) == reader(text)["input_ids"], text
    for question in ("The capital of France is", "def fibonacci(n):", "Once upon a time"):
        ids = reader(question)["input_ids"]
        assert engine.greedy(ids, least) == next_tokens(made, ids, least), question


def test_vectors_of_a_real_encoder(tmp_path: Path) -> None:
    folder = resolve("minilm")
    made = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    made.pooler = None
    reader = AutoTokenizer.from_pretrained(folder)
    engine = LlamaCpp(written(made, tmp_path, "f16", reader=reader, pooling="mean"), embedding=True)
    for text in HARD[:2] + HARD[3:]:
        batch = reader(text, return_tensors="pt")
        assert engine.tokens(text) == batch["input_ids"][0].tolist(), text
        with torch.no_grad():
            states = made(**batch).last_hidden_state
        wanted = F.normalize(pooled(states, batch["attention_mask"], "mean"), dim=-1)[0]
        torch.testing.assert_close(torch.tensor(engine.vector(text)), wanted, atol=1e-3, rtol=0)
