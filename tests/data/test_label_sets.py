"""Rows with any number of labels: what is read for what, and what is refused with a reason."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.data.dataset import Dataset
from deltatune.data.load import load_data
from deltatune.data.remote import _hub_records
from deltatune.data.splits import split_rows
from deltatune.errors import DeltatuneError
from deltatune.recipe.sections import DataSpec
from deltatune.tasks.label_sets import NONE, as_text, labels_of

TASK = "multi-label-classification"
LABEL = st.text(st.sampled_from('a,"[] ;|(none)é🎉'), min_size=1, max_size=6)


def load(folder: Path, rows: list[dict[str, Any]], **spec: Any) -> Dataset:
    path = folder / "rows.jsonl"
    lines = [json.dumps({"input": f"text {number}", **row}) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_data(DataSpec(source=str(path), split={"validation": 0.1, "test": 0.1}, **spec), TASK)


@settings(max_examples=60, deadline=None)
@given(st.lists(LABEL, unique=True, max_size=4))
def test_a_set_is_read_as_it_was_written(labels: list[str]) -> None:
    assert labels_of(as_text(labels)) == labels


def test_sets_are_written_to_be_read() -> None:
    assert as_text(["toxic", "insult"]) == "toxic, insult"
    assert as_text([]) == NONE
    assert as_text(["toys, games", NONE, " a", '"x"']) == '"toys, games", "(none)", " a", "\\"x\\""'
    assert labels_of("") == []


@pytest.mark.parametrize(
    ("cells", "more", "labels", "first", "told"),
    [
        ([["b", "a"], ["b"], []], {}, ["a", "b"], "a, b", "a list in 40 of 60 rows"),
        (["b, a", "b", ""], {}, ["a", "b"], "a, b", "a comma between labels in 20 and a text of one label"),
        (["b; a;", "b", None], {}, ["a", "b"], "a, b", "a text with a semicolon between labels in 20"),
        (["a|b", "b||", None], {}, ["a", "b"], "a, b", "a text with a bar between labels in 40 of 60"),
        (["x, y; a", "b", None], {"separator": ";"}, ["a", "b", "x, y"], 'a, "x, y"', "a semicolon"),
        (["a\nb", "b", None], {"separator": "\n"}, ["a", "b"], "a, b", r"with '\n' between labels"),
        (['["b, c", "a"]', '["a"]', "[]"], {}, ["a", "b, c"], 'a, "b, c"', "a list in 40"),
        (["['b', 'a']", "['a']", "[]"], {}, ["a", "b"], "a, b", "a list in 40"),
        ([["🎉", "😀"], ["🎉"], [""]], {}, ["🎉", "😀"], "🎉, 😀", "a list in 60"),
        ([[2, 10], [10], [2, 2]], {}, ["2", "10"], "2, 10", "a list"),
        ([[1.0, 2.0], [1.0], []], {}, ["1.0", "2.0"], "1.0, 2.0", "a list"),
        ([3, 4, None], {}, ["3", "4"], "3", "a text of one label in 40 of 60 rows"),
    ],
)
def test_labels_are_lists_or_texts(  # noqa: PLR0917
    tmp_path: Path, cells: list[Any], more: dict[str, Any], labels: list[str], first: str, told: str
) -> None:
    data = load(tmp_path, [{"target": cell} for cell in cells * 20], **more)
    assert data.labels == labels
    assert next(row.target for row in data.train if row.id in ("0", "3")) == first
    assert data.check is not None
    assert data.check.label_sets is not None
    assert told in data.check.label_sets.written


@pytest.mark.parametrize(
    "yes_no", [(1, 0), ("1", "0"), (1.0, 0.0), (True, False), ("yes", "No"), ("1.0", "0.0")]
)
def test_labels_are_columns_of_0_and_1(tmp_path: Path, yes_no: tuple[Any, Any]) -> None:
    yes, no = yes_no
    rows = [{"toxic": yes, "insult": no}, {"toxic": no, "insult": no}, {"toxic": yes, "insult": yes}] * 20
    data = load(tmp_path, rows, columns={"target": ["toxic", "insult"]})
    assert data.labels == ["toxic", "insult"], "in the recipe's order"
    by_id = {row.id: row.target for row in (*data.train, *data.validation, *data.test)}
    assert (by_id["0"], by_id["1"], by_id["2"]) == ("toxic", NONE, "toxic, insult")
    assert data.check is not None
    assert data.check.classes is not None
    assert data.check.classes["train"] == {"toxic": 32, "insult": 16}
    assert data.check.label_sets is not None
    assert sum(data.check.label_sets.without.values()) == 20


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (
            [["a", ["b"]], ["b"]],
            r'line 1, column \'target\': holds \["a", \["b"\]\], where \["b"\] is no name',
        ),
        ([["a", None], ["b"]], "where null is nothing"),
        ([["a", {"b": 1}], ["b"]], "is no name"),
        ([["a", True], ["b"]], "where True is no name"),
        ([None, None], "have no label at all. Name the column"),
        ([[], []], "have no label at all"),
        ([{"a": 1}, {"a": 0}], "labels are a list or a text, not an object"),
        ([True, False], "holds False and True alone.*columns: {target: \\[target\\]}"),
        (["0", "1"], "holds 0 and 1 alone"),
        ([[0, 1, 1], [1, 0, 0]], r"lists of 3 times 0 or 1 \(\[0, 1, 1\]\), which name no labels"),
        (["a; b", "b, c"], "holds ',' in 30 and ';' in 30 of 60 texts.*data.separator"),
        (["['a' 'b']", "['b']"], "a list without commas"),
        ([["a\ud800"], ["b"]], "half of a character"),
    ],
)
def test_what_holds_no_labels_is_named(tmp_path: Path, cells: list[Any], told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        load(tmp_path, [{"target": cell} for cell in cells * 30])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"a": 1, "b": None}, "line 1, column 'b': is empty"),
        ({"a": 1, "b": 0.7}, "holds '0.7', which is neither 0 nor 1"),
        ({"a": 1, "b": "perhaps"}, "holds 'perhaps', which is neither"),
        ({"a": 1}, "has no column 'b'.*data.columns.target"),
    ],
)
def test_a_column_of_0_and_1_holds_nothing_else(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        load(tmp_path, [row] * 30, columns={"target": ["a", "b"]})


def test_what_is_strange_is_said(tmp_path: Path) -> None:
    rows = [{"target": ["a", "b", "B"]}, {"target": ["a", "a"]}] * 30 + [{"target": ["a", "rare"]}]
    said = " ".join(load(tmp_path, rows).warnings)
    assert "29 more rows name a label twice in column 'target'; it counts once." in said
    assert "every training row has 'a'" in said
    assert "the labels 'B' and 'b' differ in writing only" in said
    assert "the label 'rare' has 1 training row only." in said
    assert "the label 'rare' has no test row" in said
    one_each = load(tmp_path, [{"target": ["a"]}, {"target": ["b"]}] * 30)
    assert any("task: text-classification learns which one" in text for text in one_each.warnings)
    columns = {"target": ["a", "b"]}
    never = load(tmp_path, [{"a": 1, "b": 0}, {"a": 0, "b": 0}] * 30, columns=columns)
    assert "no training row has 'b': nothing can be learned of it." in never.warnings
    unused = load(tmp_path, [{"target": "a, b"}, {"target": "a"}] * 30, separator=";")
    assert "data.separator (';') is in no text of column 'target'." in unused.warnings


def test_labels_of_held_out_rows_alone_are_counted_as_missed(tmp_path: Path) -> None:
    for part, labels in (("train", ["a", "b"]), ("test", ["a", "strange"])):
        rows = [{"input": f"{part} {n}", "target": labels[: 1 + n % 2]} for n in range(20)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = {part: str(tmp_path / f"{part}.jsonl") for part in ("train", "test")}
    data = load_data(DataSpec(**files, split={"validation": 0}), TASK)
    assert data.labels == ["a", "b"]
    assert data.check is not None
    assert data.check.label_sets is not None
    assert data.check.label_sets.unknown == {"test": {"strange": 10}}
    assert any(
        "10 times a test row has a label that no training row has ('strange')" in w for w in data.warnings
    )
    (tmp_path / "test.jsonl").write_text('{"input": "x", "target": []}', encoding="utf-8")
    bare = load_data(DataSpec(**files, split={"validation": 0}), TASK)
    assert any("no test row has a label" in text for text in bare.warnings)


def test_five_hundred_labels_are_read(tmp_path: Path) -> None:
    rows = [{"target": [f"label {n}" for n in range(500)]}, *([{"target": ["label 7"]}] * 30)]
    data = load(tmp_path, rows)
    assert data.labels is not None
    assert len(data.labels) == 500, "the only row of a label stays among the training rows"


def test_the_parts_have_about_the_share_of_every_label() -> None:
    draw = random.Random(3)
    shares = {"a": 0.5, "b": 0.3, "c": 0.1, "d": 0.05, "e": 0.02, "f": 0.004}
    sets = [[label for label, share in shares.items() if draw.random() < share] for _ in range(1000)]
    train, validation, test = split_rows(range(1000), 0.1, 0.1, 0, None, sets)
    assert (len(train), len(validation), len(test)) == (800, 100, 100)
    counts = Counter(label for labels in sets for label in labels)
    for part in (validation, test):
        found = Counter(label for row in part for label in sets[row] or ["none"])
        for label, count in counts.items():
            assert abs(found[label] - count / 10) <= 3, (label, count, found)
        assert abs(found["none"] - sum(not labels for labels in sets) / 10) <= 4
    assert {label for row in train for label in sets[row]} == set(counts)
    assert split_rows(range(1000), 0.3, 0.1, 0, None, sets)[2] == test, "of the share of validation alone"
    assert [len(part) for part in split_rows(range(9), 0.1, 0.1, 0, None, [[str(n)] for n in range(9)])] == [
        9,
        0,
        0,
    ]


class OfTheHub(list):
    """Rows of a data set, whose lists hold numbers of class labels."""

    features: ClassVar = {
        "text": SimpleNamespace(),
        "labels": SimpleNamespace(feature=SimpleNamespace(int2str=str, names=["joy", "anger"])),
    }


def test_lists_of_the_hubs_class_labels_become_names() -> None:
    records = _hub_records(OfTheHub([{"text": "x", "labels": [1, 0]}, {"text": "y", "labels": []}]), "hub")
    assert [record.columns["labels"] for record in records] == [["anger", "joy"], []]
