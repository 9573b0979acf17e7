"""Rows of two texts: which columns they are, and that they are written as the base's tokenizer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import transformers

from deltatune.data import Dataset
from deltatune.data.checks import truncation_warnings
from deltatune.data.encode import Encoder
from deltatune.data.load import prompt_row
from deltatune.data.rows import Row
from deltatune.errors import DataError, RecipeError
from deltatune.models.processor import ModelFacts
from deltatune.models.tasks import has_token_types
from deltatune.recipe import DataSpec, parse_recipe
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from tests.data.files import Write, jsonl

TASK = "text-classification"
WORDS = ["a", "man", "sleeps", "he", "is", "awake", "the", "quick", "brown", "fox", "jumps", "over", "dog"]
LETTERS = [chr(code) for code in range(97, 123)]
PAIRS = [
    ("a man sleeps", "he is awake"),
    ("the quick brown fox jumps over the dog " * 4, "he sleeps"),
    ("he sleeps", "the quick brown fox jumps over the dog " * 4),
    ("the quick brown fox " * 6, "jumps over the dog " * 6),
    ("a", "\U0001f600 dog"),
]


def byte_level(specials: list[str]) -> dict[str, Any]:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*specials, *sorted(ByteLevel.alphabet())]
    return {"vocab": {token: number for number, token in enumerate(tokens)}, "merges": []}


def word_pieces() -> dict[str, int]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def unigram(specials: list[str]) -> list[tuple[str, float]]:
    pieces = [*specials, "\u2581", *(f"\u2581{word}" for word in WORDS), *LETTERS]
    return [(piece, -float(number)) for number, piece in enumerate(dict.fromkeys(pieces))]


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertTokenizer(vocab=word_pieces()),
    "roberta": lambda: transformers.RobertaTokenizer(
        **byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    ),
    "deberta": lambda: transformers.DebertaTokenizer(
        **byte_level(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    ),
    "deberta-v2": lambda: transformers.DebertaV2Tokenizer(
        vocab=unigram(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), unk_id=1
    ),
    "xlnet": lambda: transformers.XLNetTokenizer(
        vocab=unigram(["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"])
    ),
    "albert": lambda: transformers.AlbertTokenizer(
        vocab=unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    ),
    "gpt2": lambda: transformers.GPT2Tokenizer(**byte_level(["<|endoftext|>"]), pad_token="<|endoftext|>"),
    "llama": lambda: tiny_tokenizer("llama"),
}
TYPED = {"bert", "xlnet", "albert"}
"""Those whose bases tell by token types of which text a token is; some tokenizers must be asked for them."""


def config_of(kind: str) -> Any:
    """As the checkpoints have it; RoBERTa's has one type, and its configuration two by default."""
    return transformers.CONFIG_MAPPING[kind](**({"type_vocab_size": 1} if kind == "roberta" else {}))


def encoder_of(kind: str, **spec: Any) -> Encoder:
    facts = ModelFacts(config_of(kind), token_types=has_token_types(config_of(kind), TASK))
    spec = {"source": "x.csv", "columns": {"input": "a", "pair": "b"}} | spec
    return Encoder(TASK, TOKENIZERS[kind](), DataSpec(**spec), ["no", "yes"], facts)


