"""A model as a GGUF file, read again by Transformers' own reader, and by llama.cpp (test_llama_cpp.py)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, T5Config

from deltatune.errors import DeltatuneError, ModelError
from deltatune.exporting.gguf.adapter import read_adapter, write_adapter
from deltatune.exporting.gguf.families import FAMILIES, family_of
from deltatune.exporting.gguf.model import KINDS, read_by_transformers, read_model
from deltatune.exporting.gguf.splits import KNOWN, split_name
from deltatune.exporting.gguf.tokenizer import vocabulary_of
from deltatune.models.quiet import quiet
from deltatune.testing import tiny
from tests.exporting.files import (
    TEXTS,
    VARIANTS,
    bert,
    model,
    planned,
    sentence_pieces,
    tokenizer,
    word_pieces,
    written,
)

TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def logits(of: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, len(tokenizer()), (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = of(ids).logits
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_reads_the_model_that_was_written(variant: str, tmp_path: Path) -> None:
    made = model(variant)
    path = written(made, tmp_path)
    family = family_of(made.config.model_type, type(made).__name__)
    assert torch.equal(logits(read_model(path, made, family)), logits(made))
    if variant in ("biased", "llama3", "linear"):  # it ignores these: llama.cpp does not
        assert not family.reads(made.config)
        return
    assert family.reads(made.config)
    with quiet():
        torch.testing.assert_close(logits(read_by_transformers(path)), logits(made), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_rounded_as_their_type_rounds_and_nothing_else_is(kind: Any, tmp_path: Path) -> None:
    made = model("llama")
    path = written(made, tmp_path, kind)
    with quiet():
        found = logits(read_by_transformers(path))
    rounded = copy.deepcopy(made)
    for parameter in rounded.parameters():
        if parameter.dim() == 2:
            parameter.data = by_torch(parameter.data, kind)
    torch.testing.assert_close(found, logits(rounded), atol=1e-5, rtol=0)
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == kind
    assert types["blk.0.attn_norm.weight"] == "f32"


def by_torch(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Rounded without the package that wrote the file."""
    if kind in TORCH:
        return weight.to(TORCH[kind]).float()
    blocks = weight.unflatten(-1, (-1, 32))  # q8_0: 32 numbers share a scale
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale).round() * scale.half().float()).flatten(-2)


def test_rows_that_blocks_do_not_fit_are_float16(tmp_path: Path) -> None:
    made = tiny.model("llama")  # 16 wide
    made.resize_token_embeddings(len(tokenizer()))
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(written(made, tmp_path, "q8_0")).tensors}
    assert types == {"F32", "F16", "Q8_0"}


def test_a_weight_too_large_for_float16_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    made = copy.deepcopy(model("llama"))
    made.get_parameter("model.layers.1.mlp.up_proj.weight").data[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"up_proj.*f32 or bf16|up_proj.*Write f32"):
        written(made, tmp_path, "f16")
    assert not list(tmp_path.iterdir())
    assert written(made, tmp_path, "bf16").exists()


def test_a_family_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelError, match=r"t5; written as GGUF are bert, gpt2, llama, mistral, qwen2, qwen3"):
        family_of(T5Config().model_type, "T5ForConditionalGeneration")
    with pytest.raises(ModelError, match=r"LlamaForSequenceClassification has a head that llama.cpp"):
        family_of("llama", "LlamaForSequenceClassification")


@pytest.mark.parametrize(
    ("variant", "settings", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'.*'silu'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(variant: str, settings: Any, said: str) -> None:
    made = copy.deepcopy(model(variant))
    made.config.update(settings)
    with pytest.raises(ModelError, match=said):
        planned(made, tokenizer())


def test_a_window_is_the_longest_context(tmp_path: Path) -> None:
    made = copy.deepcopy(model("mistral"))
    made.config.sliding_window = 32
    fields = gguf.GGUFReader(written(made, tmp_path)).fields
    assert fields["llama.context_length"].contents() == 32


# Tokenizers


@pytest.mark.parametrize("name", KNOWN)
def test_a_split_is_known_by_its_steps_and_no_others(name: str) -> None:
    made: Any = Tokenizer(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(setting), "isolated")
        if kind == "Split"
        else pre_tokenizers.Digits(setting)
        if kind == "Digits"
        else pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=setting)
        for kind, setting in KNOWN[name][0]
    ]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    content = json.loads(made.to_str())["pre_tokenizer"]
    assert split_name(content, KNOWN[name][1]) == name
    assert split_name(content, not KNOWN[name][1]) is None
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), *steps])
    assert split_name(json.loads(made.to_str())["pre_tokenizer"], KNOWN[name][1]) is None


