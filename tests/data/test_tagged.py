"""Tagged words in the forms that people have them in, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltatune.data.conll import read_conll
from deltatune.data.dataset import Dataset
from deltatune.data.load import load_data, prompt_row
from deltatune.data.memory import keep_rows
from deltatune.data.rows import Row
from deltatune.data.tag_set import described
from deltatune.errors import DataError
from deltatune.recipe.sections import DataSpec

TASK = "token-classification"
MERKEL = ["Angela", "Merkel", "visits", "Paris", "."]
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "O"]
TEXT = "Angela Merkel visits Paris."
SPANS = [{"start": 0, "end": 13, "label": "PER"}, {"start": 21, "end": 26, "label": "LOC"}]


def rows_of(tmp_path: Path, *rows: Any, **spec: Any) -> Dataset:
    """Load rows (or the text of a file), the same for training and, with other ids, as test rows."""
    name = spec.pop("name", "rows.jsonl")
    content = rows[0] if isinstance(rows[0], str) else "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / name).write_text(content, "utf-8")
    split = {"validation": 0.0, "test": 0.0}
    return load_data(DataSpec.model_validate({"source": name, "split": split, **spec}), TASK, tmp_path)


def told(row: Row) -> list[tuple[str, str]]:
    assert row.words is not None
    return [
        (row.input[start:end], tag)  # type: ignore[index]
        for (start, end), tag in zip(row.words.places, row.words.tags, strict=True)
    ]


WORDS = list(zip(MERKEL, TAGS, strict=True))


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": MERKEL, "tags": TAGS},
        {"tokens": MERKEL, "ner_tags": TAGS, "pos_tags": ["NNP"] * 5, "id": "7"},
        {"words": MERKEL, "labels": TAGS},
        {"text": TEXT, "spans": SPANS},
        {"text": TEXT, "entities": [[21, 26, "LOC"], [0, 13, "PER"]]},
        {"text": TEXT, "label": [[0, 13, "PER"], [21, 26, "LOC"]]},  # doccano
        {
            "text": TEXT,
            "label": [{"start": 0, "end": 13, "text": "Angela Merkel", "labels": ["PER"]}, *SPANS[1:]],
        },
        {"text": TEXT, "entities": [{"start_offset": 0, "end_offset": 13, "type": "PER"}, *SPANS[1:]]},
        {"text": TEXT, "spans": [{"start": 0, "end": 14, "label": "PER"}, *SPANS[1:]]},  # with a blank
        {"tokens": " ".join(MERKEL), "tags": " ".join(TAGS)},
        {"tokens": json.dumps(MERKEL), "tags": repr(TAGS)},
    ],
)
def test_forms_are_recognised(tmp_path: Path, row: dict[str, Any]) -> None:
    dataset = rows_of(tmp_path, row)
    assert told(dataset.train[0]) == WORDS
    assert dataset.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert dataset.warnings == []


def test_a_conll_file(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- O O\r\n\r\n"
        "Angela NNP I-NP B-PER\r\nMerkel NNP I-NP I-PER\r\nvisits VB O O\r\nParis NNP O B-LOC\r\n. . O O\r\n"
        " \t\r\n\r\n"
        "# sent_id = 2\r\n"
        "#Paris NNP O B-LOC\r\nrocks VB O O"
    )
    dataset = rows_of(tmp_path, text, name="train.conll")
    assert told(dataset.train[0]) == WORDS
    assert told(dataset.train[1]) == [("#Paris", "B-LOC"), ("rocks", "O")]
    assert dataset.train[0].input == "Angela Merkel visits Paris ."
    assert dataset.train[1].target == "B-LOC O"
    assert described({"train": dataset.train}, dataset.labels or []) == {
        "scheme": "IOB2",
        "forms": ["words (columns '1' and '4')"],
        "words": {"train": 7},
        "entities": {"train": {"LOC": 2, "PER": 1}},
        "ill_formed": {"train": 0},
    }
    chunks = rows_of(tmp_path, text, name="train.conll", columns={"target": "3"})
    assert chunks.labels == ["O", "I-NP"]
    renamed = rows_of(tmp_path, text, name="train.txt", format="conll")
    assert told(renamed.train[0]) == WORDS


def test_conll_u_has_its_words_in_the_second_column(tmp_path: Path) -> None:
    lines = [
        "# text = du pain",
        *("\t".join([number, word, "_", tag, *"______"]) for number, word, tag in [
            ("1-2", "du", "_"), ("1", "de", "ADP"), ("2", "le", "DET"), ("2.1", "_", "X"),
            ("3", "pain", "NOUN"),
        ]),
    ]  # fmt: skip
    dataset = rows_of(tmp_path, "\n".join(lines), name="train.conllu")
    assert told(dataset.train[0]) == [("de", "ADP"), ("le", "DET"), ("pain", "NOUN")]
    assert dataset.labels == ["ADP", "DET", "NOUN"]
    assert "each word counts as an entity of its own" in dataset.warnings[0]


def test_columns_may_have_names(tmp_path: Path) -> None:
    text = "# global.columns = FORM NER\nParis\tB-LOC\nis\tO\n"
    assert read_conll(str(_written(tmp_path, text))).target == "NER"
    spaced = "Los Angeles\tB-LOC\nis\tO\n"
    dataset = rows_of(tmp_path, spaced, name="train.bio")
    assert told(dataset.train[0]) == [("Los Angeles", "B-LOC"), ("is", "O")]


def _written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "file.conll").write_text(text)
    return tmp_path / "file.conll"


OK = "Paris\tB-LOC\nis\tO\n\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris B-LOC\nis\n", r"line 2: has 1 column, and line 1 has 2"),
        (f"{OK}Rome\tB-LOC\tO\n", r"line 4: has 3 columns, and line 1 has 2"),
        ("Paris\nis\n", r"line 1: has one column: 'Paris'.*tab between"),
        (f"{OK}\tO\n", r"line 4: has no word"),
        (f"{OK}Rome\t\n", r"line 4: has no tag for the word 'Rome'"),
        ("-DOCSTART- O\n\n", "holds no words"),
        ("# only = comments\n\n", "holds no words"),
        ("\n \n", "is empty"),
        ("".join(f"word{number} O\n" for number in range(1500)), "is one sentence of 1,500 words"),
        ("Paris O\nis O\n", "'O': is the only tag of all words"),
        ("Paris 3\nis 0\n", "holds tags without names"),
        ('{"tokens": ["a"]}\n{"tokens": ["b"]}\n', "line 1: is JSON"),
    ],
)
def test_what_is_wrong_with_a_conll_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows_of(tmp_path, text, name="train.conll")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": MERKEL, "tags": TAGS[:4]}, r"line 2, column 'tags': holds 4 tags for 5 words"),
        ({"tokens": [], "tags": []}, "holds no words"),
        ({"tokens": MERKEL, "tags": [3, 4, 0, 5, 0]}, r"tags without names \(3, 4, 0, 5, 0\)"),
        ({"tokens": MERKEL, "tags": [None, "O", "O", "O", "O"]}, "the tag None for the word 'Angela'"),
        ({"tokens": MERKEL, "tags": ["", "O", "O", "O", "O"]}, "the tag '' for the word 'Angela'"),
        ({"tokens": MERKEL, "tags": [True, "O", "O", "O", "O"]}, "the tag True"),
        ({"tokens": MERKEL, "tags": [["O"], "O", "O", "O", "O"]}, "holds no list of tags"),
        ({"tokens": [{"a": 1}], "tags": ["O"]}, "holds no list of words"),
        ({"tokens": None, "tags": None}, "holds no list of words"),
        ({"tokens": MERKEL}, "has no column 'tags', as the first row does"),
        ({"tokens": MERKEL, "tags": "B-PER"}, "holds 1 tags for 5 words"),
    ],
)
def test_what_is_wrong_with_words_and_tags(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows_of(tmp_path, {"tokens": MERKEL, "tags": TAGS}, row)


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([[0, 13, "PER"], [7, 13, "NAME"]], r"span 2: overlaps the span 0-13 \(PER\)"),
        ([[0, 99, "PER"]], "reaches from 0 to 99, and the text has 27 characters"),
        ([[-1, 5, "PER"]], "reaches from -1 to 5"),
        ([[5, 5, "PER"]], "reaches from 5 to 5"),
        ([[6, 7, "PER"]], "covers blanks alone"),
        ([[0.5, 5, "PER"]], "is no span"),
        ([["0", "5", "PER"]], "is no span"),
        ([[0, 5]], "is no span"),
        ([{"start": 0, "end": 5}], "has the label None"),
        ([[0, 5, ""]], "has the label ''"),
        (
            [{"start": 0, "end": 5, "label": "PER", "text": "Angela"}],
            "says 'Angela', and from 0 to 5.*'Angel'",
        ),
        ([[0, 3, "A"], [3, 6, "B"]], "lie in the one word 'Angela'"),
        ("PER", "holds no list of spans but 'PER'"),
        ({"start": 0}, "holds no list of spans"),
    ],
)
def test_what_is_wrong_with_spans(tmp_path: Path, spans: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows_of(tmp_path, {"text": TEXT, "spans": SPANS}, {"text": TEXT, "spans": spans})


def test_spans_reach_over_whole_words_and_classes_have_no_blanks(tmp_path: Path) -> None:
    row = {"text": TEXT, "spans": [[0, 10, "legal person"]]}
    dataset = rows_of(tmp_path, row, {"text": "none", "spans": []}, {"text": "no list", "spans": None})
    assert told(dataset.train[0])[:3] == [
        ("Angela", "B-legal_person"),
        ("Merkel", "I-legal_person"),
        ("visits", "O"),
    ]
    assert "1 of 3 rows have spans that begin or end within a word, such as row 0" in dataset.warnings[0]


def test_how_many_rows_are_wrong_is_said(tmp_path: Path) -> None:
    wrong = {"tokens": MERKEL, "tags": TAGS[:2]}
    with pytest.raises(DataError, match=r"holds 2 tags for 5 words\. 2 more of 4 rows cannot be used either"):
        rows_of(tmp_path, {"tokens": MERKEL, "tags": TAGS}, wrong, wrong, wrong)


def test_ill_formed_tags_and_unknown_classes_are_said(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("A B-X\nB I-Y\n\nC B-X\nD I-X\n")
    (tmp_path / "test.conll").write_text("A B-X\nE B-Z\n")
    spec = {"train": "train.conll", "test": "test.conll", "split": {"validation": 0.0}}
    dataset = load_data(DataSpec.model_validate(spec), TASK, tmp_path)
    assert dataset.labels == ["O", *(f"{place}-{kind}" for kind in "XYZ" for place in "BI")][1:]
    ill, unknown = dataset.warnings[:2]
    assert (
        "1 tag cannot stand where it does by the scheme IOB2, in 1 of 2 training rows (the first: row 0)"
        in ill
    )
    assert "no training row has an entity of Z, and test rows have" in unknown
    (tmp_path / "test.conll").write_text("A O\nE O\n")
    warnings = load_data(DataSpec.model_validate(spec), TASK, tmp_path).warnings
    assert any("no test row has an entity" in text for text in warnings)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (TEXT, ["Angela", "Merkel", "visits", "Paris", "."]),
        ({"text": TEXT, "spans": SPANS}, ["Angela", "Merkel", "visits", "Paris", "."]),
        ({"tokens": ["don't", "x"]}, ["don't", "x"]),
        ("['Angela']", ["[", "'", "Angela", "'", "]"]),
    ],
)
def test_what_is_asked(asked: Any, words: list[str]) -> None:
    row = prompt_row(asked, DataSpec(source="x.jsonl"), TASK)
    assert row.words is not None
    assert row.words.tags == ()
    assert [row.input[start:end] for start, end in row.words.places] == words  # type: ignore[index]


@pytest.mark.parametrize("asked", [" ", "\u200b", {"tokens": []}, {"other": 1}, {"tokens": [None]}])
def test_nothing_to_tag(asked: Any) -> None:
    with pytest.raises(DataError):
        prompt_row(asked, DataSpec(source="x.jsonl"), TASK)


@pytest.mark.slow
def test_numbers_have_the_names_that_their_source_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    tags = [[1, 2, 0, 3, 0]]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    rows = datasets.Dataset.from_dict({"tokens": [MERKEL], "ner_tags": tags}, features=features)
    in_memory = load_data(
        DataSpec.model_validate(
            {"source": str(keep_rows(rows)), "format": "jsonl", "split": {"validation": 0.0, "test": 0.0}}
        ),
        TASK,
    )
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    split = {"validation": 0.0, "test": 0.0}
    spec = DataSpec.model_validate({"source": "rows.parquet", "split": split})
    for dataset in (in_memory, load_data(spec, TASK, tmp_path)):
        assert told(dataset.train[0]) == WORDS