def rows_of(pairs: list[tuple[str, str]] = PAIRS) -> list[Row]:
    return [Row(str(n), a, ("no", "yes")[n % 2], {}, pair=b) for n, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("limit", [12, 33, 512])
@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_pairs_are_written_as_the_tokenizer_writes_them(kind: str, limit: int) -> None:
    encoder, theirs = encoder_of(kind, max_input_tokens=limit), TOKENIZERS[kind]()
    encoded = encoder.encode(rows_of())
    for feature, (first, second) in zip(encoded.features, PAIRS, strict=True):
        wanted = theirs(first, second, truncation=True, max_length=limit, return_token_type_ids=kind in TYPED)
        assert feature["input_ids"] == wanted["input_ids"]
        assert ("token_type_ids" in feature) == (kind in TYPED)
        if kind in TYPED:
            assert feature["token_type_ids"] == wanted["token_type_ids"]
            assert len(set(feature["token_type_ids"])) > 1
        whole = theirs(first, second).sequence_ids()
        kept = wanted.sequence_ids()
        lost = tuple(whole.count(text) > kept.count(text) for text in (0, 1))
        odd = (limit - kept.count(None)) % 2  # then one text has a token more than half, and may be whole
        assert feature["cut_texts"] == lost or odd
    if limit == 512:
        assert encoded.report.truncated_texts == (0, 0)


@pytest.mark.parametrize("kind", sorted(TYPED))
def test_token_types_are_padded_as_the_tokenizer_pads_them(kind: str) -> None:
    encoder, theirs = encoder_of(kind), TOKENIZERS[kind]()
    batch = encoder.collate(encoder.encode(rows_of()).features)
    texts = map(list, zip(*PAIRS, strict=True))
    wanted = theirs(*texts, padding=True, padding_side="right", return_token_type_ids=True)
    assert set(batch) == {*wanted, "labels"}
    for name, values in wanted.items():
        assert batch[name].tolist() == values, name


def test_one_text_is_written_as_before() -> None:
    encoder = encoder_of("bert", columns={})
    batch = encoder.collate(encoder.encode([Row("0", "a man", "no", {})]).features)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize(
    ("config", "has"),
    [
        (transformers.BertConfig(), True),
        (transformers.RobertaConfig(type_vocab_size=1), False),
        (transformers.DistilBertConfig(), False),
        (transformers.DebertaV2Config(type_vocab_size=0), False),
        (transformers.AlbertConfig(), True),
        (transformers.XLNetConfig(), True),
        (transformers.GPT2Config(), False),
        (transformers.LlamaConfig(), False),
    ],
)
def test_token_types_are_for_bases_that_have_them(config: Any, has: bool) -> None:
    assert has_token_types(config, TASK) is has


def test_what_is_cut_of_which_text_is_counted_and_said() -> None:
    report = encoder_of("bert", max_input_tokens=12).encode(rows_of()).report
    assert (report.truncated_inputs, report.truncated_texts) == (3, (2, 2))
    [warning] = truncation_warnings(report)
    assert warning == (
        "3 of 5 training inputs are longer than data.max_input_tokens and are cut off (60%; the first text "
        "of 2 rows, the second of 2)."
    )


def test_two_texts_need_room() -> None:
    with pytest.raises(DataError, match=r"\(4\) leaves no room for two texts .* Raise it to 6 at least"):
        encoder_of("roberta", max_input_tokens=4).encode(rows_of())


def test_a_tokenizer_that_writes_nothing_between_the_texts_is_warned_of() -> None:
    for kind in TOKENIZERS:
        said = encoder_of(kind).encode(rows_of()).report.fidelity.warnings(5, "training")
        joined = [text for text in said if "nothing in between" in text]
        assert bool(joined) == (kind == "gpt2"), (kind, said)
        if joined:
            assert "(row 0: 'a man sleeps | he is awake')" in joined[0]
            assert "data.template" in joined[0]


NLI = [
    {
        "premise": f"{n} men sleep",
        "hypothesis": f"{n} men are {('up', 'down')[n % 2]}",
        "label": ["no", "yes"][n % 2],
    }
    for n in range(20)
]
Load = Callable[..., Dataset]


def test_columns_of_common_data_sets_are_known_by_their_names(write: Write, load: Load) -> None:
    write("nli.jsonl", jsonl(NLI))
    data = load(TASK, source="nli.jsonl")
    assert data.pair == ("premise", "hypothesis")
    assert data.labels == ["no", "yes"]
    assert (data.train[0].input, data.train[0].pair) == ("0 men sleep", "0 men are up")
    for first, second in (("sentence1", "sentence2"), ("question", "sentence"), ("text_a", "text_b")):
        rows = [{first: row["premise"], second: row["hypothesis"], "target": row["label"]} for row in NLI]
        write("other.jsonl", jsonl(rows))
        assert load(TASK, source="other.jsonl").pair == (first, second)
    # A column `input` is the input, whatever stands beside it.
    write(
        "own.jsonl",
        jsonl([{"input": "x" * (n + 1), "target": row["label"], **row} for n, row in enumerate(NLI)]),
    )
    assert load(TASK, source="own.jsonl").pair is None
    assert load("text-to-text", source="own.jsonl").train[0].pair is None


def test_a_part_without_rows_is_none(write: Write, load: Load) -> None:
    write("parts.json", json.dumps({"train": NLI, "validation": [], "test": NLI[:2]}))
    data = load(TASK, source="parts.json", split=None)
    assert (len(data.train), data.validation, len(data.test)) == (20, [], 2)
    assert data.pair == ("premise", "hypothesis")
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    write("parts.json", json.dumps({"train": [talk], "validation": [], "test": []}))
    assert load("conversation", source="parts.json", split=None).test == []


def test_a_template_that_names_the_second_writes_one_text(write: Write, load: Load) -> None:
    write("nli.jsonl", jsonl(NLI))
    data = load(TASK, source="nli.jsonl", template="{premise} so {hypothesis}?")
    assert (data.pair, data.train[1].pair) == (None, None)
    assert data.train[1].input == "1 men sleep so 1 men are down?"
    data = load(TASK, source="nli.jsonl", template="It is said: {input}")
    assert (data.train[1].input, data.train[1].pair) == ("It is said: 1 men sleep", "1 men are down")


def test_a_second_text_that_is_not_read_is_said(write: Write, load: Load) -> None:
    write("nli.jsonl", jsonl(NLI))
    data = load(TASK, source="nli.jsonl", columns={"input": "premise", "target": "label"})
    assert data.pair is None
    assert any(
        "'hypothesis' beside 'premise'" in text and "data.columns.pair" in text for text in data.warnings
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"premise": "a", "hypothesis": "", "label": "no"},
            "empty second text \\(column 'hypothesis'\\), as have 1 more of 22",
        ),
        ({"premise": "a", "hypothesis": None, "label": "no"}, "empty second text"),
        ({"premise": "a", "hypothesis": "  \n", "label": "no"}, "empty second text"),
        ({"premise": "", "hypothesis": "b", "label": "no"}, "empty input"),
        ({"premise": "a", "label": "no"}, "no column 'hypothesis'"),
        ({"premise": "a", "hypothesis": "\ud83d", "label": "no"}, "half of a character"),
    ],
)
def test_rows_without_a_second_text_are_refused(write: Write, load: Load, row: Any, says: str) -> None:
    write("nli.jsonl", jsonl([*NLI, row, row]))
    with pytest.raises(DataError, match=says):
        load(TASK, source="nli.jsonl")


