"""Forgetting: the loss on general text is Transformers' own, of the base alone and with a delta."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from deltatune.core.model import AdaptedModel
from deltatune.data.general import GeneralText, read_general
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError, RecipeError
from deltatune.evaluation import general
from deltatune.evaluation.loss import RowLoss
from deltatune.methods import METHODS
from deltatune.recipe import parse_recipe
from deltatune.testing import tiny
from deltatune.testing.tiny_tokenizers import tiny_tokenizer

TEXT = GeneralText("it", ["a", "b", "c", "d"], [
    "the quick brown fox", "In the third quarter, net sales increased by 5.2 %", "medals by nation and year",
    "x",
])  # fmt: skip


def tools_of(tokenizer: Any) -> Any:
    return SimpleNamespace(tokens=TextTokens(tokenizer), spec=None, plain=False, chat=False)


def tiny_llama() -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tools_of(tokenizer)


def tiny_t5(sentinels: int) -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer("t5")
    tokenizer.add_tokens([f"<extra_id_{number}>" for number in range(sentinels)], special_tokens=True)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval(), tools_of(tokenizer)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_loss_is_that_of_transformers(kind: str) -> None:
    base, tools = tiny_llama() if kind == "llama" else tiny_t5(100)
    measure = general.measure_of(base.config, tools)
    assert measure == (general.NEXT if kind == "llama" else general.SPANS)
    documents = general.read(TEXT, measure, tools)
    model = AdaptedModel(base)
    tiny.perturb(model.attach("a", METHODS.get("lora")(targets=("all-linear",))), seed=1)
    merged = model.merged()
    found = general.losses(model, documents, tools, batch_size=3)
    with model.using():
        plain = general.losses(model, documents, tools, batch_size=3)
    for feature, row, alone in zip(documents.features, found, plain, strict=True):
        ids = torch.tensor([feature["input_ids"]])
        labels = torch.tensor([feature["labels"]]) if kind == "t5" else ids
        assert row.tokens == alone.tokens == labels.numel() - (kind == "llama")
        for other, ours in ((merged, row), (base, alone)):
            with torch.no_grad(), model.using():
                loss = float(other(input_ids=ids, labels=labels).loss)
            assert ours.nll / ours.tokens == pytest.approx(loss, rel=1e-4)
    told = general.compared(TEXT, documents, plain, found)
    assert told.difference == pytest.approx(
        sum(row.nll for row in found) / told.tokens - sum(row.nll for row in plain) / told.tokens
    )
    assert told.low is not None
    assert told.high is not None
    assert told.low <= told.difference <= told.high
    lines = general.lines(documents, plain, found)
    assert sum(line["tokens"] for line in lines) == told.tokens
    assert sum(line["delta"] for line in lines) / told.tokens == pytest.approx(told.delta)


def test_spans_are_those_of_t5() -> None:
    """A text comes back if each span is put in the place of its sentinel; the same are drawn each time."""
    _, tools = tiny_t5(100)
    words = GeneralText("it", ["0"], ["medals by nation and year, net sales in the third quarter " * 4])
    documents = general.read(words, general.SPANS, tools)
    assert documents == general.read(words, general.SPANS, tools)
    [feature] = documents.features
    tokenizer = tools.tokens.tokenizer
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(100)])
    read, wanted = feature["input_ids"], feature["labels"]
    assert read[-1] == wanted[-1] == 1
    used = [id_ for id_ in wanted if id_ in sentinels]
    assert used == sentinels[: len(used)] == [id_ for id_ in read if id_ in sentinels]
    spans: dict[int, list[int]] = {}
    for id_ in wanted[:-1]:
        if id_ in sentinels:
            spans[id_] = []
        else:
            spans[used[len(spans) - 1]].append(id_)
    whole = [each for id_ in read[:-1] for each in spans.get(id_, [id_])]
    ids = tools.tokens.bare(words.texts[0])
    assert whole == ids
    taken = sum(map(len, spans.values()))
    assert taken == round(0.15 * len(ids))
    assert len(spans) == round(taken / 3)
    assert all(spans.values())


def test_other_encoder_decoders_have_no_such_loss() -> None:
    base, tools = tiny_t5(0)
    assert general.measure_of(base.config, tools) is None


def test_a_base_that_only_guesses_has_nothing_to_forget() -> None:
    spans, goes_on = (general.Documents(measure, ["0"], [], []) for measure in (general.SPANS, general.NEXT))
    assert general.only_guesses(spans, [RowLoss(2 * 10.4, 2)], 32_000)
    assert not general.only_guesses(spans, [RowLoss(2 * 10.3, 2)], 32_000)
    assert not general.only_guesses(goes_on, [RowLoss(2 * 10.4, 2)], 32_000)


def test_few_sentinels_are_enough() -> None:
    _, tools = tiny_t5(2)
    text = GeneralText("it", ["0"], ["medals by nation and year, net sales in the third quarter " * 4])
    [feature] = general.read(text, general.SPANS, tools).features
    sentinels = tools.tokens.tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"])
    assert [id_ for id_ in feature["labels"] if id_ >= min(sentinels)] == sentinels


def test_documents_are_cut_and_those_without_a_prediction_left_out() -> None:
    _, tools = tiny_llama()
    documents = general.read(TEXT, general.NEXT, tools, longest=5)
    assert documents.ids == ["a", "b", "c", "d"]  # with its begin token, even one letter is predicted
    assert max(documents.lengths) == 5
    assert all(feature["input_ids"][-1] not in tools.tokens.eos_ids for feature in documents.features)
    _, tools = tiny_t5(100)
    assert general.read(TEXT, general.SPANS, tools).ids == ["a", "b", "c"]
    with pytest.raises(DataError, match="has no document of two tokens"):
        general.read(GeneralText("it", ["d"], ["x"]), general.SPANS, tools)


def test_intervals_are_of_pairs() -> None:
    text, random = GeneralText("it", [], []), np.random.default_rng(3)
    documents = general.Documents(general.NEXT, [str(number) for number in range(60)], [], [])
    tokens, hard = random.integers(20, 90, 60), random.normal(3, 1, 60)
    base = [RowLoss(float(n * each), int(n)) for n, each in zip(tokens, hard, strict=True)]
    same = general.compared(text, documents, base, base)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    more = [RowLoss(row.nll + 0.1 * row.tokens, row.tokens) for row in base]
    told = general.compared(text, documents, base, more)
    assert (told.low, told.high) == (pytest.approx(0.1), pytest.approx(0.1))
    before, after = told.perplexities
    assert after / before == pytest.approx(np.exp(0.1))
    single = general.compared(text, general.Documents(general.NEXT, ["0"], [], []), base[:1], more[:1])
    assert single.low is None
    assert single.high is None


def test_bundled_texts() -> None:
    text = read_general("bundled")
    assert len(text.texts) == len(set(text.texts)) == len(set(text.ids)) == 70
    assert sum(len(document.encode()) for document in text.texts) < 60_000
    assert all(100 < len(document) < 600 for document in text.texts)
    assert len({id_.rpartition("-")[0] for id_ in text.ids}) > 20  # kinds


def test_a_file_of_texts(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("One\ntext.\n\n \nAnother.\n\n\n", encoding="utf-8")
    text = read_general(str(tmp_path / "texts.txt"))
    assert (text.name, text.texts) == ("texts.txt", ["One\ntext.", "Another."])
    rows = [{"id": 1, "text": "One\ntext."}, {"id": 2, "text": "Another."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    again = read_general(str(tmp_path / "rows.jsonl"))
    assert again.texts == text.texts
    assert again.digest == text.digest
    (tmp_path / "one.csv").write_text("sentence\nOnly one column.\n", encoding="utf-8")
    assert read_general(str(tmp_path / "one.csv")).texts == ["Only one column."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt"),
        ("empty.txt", " \n\n", "is empty"),
        ("rows.jsonl", '{"id": "1", "words": "a"}', "has no text in the column 'text'"),
        ("numbers.jsonl", '{"text": 1}', "has no text in the column 'text'"),
        ("western.txt", "caf\xe9 au lait", "western.txt.*is not text in UTF-8"),
        ("broken.jsonl", '{"text": "One"}\n{"text', "broken.jsonl, line 2.*is not valid JSON"),
        ("none.json", "[]", "holds no rows"),
    ],
)
def test_what_is_no_text_is_told(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        read_general(str(tmp_path / name))
    assert caught.value.field == "evaluation.general"
    assert "data." not in str(caught.value.remedy)


def test_a_recipe_names_the_text(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "task": "causal-lm", "model": "gpt2", "methods": ["lora"],
        "data": {"source": "rows.jsonl", "split": {}}, "evaluation": {"general": "texts.txt"},
    }  # fmt: skip
    recipe = parse_recipe(content, root=tmp_path)
    assert recipe.evaluation.general == str(tmp_path / "texts.txt")
    assert parse_recipe(recipe.dump()) == recipe
    content["evaluation"] = {"general": "bundled"}
    assert parse_recipe(content, root=tmp_path).evaluation.general == "bundled"
    content["evaluation"] = {}
    assert not {"general", "latency"} & parse_recipe(content).dump()["evaluation"].keys()
    content |= {"task": "text-classification", "evaluation": {"general": "bundled"}}
    with pytest.raises(RecipeError, match="text-to-text, causal-lm or conversation"):
        parse_recipe(content)
