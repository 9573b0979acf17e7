"""`predict` on files: one line of output a row of input, whatever is wrong with some of them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from deltatune.cli.commands.train import _lines
from deltatune.data.readers import Writing
from deltatune.errors import DataError
from deltatune.evaluation import probabilities
from deltatune.recipe import Recipe, parse_recipe
from deltatune.runs import Failed, predict
from deltatune.runs.inputs import named_inputs, read_inputs
from deltatune.training import run
from tests.cli.conftest import run as command
from tests.tiny_recipe import WORDS

__all__ = ["command"]


@pytest.fixture
def texts(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A run that has learned nothing, with a template of two columns."""
    recipe = make_recipe("data.template='{id}: {text}'", methods=["untuned"])
    run(recipe, recipe.methods[0], 0, tmp_path / "texts")
    return tmp_path / "texts"


@pytest.fixture
def plain(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A run whose inputs are texts."""
    recipe = make_recipe(methods=["untuned"])
    run(recipe, recipe.methods[0], 0, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A run on images of two classes."""
    base, data = tmp_path / "vit", tmp_path / "data"
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
        patch_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(base)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(base)
    for label, shade in (("dark", 20), ("light", 230)):
        (data / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((8, 8, 3), shade + number, np.uint8)
            Image.fromarray(pixels).save(data / label / f"{number}.png")
    recipe = parse_recipe(
        {
            "task": "image-classification",
            "model": str(base),
            "data": {"source": str(data), "split": {"validation": 0.2, "test": 0.4}},
            "methods": ["lora"],
            "train": {"epochs": 1},
        }
    )
    run(recipe, recipe.methods[0], 0, tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("first\u2028still first\nsecond\n", ["first\u2028still first", "second"]),
        ("first\x0cstill first\nsecond", ["first\x0cstill first", "second"]),
        ("first\u0085still first\nsecond\n", ["first\u0085still first", "second"]),
        ("\ufefffirst\nsecond\n", ["first", "second"]),
        ("first\r\nsecond\r\n", ["first", "second"]),
        ("first\rstill first\nsecond\n", ["first\rstill first", "second"]),
    ],
)
def test_a_line_ends_at_a_line_feed_in_files_and_on_stdin(
    tmp_path: Path, content: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes(content.encode())
    assert list(read_inputs(file)) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="latin-1"))
    assert list(_lines()) == expected


def test_an_empty_line_is_a_line(plain: Path, command: Callable) -> None:
    done = command("predict", plain, stdin="first\n\nthird\n")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["id"] for record in records] == ["0", "1", "2"]
    assert ["error" in record for record in records] == [False, True, False]
    assert set(records[0]) == {"id", "input", "prediction", "stopped"}
    assert "empty" in records[1]["error"]
    assert done.code == 2
    assert "1 of 3 inputs could not be used" in done.err


ROWS = [{"id": f"row {n}", "text": f"{n} of the {WORDS[n]}", "other": "x"} for n in range(3)]
FILES = {
    "a.jsonl": "\n".join(json.dumps(row) for row in ROWS) + "\n",
    "a.json": json.dumps(ROWS),
    "a.csv": "id,text,other\n" + "".join(f'{row["id"]},"{row["text"]}",x\n' for row in ROWS),
    "b.csv": "id;text;other\n" + "".join(f"{row['id']};{row['text']};x\n" for row in ROWS),
    "a.tsv": "id\ttext\tother\n" + "".join(f"{row['id']}\t{row['text']}\tx\n" for row in ROWS),
    "a.txt": "".join(json.dumps(row) + "\n" for row in ROWS),
}


@pytest.mark.parametrize("name", FILES)
def test_columns_fill_the_template_and_the_id_is_the_rows_own(
    texts: Path, tmp_path: Path, name: str, command: Callable
) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    done = command("predict", texts, "--file", tmp_path / name)
    assert done.code == 0, done.err
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["id"] for record in records] == ["row 0", "row 1", "row 2"]
    assert records[1]["input"] == f"row 1: 1 of the {WORDS[1]}"


