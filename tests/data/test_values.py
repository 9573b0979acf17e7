"""Values that are no text, no class, or one class in several spellings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deltatune.data import Dataset, load_data
from deltatune.data.cells import as_text, check_labels
from deltatune.data.checks import check_rows
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.recipe import DataSpec
from deltatune.recipe.templates import fill_template, template_fields

TURNS = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}]


def load(path: Path, values: list[dict[str, Any]], task: str = "text-to-text", **spec: Any) -> Dataset:
    source = path / "a.jsonl"
    source.write_text("".join(json.dumps(value) + "\n" for value in values))
    return load_data(DataSpec(source=str(source), **({"split": {"validation": 0, "test": 0}} | spec)), task)


@pytest.mark.parametrize(
    "messages", [TURNS, [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "that"}]]
)
@pytest.mark.parametrize("column", ["input", "target", "shown"])
def test_a_conversation_is_not_learned_as_json(tmp_path: Path, messages: Any, column: str) -> None:
    row = {"input": "x", "target": "y", "shown": "z", column: messages}
    with pytest.raises(DataError, match=f"line 1, column '{column}': holds .*task: conversation"):
        load(tmp_path, [row] * 2, template="{shown} {input}")


def test_a_list_is_no_label(tmp_path: Path) -> None:
    rows = [{"input": f"x{number}", "target": ["a", "b"][: 1 + number % 2]} for number in range(8)]
    with pytest.raises(
        DataError, match=r"column 'target': holds \[\"a\"\]: a class is one name.*multi-label"
    ):
        load(tmp_path, rows, "text-classification")


def test_lists_and_objects_that_become_json_are_told(tmp_path: Path) -> None:
    data = load(
        tmp_path, [{"input": ["a", "b"], "target": {"k": number}, "other": [1]} for number in range(3)]
    )
    assert data.train[0].input == '["a", "b"]'
    assert [text.split(",")[0] for text in data.warnings if "JSON" in text] == [
        "the column 'input' holds a list in 3 of 3 rows",
        "the column 'target' holds an object in 3 of 3 rows",
    ]


def test_bytes_are_text_or_refused_by_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def read(raw: bytes, template: str) -> Dataset:
        table = pyarrow.table({"input": ["a", "b"], "target": ["c", "d"], "raw": [raw] * 2})
        parquet.write_table(table, tmp_path / "a.parquet")
        split = {"validation": 0, "test": 0}
        source = str(tmp_path / "a.parquet")
        return load_data(DataSpec(source=source, split=split, template=template), "text-to-text")

    assert read("né".encode(), "{raw} {input}").train[0].input == "né a"
    with pytest.raises(
        DataError, match=r"column 'raw': holds 3 bytes that are no text in UTF-8 \(0x89504e\)"
    ):
        read(b"\x89PN", "{raw} {input}")
    assert "raw" not in read(b"\x89PN", "{input}").train[0].columns


def test_names_that_are_no_text_are_refused_before_training(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8), np.uint8)
    split = {"validation": 0, "test": 0}
    for labels in (np.array([b"\xe9", b"b"]), np.array(["\ud800", "b"])):
        np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
        with pytest.raises(DataError, match=r"row 0, column 'label': holds .*no text"):
            load_data(DataSpec(source=str(tmp_path / "a.npz"), split=split), "image-classification")
    folder = os.fsencode(tmp_path / "images")
    for name in (b"a/1.png", b"c\xff/2.png"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)))
        with open(os.path.join(folder, name), "wb") as handle:
            Image.fromarray(pixels[0]).save(handle, "png")
    with pytest.raises(DataError, match=r"half of a character and no text.*UTF-8") as caught:
        load_data(DataSpec(source=str(tmp_path / "images"), split=split), "image-classification")
    str(caught.value).encode()  # what is said can be printed


def test_scores_are_no_classes() -> None:
    with pytest.raises(
        DataError, match=r"40 different real numbers \(0\.0, 0\.1, .*Use task: text-regression"
    ):
        check_labels([str(number / 10) for number in range(40)] * 2, "text")
    [warning] = check_labels(["0.5", "1.0", "1.5"] * 20, "text")
    assert "without an order; task: text-regression learns numbers" in warning
    with pytest.raises(DataError, match=r"scores, not classes\. Make classes of ranges") as caught:
        check_labels([str(number / 10) for number in range(40)] * 2, "images")
    assert "regression" not in str(caught.value)  # none that reads images
    for fine in (["0", "1"], ["1", "1.0"], ["a", "1.5"], ["-1", "1"], ["pos", "neg"], []):
        assert check_labels(fine, "text") == []


def test_nothing_is_empty_text() -> None:
    assert [as_text(value) for value in (None, float("nan"), "", 1, 1.5, True)] == [
        "",
        "",
        "",
        "1",
        "1.5",
        "True",
    ]


def rows(*targets: str) -> list[Row]:
    return [Row(str(number), f"text {number}", target, {}) for number, target in enumerate(targets)]


@pytest.mark.parametrize(
    "pair",
    [
        ("1", "1.0"), ("1", "01"), ("pos", "pos "), ("pos", "Pos"), ("new  york", "new york"),
        ("1", "True"), ("0.0", "false"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    ],
)  # fmt: skip
def test_labels_that_differ_in_writing_only_are_told(pair: tuple[str, str]) -> None:
    check = check_rows(rows(*[*pair, "other"] * 10), [], [], labelled=True)
    assert check.alike == [sorted(pair)]
    assert "differ in writing only" in " ".join(check.warnings())
    assert check_rows(rows(*["a", "b", "1", "2"] * 10), [], [], labelled=True).alike == []


def test_labels_that_join_labels_are_told() -> None:
    check = check_rows(rows(*["a", "b", "a|b", "a, b", "a|c"] * 10), [], [], labelled=True)
    assert check.joined == ["a|b", "a, b"]
    assert "'a|b' consists of other classes' names, as do 1 more" in " ".join(check.warnings())


def test_a_class_without_test_rows_is_told() -> None:
    check = check_rows(rows(*"ab" * 10), [], rows("a"), labelled=True)
    assert "the class 'b' has no test row" in " ".join(check.warnings())
    assert "no test row" not in " ".join(
        check_rows(rows(*"ab" * 10), [], rows("a", "b"), labelled=True).warnings()
    )


def test_rows_that_share_an_input_are_told() -> None:
    test = [Row(str(number), f"text {number // 4}", f"reference {number}", {}) for number in range(40)]
    check = check_rows(rows("x", "y"), [], test)
    assert check.inputs["test"] == 10
    assert "the 40 test rows have 10 different inputs" in " ".join(check.warnings())
    assert "different inputs" not in " ".join(check_rows(rows("x", "y"), [], test[::4]).warnings())


def test_a_template_names_columns_and_nothing_else(tmp_path: Path) -> None:
    template = "{{{0}}} {meta.title} {x[0]} {y!r} {z:>4} {a b}"
    names = ["0", "meta.title", "x[0]", "y!r", "z:>4", "a b"]
    assert template_fields(template) == names
    assert (
        fill_template(template, {name: name.upper() for name in names}) == "{0} META.TITLE X[0] Y!R Z:>4 A B"
    )
    for broken in ("{", "}", "a { b", "{}", "{a{b}}", "{a"):
        with pytest.raises(ValueError, match=r"plain \{column\} field"):
            template_fields(broken)
    assert fill_template("{a.__class__}", {"a.__class__": "a column"}) == "a column"
    row = {"0": "zero", "meta.title": "t", "target": "y"}
    data = load(tmp_path, [row, row], template="{0}: {meta.title}", columns={"input": "0"})
    assert data.train[0].input == "zero: t"


def test_whole_numbers_of_any_length_are_classes_in_order(tmp_path: Path) -> None:
    labels = ["2", "9" * 5000, "10", "٣"]  # ٣ is the decimal digit 3
    data = load(
        tmp_path, [{"input": f"x{n}", "target": t} for n, t in enumerate(labels)], "text-classification"
    )
    assert data.labels == ["2", "٣", "10", "9" * 5000]


SCRIPT = """
import json, sys
from deltatune.data import load_data
from deltatune.recipe import DataSpec
for source in sys.argv[1:]:
    data = load_data(DataSpec(source=source, split={"validation": 0.2, "test": 0.2}), "text-classification")
    check = data.check.as_dict()
    ids = [[row.id for row in part] for part in (data.train, data.validation, data.test)]
    print(json.dumps([data.labels, ids, data.fingerprint, data.warnings, check]))
"""


def test_nothing_depends_on_the_order_of_sets(tmp_path: Path) -> None:
    labels = ["1", "01", "001", "1.0", "x", "X", "1|x"]
    content = "".join(
        json.dumps({"input": f"the text {number % 50} of many", "target": labels[number % len(labels)]})
        + "\n"
        for number in range(140)
    )
    (tmp_path / "a.jsonl").write_text(content)
    (tmp_path / "d.jsonl").write_text(
        content.replace("1.0", "2").replace('"x"', '"3"').replace('"X"', '"03"').replace("1|x", "4")
    )
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "a.jsonl"), str(tmp_path / "d.jsonl")],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(outcomes) == 1