def of_bpe(**changes: Any) -> PreTrainedTokenizerFast:
    content = json.loads(tokenizer().backend_tokenizer.to_str())
    content.update(changes)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalises texts by Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits texts by Whitespace.*smollm"),
        ({"pre_tokenizer": None}, "no steps"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(changes: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        vocabulary_of(of_bpe(**changes), 500)


def test_a_vocabulary_larger_than_the_embeddings_is_refused() -> None:
    with pytest.raises(ModelError, match=r"tokens up to .*, and the model embeddings for 10"):
        vocabulary_of(tokenizer(), 10)


def test_transformers_tokenizes_by_the_file_as_the_tokenizer_does(tmp_path: Path) -> None:
    path = written(model("llama"), tmp_path)
    with quiet():
        found = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS[:2]:
        wanted = tokenizer()(text, add_special_tokens=False)["input_ids"]
        assert found(text, add_special_tokens=False)["input_ids"] == wanted
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")


def test_sentence_pieces_keep_the_order_of_their_merges() -> None:
    made = sentence_pieces()
    found = vocabulary_of(made, len(made) + 3)
    assert (found.kind, found.adds["space_prefix"]) == ("llama", True)
    assert found.types[:4] == [2, 3, 3, 6]  # unknown, control, control, a byte
    assert (found.tokens[-1], found.types[-1]) == (f"[PAD{len(made) + 2}]", 5)
    score = dict(zip(found.tokens, found.scores, strict=True))
    merges = json.loads(made.backend_tokenizer.to_str())["model"]["merges"]
    made_by_merges = ["".join(merge) for merge in merges]
    assert [score[token] for token in made_by_merges] == sorted(map(score.get, made_by_merges), reverse=True)


def test_word_pieces_mark_beginnings_and_say_what_is_done_to_letters() -> None:
    made = word_pieces()
    found = vocabulary_of(made, len(made))
    wanted = {True: "\u2581", False: ""}
    for index, token in enumerate(made.convert_ids_to_tokens(range(len(made)))):
        plain = token if token.startswith("[") and token.endswith("]") and len(token) > 2 else None
        assert found.tokens[index] == (plain or wanted[not token.startswith("##")] + token.removeprefix("##"))
    assert found.normalizes == {"lowercase": True, "strip_accents": True}
    assert (found.ids["bos"], found.ids["eos"], found.ids["mask"]) == (2, 3, 4)
    cased = word_pieces(lowercase=False)
    assert "keeps capitals" in vocabulary_of(cased, len(cased)).warnings[0]


def test_marks_for_training_leave_the_chat_template() -> None:
    made = tiny_chat("{%- generation -%} {{ x }} {% endgeneration %}{{ '{% generation' }}")
    found = vocabulary_of(made, len(made)).template
    assert found == "{%- if true -%} {{ x }} {% endif %}{{ '{% generation' }}"


def tiny_chat(template: str) -> Any:
    made = copy.deepcopy(tokenizer())
    made.chat_template = template
    return made


def test_a_chat_template_is_written_whatever_it_holds(tmp_path: Path) -> None:
    template = '{{ \'ä\\n"""\' }}\x1b[31m' + "x" * 100_000
    path = written(model("llama"), tmp_path, reader=tiny_chat(template))
    assert gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents() == template


# Encoders


def test_an_encoder_says_how_vectors_are_made_and_a_classifier_its_classes(tmp_path: Path) -> None:
    reader = word_pieces()
    path = written(bert(reader), tmp_path, reader=reader, pooling="cls")
    assert gguf.GGUFReader(path).fields["bert.pooling_type"].contents() == 2
    names = ["good", 'b"ä\n']
    made = bert(reader, "BertForSequenceClassification", num_labels=2)
    file = gguf.GGUFReader(written(made, tmp_path, reader=reader, labels=names))
    assert file.fields["bert.classifier.output_labels"].contents() == names
    assert {"cls.weight", "cls.bias", "cls.output.weight"} <= {tensor.name for tensor in file.tensors}
    again = read_model(tmp_path / "f32.gguf", made, FAMILIES["bert"])
    batch = reader(["a", "the quick brown fox"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, made(**batch).logits)


# Adapters


def test_factors_are_read_as_they_were_written(tmp_path: Path) -> None:
    config = model("llama").config
    shapes = {"self_attn.q_proj": (64, 64, 3), "self_attn.k_proj": (64, 32, 5), "mlp.down_proj": (96, 64, 5)}
    factors = {
        f"model.layers.1.{path}": (torch.randn(rank, d_in), torch.randn(d_out, rank))
        for path, (d_in, d_out, rank) in shapes.items()
    }
    path = tmp_path / "adapter.gguf"
    write_adapter(config, "LlamaForCausalLM", factors, path, name="x", base="y")
    fields = gguf.GGUFReader(path).fields
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    assert fields["adapter.lora.alpha"].contents() == 5
    found = read_adapter(config, "LlamaForCausalLM", factors, path)
    for module, (a, b) in factors.items():
        torch.testing.assert_close(found[module][1] @ found[module][0], b @ a)


def test_an_update_of_what_is_shared_or_looked_up_is_refused(tmp_path: Path) -> None:
    factors = {"lm_head": (torch.zeros(1, 64), torch.zeros(400, 1))}
    with pytest.raises(DeltatuneError, match=r"shares with its embeddings.*--as gguf"):
        write_adapter(model("tied").config, "LlamaForCausalLM", factors, tmp_path / "a", name="x")
    table = {"model.embed_tokens": (torch.zeros(1, 64), torch.zeros(400, 1))}
    with pytest.raises(DeltatuneError, match="table of embeddings"):
        write_adapter(model("llama").config, "LlamaForCausalLM", table, tmp_path / "a", name="x")
