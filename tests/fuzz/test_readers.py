"""Whatever a file of rows holds, its rows are read, or it is a `DataError` that says why."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deltatune.data.checks import check_rows
from deltatune.data.load import load_data
from deltatune.data.readers import read_source
from deltatune.errors import DeltatuneError
from deltatune.recipe.sections import DataSpec
from deltatune.runs.inputs import named_inputs
from tests.fuzz import mutations

pytestmark = pytest.mark.timeout(300)
ROWS = [
    {
        "input": f"{i} of the \u00e9toiles, \u201cquoted\u201d and {i / 3:.2f}",
        "target": f"label {i % 3}",
        "id": i,
    }
    for i in range(12)
]
PIECES = (
    '"',
    "'",
    ",",
    ";",
    "\t",
    "|",
    "\r",
    "\n",
    "\x00",
    "\u2028",
    "\x0c",
    "{",
    "}",
    "[",
    "]",
    ":",
    "\\u",
    "NaN",
    "1e999",
)


def delimited(delimiter: str) -> bytes:
    lines = [
        ["input", "target", "id"],
        *([f'"{row["input"]}"', row["target"], str(row["id"])] for row in ROWS),
    ]
    return "\n".join(delimiter.join(map(str, line)) for line in lines).encode()


def archive() -> bytes:
    buffer = io.BytesIO()
    images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
    np.savez_compressed(buffer, train_images=images, train_labels=np.arange(12) % 2)
    return buffer.getvalue()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    return buffer.getvalue()


LINES = "\n".join(json.dumps(row) for row in ROWS).encode()
FILES: dict[str, bytes] = {
    "rows.csv": delimited(","),
    "rows.tsv": delimited("\t"),
    "semicolons.csv": delimited(";"),
    "rows.jsonl": LINES,
    "rows.json": json.dumps(ROWS).encode(),
    "columns.json": json.dumps({"data": ROWS}).encode(),
    "utf16.csv": delimited(",").decode().encode("utf-16"),
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.jsonl.bz2": bz2.compress(LINES),
    "rows.jsonl.xz": lzma.compress(LINES),
    "rows.txt": LINES,
    "rows.npz": archive(),
    "folder/a/1.png": picture("PNG"),
    "folder/a/1.jpg": picture("JPEG"),
    "folder/a/1": picture("BMP"),
}


@pytest.fixture(scope="module")
def parquet() -> dict[str, bytes]:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    buffer = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    return {"rows.parquet": buffer.getvalue()}


def write(files: dict[str, bytes], folder: Path, seed: int) -> Path:
    chance = random.Random(seed)
    name = chance.choice(sorted(files))
    content = files[name]
    if (
        name.endswith((".csv", ".tsv", ".jsonl", ".json", ".txt"))
        and chance.random() < 0.6
        and "utf16" not in name
    ):
        mutated = mutations.text(content.decode(), chance, PIECES).encode(errors="surrogatepass")
    else:
        mutated = mutations.raw(content, chance)
    if chance.random() < 0.1:
        name = chance.choice(sorted(files))  # another's name: `.npy` renamed, a picture that is a table
    path = folder / f"{seed % 50}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutated)
    return path


def read(path: Path) -> bool:
    """Whether the rows are read; as data of a recipe, and as inputs of a prediction."""
    images = "folder" in path.parts or path.suffix == ".npz"
    source = path.parent.parent if "folder" in path.parts else path
    try:
        for _ in named_inputs(source, images=images):
            pass
    except DeltatuneError:
        pass
    try:
        read_source(str(source))
        task = "image-classification" if images else "text-to-text"
        spec = DataSpec.model_validate({"source": str(source), "split": {"validation": 0, "test": 0}})
        data = load_data(spec, task)
        check_rows(data.train, data.validation, data.test)
    except DeltatuneError as error:
        if len(str(error)) > 20_000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return False
    return True


def test_unaltered_files_are_read(parquet: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in (FILES | parquet).items():
        if "folder" in name or name in ("rows.npz", "rows.txt"):
            continue
        path = tmp_path / name
        path.write_bytes(content)
        assert read(path), name


def test_mutated_files_are_read_or_refused(parquet: dict[str, bytes], tmp_path: Path) -> None:
    outcomes = [read(write(FILES | parquet, tmp_path, seed)) for seed in range(400)]
    assert any(outcomes)
    assert not all(outcomes)


def test_archives_within_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as outer:
        outer.writestr("train_images.npy", archive())
    assert not read(tmp_path / "rows.npz")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 26))
@pytest.mark.timeout(3600)
def test_many_mutated_files_are_read_or_refused(
    parquet: dict[str, bytes], tmp_path: Path, block: int
) -> None:
    for seed in range(block * 2_000, (block + 1) * 2_000):
        read(write(FILES | parquet, tmp_path, seed))