def test_numbers_lists_and_long_texts_are_texts(write: Write, load: Load) -> None:
    odd = [
        {"premise": 7, "hypothesis": 3.5, "label": "no"},
        {"premise": "a", "hypothesis": ["x", "y"], "label": "yes"},
        {"premise": "\U0001f600", "hypothesis": "long " * 20_000, "label": "yes"},
    ]
    write("nli.jsonl", jsonl([*NLI, *odd]))
    data = load(TASK, source="nli.jsonl")
    assert (data.train[-3].input, data.train[-3].pair) == ("7", "3.5")
    assert any("'hypothesis' holds a list in 1 of 23 rows" in text for text in data.warnings)
    [feature] = encoder_of("bert", max_input_tokens=16).encode(data.train[-1:]).features
    assert (len(feature["input_ids"]), feature["cut_texts"]) == (16, (False, True))


def test_rows_are_equal_only_in_both_texts(write: Write, load: Load) -> None:
    long = "the report of the third quarter says that net sales increased by five percent " * 3
    train = [
        {"premise": long, "hypothesis": f"sales {word}", "label": "no"} for word in ("rose", "fell a lot")
    ]
    train += NLI
    test = [
        {"premise": long, "hypothesis": "something quite different", "label": "yes"},  # one text is the same
        {"premise": long.upper(), "hypothesis": "sales fell a  lot", "label": "no"},  # both nearly
        {**NLI[3], "label": "no"},  # both
    ]
    write("train.jsonl", jsonl(train))
    write("test.jsonl", jsonl(test))
    data = load(TASK, train="train.jsonl", test="test.jsonl", split={"validation": 0})
    assert data.check is not None
    [leak] = data.check.leaks
    assert [pair.row for pair in leak.exact] == ["2"]
    assert [pair.row for pair in leak.near] == ["1"]
    assert "men are" in leak.exact[0].excerpt
    assert data.check.inputs["train"] == len(train)
    assert data.check.contradictions == []


def test_two_labels_of_one_pair_contradict_each_other(write: Write, load: Load) -> None:
    write("nli.jsonl", jsonl([*NLI, {**NLI[0], "label": "yes"}]))
    data = load(TASK, source="nli.jsonl")
    assert data.check is not None
    [found] = data.check.contradictions
    assert found.excerpt == "0 men sleep | 0 men are up"


def test_where_a_text_ends_is_a_part_of_the_pair() -> None:
    one, other = (Row("0", a, "no", {}, pair=b) for a, b in (("ab", "c"), ("a", "bc")))
    assert one.input_bytes() != other.input_bytes()
    assert Row("0", "ab", "no", {}).input_bytes() == b"ab"


def test_a_row_to_predict_has_both_texts() -> None:
    spec = DataSpec(source="x.csv", columns={"input": "a", "pair": "b"})
    row = prompt_row({"a": "one", "b": "two"}, spec, TASK)
    assert (row.input, row.pair) == ("one", "two")
    with pytest.raises(DataError, match="no column 'b'"):
        prompt_row({"a": "one"}, spec, TASK)
    row = prompt_row({"premise": "one", "hypothesis": "two"}, DataSpec(source="x.csv"), TASK)
    assert (row.input, row.pair) == ("one", "two")


def recipe_with(task: str, **columns: str) -> dict[str, Any]:
    data = {"source": "x.csv", "split": {}, "columns": columns}
    return {"task": task, "model": "m", "data": data, "methods": ["lora"]}


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("text-to-text", r"no second text: write both into one text, such as data.template: '\{a\} \{b\}'"),
        ("causal-lm", "data.template"),
        ("conversation", "no second text: leave it out"),
        ("image-classification", "no second text: leave it out"),
    ],
)
def test_other_tasks_say_what_to_do_instead(task: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_recipe(recipe_with(task, input="a", pair="b"))


def test_a_pair_is_two_columns() -> None:
    with pytest.raises(RecipeError, match="pair and input are the same column"):
        parse_recipe(recipe_with(TASK, input="a", pair="a"))
    with pytest.raises(RecipeError, match="pair and target are the same column"):
        parse_recipe(recipe_with(TASK, input="a", pair="target", target="target"))


def test_recipes_of_one_text_are_written_as_before() -> None:
    assert "pair" not in parse_recipe(recipe_with(TASK, input="a")).dump()["data"]["columns"]
    assert parse_recipe(recipe_with(TASK, input="a", pair="b")).dump()["data"]["columns"]["pair"] == "b"