def test_files_are_read_as_those_of_training(texts: Path, tmp_path: Path, command: Callable) -> None:
    quoted = "id\ttext\n" + "".join(f'row {n}\t{n}" of the "{WORDS[n]}\n' for n in range(3))
    records = [{"id": f"row {n}", "text": f'{n}" of the "{WORDS[n]}'} for n in range(3)]
    table = "sep=;\r\nid;text\r\n" + "".join(f'row {n};"{n}"" of the ""{WORDS[n]}"\r\n' for n in range(3))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    files = {
        "a.tsv": quoted.encode(),
        "b.tsv": quoted.encode("utf-16"),
        "a.csv.gz": gzip.compress(table.encode("utf-8-sig")),
        "a.jsonl.bz2": bz2.compress(lines.encode()),
        "a.json": lines.encode(),
        "b.json": json.dumps({"rows": records}).encode(),
        "c.json": json.dumps(records, indent=1).encode("utf-16"),
        "c.jsonl": "".join(json.dumps(record, indent=1) + "\n" for record in records).encode(),
        "a.txt": lines.encode("utf-16"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        made = list(predict(texts, tmp_path / name))
        assert [each.input for each in made] == [f"{each['id']}: {each['text']}" for each in records], name


def test_the_encoding_and_delimiter_of_training_are_tried(tmp_path: Path) -> None:
    content = "id^text\n1^Straße; schön\n"
    for encoding in ("cp1252", "utf-8", "utf-16"):
        (tmp_path / "a.csv").write_bytes(content.encode(encoding))
        rows = list(read_inputs(tmp_path / "a.csv", Writing("^", "cp1252")))
        assert rows == [{"id": "1", "text": "Straße; schön"}]
    (tmp_path / "b.csv").write_text("id;text\n1;a^b\n", encoding="utf-8")
    assert list(read_inputs(tmp_path / "b.csv", Writing("^", "cp1252"))) == [{"id": "1", "text": "a^b"}]


def test_what_is_no_text_is_refused_whole(tmp_path: Path) -> None:
    files = {
        "a.csv": b"PK\x03\x04...",
        "a.txt": b"PAR1...",
        "b.csv": b"id,text,id\n1,a,1\n",
        "c.csv": b"id,text\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            list(named_inputs(tmp_path / name, images=False))


def test_archives_of_images_are_predicted_for(pictures: Path, tmp_path: Path) -> None:
    shades = np.array([10, 240, 30], np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (3, 8, 8, 3))
    np.savez(tmp_path / "new.npz", images=images, labels=np.array([0, 1, 0]))
    for number, shade in enumerate(shades):
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(tmp_path / f"{number}.png")
    packed = predict(pictures, tmp_path / "new.npz")
    single = predict(pictures, [tmp_path / f"{number}.png" for number in range(3)])
    assert [each.probabilities for each in packed] == [each.probabilities for each in single]


BROKEN = {
    "a.jsonl": ('{"text": "a"}\n{oops\n[1]\n{"txt": "a"}\n{"text": "a\\ud800"}\n"b"\n', [0, 1, 1, 1, 1, 0]),
    "a.csv": ("id,text\n0,a\n1,a,b\n2,c\n", [0, 1, 0]),
    "a.json": ('[{"text": "a"}, 5, "b"]', [0, 1, 0]),
    "a.txt": (b"good\nb\xe4d\ngood\0\nlast", [0, 1, 1, 0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_one_line_with_an_error(
    plain: Path, tmp_path: Path, name: str, command: Callable
) -> None:
    content, errors = BROKEN[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = command("predict", plain, "--file", tmp_path / name)
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [int("error" in record) for record in records] == errors
    assert done.code == 2


def test_a_folder_of_images_with_a_broken_one(pictures: Path, tmp_path: Path, command: Callable) -> None:
    folder = tmp_path / "new"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name, shade in (("a.png", 10), ("c.PNG", 240), (".ipynb_checkpoints/a.png", 1)):
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(folder / name, format="png")
    (folder / "b.png").write_bytes(b"no image")
    (folder / "d.txt").write_text("no image")
    done = command("predict", pictures, "--file", folder)
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["id"] for record in records] == ["a.png", "b.png", "c.PNG", "d.txt"]
    assert ["error" in record for record in records] == [False, True, False, True]
    assert set(records[0]["probabilities"]) == {"dark", "light"}
    assert sum(records[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert done.code == 2
    table = tmp_path / "list.csv"
    table.write_text(f"file,more\n{folder / 'a.png'},x\n{folder / 'missing.png'},y\n", encoding="utf-8")
    listed = list(predict(pictures, table))
    assert [isinstance(each, Failed) for each in listed] == [False, True]
    assert listed[0].probabilities == records[0]["probabilities"]


def test_probabilities_are_in_the_files_of_a_run(pictures: Path) -> None:
    for line in (pictures / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        known = record["probabilities"]
        assert max(known, key=known.__getitem__) == record["prediction"]
        assert record["nll"] == pytest.approx(-np.log(known[record["reference"]]), rel=1e-4)


def test_evaluate_writes_rows_by_their_ids(plain: Path, tmp_path: Path, command: Callable) -> None:
    done = command("evaluate", plain, "--predictions", tmp_path / "again.jsonl")
    assert done.code == 0, done.err
    before, again = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (plain / "predictions.jsonl", tmp_path / "again.jsonl")
    )
    assert [row["id"] for row in again] == [row["id"] for row in before]
    assert [row["prediction"] for row in again] == [row["prediction"] for row in before]


def test_many_classes_leave_the_most_probable() -> None:
    labels = [f"class {n}" for n in range(500)]
    found = probabilities(labels, torch.linspace(-9, 0, 500).log_softmax(0))
    assert list(found) == labels[400:]


def test_a_file_that_cannot_be_read_at_all(plain: Path, tmp_path: Path, command: Callable) -> None:
    (tmp_path / "a.json").write_text('{"text": "a"}')
    for name, words in (
        ("missing.txt", "no such file"),
        ("a.json", "Give a list of objects"),
        ("plain", "is a folder"),
    ):
        done = command("predict", plain, "--file", tmp_path / name)
        assert (done.code, done.out) == (2, "")
        assert words in done.err
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        list(named_inputs(tmp_path / "empty", images=True))


def test_what_is_no_text_in_an_argument_fails_alone(plain: Path, command: Callable) -> None:
    r"""Arguments that are not in UTF-8 hold halves of characters, of which a tokenizer makes nothing."""
    asked = [
        "1 of the ships",
        "caf\udce9",
        {"text": "\ud800"},
        {"text": {"a": "\ud800"}},
        None,
        float("nan"),
        ["a"],
    ]
    first, *others = predict(plain, asked)
    assert not isinstance(first, Failed)
    assert all(isinstance(other, Failed) for other in others)
    assert "not text in UTF-8" in others[0].error
    assert "half of a character" in others[2].error
    assert "it is a NoneType, not a text" in others[3].error
    done = command("predict", plain, "caf\udce9")
    assert done.code == 2
    assert "1 of 1 inputs could not be used" in done.err


def test_a_file_that_is_given_as_a_text_is_said(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the answer to the name of the file looks like that to what it holds."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\na\nb\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"'rows.csv' is taken as a text.*--file"):
        (found,) = predict(plain, ["rows.csv"])
    assert not isinstance(found, Failed)
    assert found.input == "rows.csv"
    assert len(list(predict(plain, Path("rows.csv")))) == 2
    assert len(list(predict(plain, ["other.csv", "a.b", "\0.c", "x" * 300 + ".csv"]))) == 4
