from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltatune.data.remote import read_hub
from deltatune.errors import DataError
from tests.data.files import ROWS, Write, image, jsonl


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'input,target,n\n"x, y",t,1\n'),
        ("a.csv", "\ufeffinput,target,n\r\n" + '"x, y",t,1\r\n'),
        ("a.tsv", "input\ttarget\tn\nx, y\tt\t1\n"),
        ("a.jsonl", '{"input": "x, y", "target": "t", "n": 1}\n\n'),
        ("a.json", '[{"input": "x, y", "target": "t", "n": 1}]'),
    ],
)
def test_the_same_row_from_every_text_format(write: Write, load: Any, name: str, content: str) -> None:
    write(name, content)
    [row] = load(source=name).train
    assert (row.id, row.input, row.target) == ("0", "x, y", "t")
    assert row.columns == {"input": "x, y", "target": "t", "n": "1"}


def test_parquet(tmp_path: Path, load: Any) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"input": ["x", "y"], "target": ["t", "u"], "n": [1, None], "l": [[1, 2], [3]]})
    frame.to_parquet(tmp_path / "a.parquet")
    first, second = load(source="a.parquet").train
    assert (first.input, first.target, first.columns["l"]) == ("x", "t", "[1, 2]")
    assert second.columns["n"] == ""
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet.*not readable as Parquet"):
        load(source="bad.parquet")


def test_a_parts_object_in_json_needs_no_split(write: Write, load: Any) -> None:
    write("a.json", json.dumps({"train": ROWS[:2], "validation": ROWS[2:3], "test": ROWS[3:5]}))
    data = load(source="a.json", split=None)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [2, 1, 2]
    with pytest.raises(DataError, match=r"data.split.test.*test rows of its own"):
        load(source="a.json", split={"test": 0.5})


def test_sentence_label_files_in_either_encoding(write: Write, load: Any) -> None:
    write("latin.txt", "Caf\xe9 grew a@b .@positive\nLoss\x85 rose .@negative\n".encode("latin-1"))
    write("utf.txt", "Café grew a@b .@positive\nLoss rose .@negative\n")
    for name in ("latin.txt", "utf.txt"):
        data = load("text-classification", source=name)
        assert data.labels == ["negative", "positive"]
        assert (data.train[0].input, data.train[0].target) == ("Café grew a@b .", "positive")
        assert len(data.train) == 2
    write("bad.txt", "fine@a\nno label\n")
    with pytest.raises(DataError, match=r"bad\.txt, line 2.*sentence@label"):
        load("text-classification", source="bad.txt")


def test_tables_that_the_index_leaves_out_are_named(write: Write, load: Any) -> None:
    for name in ("1.csv", "2.csv", "deep/3.csv", ".hidden/4.csv"):
        write(f"t/{name}", "a,b\n1,2\n")
    write("t/index.csv", "file,title\n1.csv,One\n1.csv,Two\n")
    warnings = load(source="t").warnings
    assert any("2 files are not in index.csv and not used: 2.csv, deep/3.csv." in text for text in warnings)
    write("t/index.csv", "file,title\n1.csv,One\n2.csv,Two\ndeep/3.csv,Three\n")
    assert not any("not used" in text for text in load(source="t").warnings)


def test_a_folder_of_tables_with_its_index(write: Write, load: Any, tmp_path: Path) -> None:
    write("t/csv/1.csv", "Country#Cost, all\nRussia, EU#42$\n")
    write("t/2.csv", "a,a\n1,2\n")
    write("t/index.jsonl", jsonl([{"file": "csv/1.csv", "title": "One"}, {"file": "2.csv", "title": "Two"}]))
    first, second = load(source="t", template="title: {table}").train
    assert (first.input, first.target) == ("title: 0 Country: Russia, EU, Cost, all: 42$,", "One")
    assert (second.input, second.target) == ("title: 0 a: 1, a: 2,", "Two")
    write("t/some.csv", "file,title\n2.csv,Two\n")
    assert load(source="t/some.csv", format="table-folder").train[0].target == "Two"
    write("outside.csv", "a\n1\n")
    for index, message in (
        ("file,title\n../outside.csv,x\n", "index.csv, line 2.*outside the folder"),
        (f"file,title\n{tmp_path}/outside.csv,x\n", "outside the folder"),
        ("file,title\nabsent.csv,x\n", "'absent.csv', which is no file"),
        ("fiel,title\n2.csv,x\n", "names no file.*'fiel'"),
    ):
        write("t/index.csv", index)
        with pytest.raises(DataError, match=message):
            load(source="t")
    (tmp_path / "t/link.csv").symlink_to(tmp_path / "outside.csv")
    write("t/index.csv", "file,title\nlink.csv,x\n")
    with pytest.raises(DataError, match="outside the folder"):
        load(source="t")
    write("t/index.csv", "file,title\n3.csv,x\n")
    write("t/3.csv", "a,b\n")
    with pytest.raises(DataError, match=r"3\.csv: has a header but no rows"):
        load(source="t")


def test_image_folders_with_and_without_parts(tmp_path: Path, load: Any) -> None:
    for index, (part, label) in enumerate(
        [("train", "cat"), ("train", "dog"), ("val", "cat"), ("test", "dog")]
    ):
        image(tmp_path / "parts" / part / label / f"{index}.png", index)
        image(tmp_path / "flat" / label / f"{index}.PNG", index)
    data = load("image-classification", source="parts", split=None)
    assert data.labels == ["cat", "dog"]
    assert [row.target for row in data.train + data.validation + data.test] == ["cat", "dog", "cat", "dog"]
    assert data.train[0].input == tmp_path / "parts/train/cat/0.png"
    assert data.train[0].columns == {"label": "cat", "file": "train/cat/0.png"}
    assert len(load("image-classification", source="flat").train) == 4
    (tmp_path / "parts" / "extra").mkdir()
    with pytest.raises(DataError, match="mixes part folders"):
        load("image-classification", source="parts")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in class sub-folders"):
        load("image-classification", source="empty")


@pytest.mark.parametrize(
    "keys", [("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")]
)
def test_npz_images(tmp_path: Path, load: Any, keys: tuple[str, str]) -> None:
    pixels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
    np.savez(tmp_path / "a.npz", **{keys[0]: pixels, keys[1]: np.arange(12)[:, None] % 11})  # type: ignore[arg-type]
    data = load("image-classification", source="a.npz")
    assert data.labels == [str(index) for index in range(11)], "whole numbers are ordered as numbers"
    assert np.array_equal(data.train[3].input, pixels[3])
    assert data.train[3].columns == {"label": "3"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "'images', which are no pairs"),
        ({"images": np.full((2, 4, 4), 300.0), "labels": np.zeros(2, int)}, "float64"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "are 2, but the labels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, "labels of type float64"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([{}, {}])}, "plain arrays"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}, "no rows"),
    ],
)
def test_npz_archives_that_do_not_fit_are_refused(
    tmp_path: Path, load: Any, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load("image-classification", source="a.npz")


def test_a_damaged_npz_is_refused(write: Write, load: Any) -> None:
    write("a.npz", b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"a\.npz"):
        load("image-classification", source="a.npz")


class HubFeature:
    names = ("cat", "dog")

    def int2str(self, value: int) -> str:
        return self.names[value]


class HubPart(list[dict[str, Any]]):
    features = {"text": object(), "label": HubFeature()}  # noqa: RUF012


def test_hub_data_sets_bring_their_parts_and_label_names(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, revision: str | None) -> dict[str, HubPart]:
        asked.append((name, config, revision))
        rows = [{"text": f"row {index}", "label": index % 2} for index in range(8)]
        return {"train": HubPart(rows), "dev": HubPart(rows[:1]), "unsupervised": HubPart(rows)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load(
        "text-classification",
        source="hub:owner/name#plain@v1",
        columns={"input": "text", "target": "label"},
        split={"test": 0.25},
    )
    assert asked == [("owner/name", "plain", "v1")]
    assert data.labels == ["cat", "dog"]
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 1, 2]


def test_a_hub_that_cannot_be_reached_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"hub:a/b.*ConnectionError: no network"):
        read_hub("hub:a/b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv.*is empty"),
        ("a.csv", "input,target\n", "no rows"),
        ("a.csv", "input,target\nx,t\ny\n", "a.csv, line 3: has 1 cells, but the header names 2"),
        ("a.csv", "input,input\nx,t\n", "'input' twice"),
        ("a.csv", 'input,target\n"x,t\n', "a.csv, line 2: is not valid"),
        ("a.csv", b"input,target\nx,\xe9\n", "a.csv.*UTF-8: line 2"),
        ("a.jsonl", '{"input": "x", "target": "t"}\n{"input": \n', "a.jsonl, line 2.*not valid JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl, item 0 of all: is a JSON int, not an object"),
        ("a.jsonl", "[1]\n[2]\n", "a.jsonl, line 1: is a JSON list, not an object"),
        ("a.jsonl", '{"input": "x"}\n', "a.jsonl, line 1: has no column 'target'.*data.columns.target"),
        ("a.jsonl", '{"imput": "x", "target": "t"}\n', "no column 'input'. Did you mean 'imput'"),
        ("a.jsonl", '{"input": "x", "target": ""}\n', "a.jsonl, line 1: has an empty target"),
        ("a.jsonl", '{"input": "x", "target": null}\n', "empty target"),
        ("a.jsonl", '{"input": " ", "target": "t"}\n', "a.jsonl, line 1: has an empty input"),
        ("a.jsonl", '{"input": "x \\ud83d y", "target": "t"}\n', r"a.jsonl, line 1: holds .ud83d.*Mend"),
        (
            "a.jsonl",
            '{"input": "x", "target": "t", "n": [{"\\uDE00": 1}]}',
            r"a.jsonl, line 1: holds .ude00",
        ),
        ("a.json", '[{"input": "x", "target": "\\ud83d"}]', r"a.json, item 0 of all: holds .ud83d"),
        ("a.json", '[{"input": 1},\n 3', "a.json, line 2: is not valid JSON"),
        ("a.json", '{"rows": []}', "'rows'"),
        ("a.json", '{"train": 3}', "not a list of objects"),
        ("a.json", "[[1]]", "a.json, item 0 of all: is a JSON list"),
        ("a.xyz", "x", "'.xyz', which tells no format.*data.format"),
    ],
)
def test_bad_files_are_named_with_row_and_remedy(
    write: Write, load: Any, name: str, content: str | bytes, message: str
) -> None:
    write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        load(source=name)
    assert caught.value.remedy
