"""Files as people have them: packed, in other encodings, in other shapes of JSON, and no files at all."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.data import files, read_source
from deltatune.data.readers import Writing
from deltatune.errors import DataError
from deltatune.recipe.formats import format_by_name

ROWS = [{"input": f"q{number}", "target": f"a{number}"} for number in range(4)]
LINES = "\n".join(map(json.dumps, ROWS))


def columns(path: Path, writing: Writing | None = None, part: str = "all") -> list[dict[str, Any]]:
    return [record.columns for record in read_source(str(path), writing=writing or Writing()).parts[part]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("one.json", json.dumps(ROWS)),
        ("array.jsonl", json.dumps(ROWS, indent=1)),
        ("array1.jsonl", json.dumps(ROWS)),
        ("under.json", json.dumps({"data": ROWS})),
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("windows.jsonl", "\ufeff" + "\r\n".join(map(json.dumps, ROWS))),
        ("blank.jsonl", "\n\n" + LINES.replace("\n", "\n\n")),
    ],
)
def test_json_is_read_in_every_shape_whatever_the_suffix(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert columns(tmp_path / name) == ROWS


def test_parts_in_json_by_their_usual_names(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": ROWS, "dev": ROWS[:1]}))
    assert columns(tmp_path / "a.json", part="validation") == ROWS[:1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input": "x", "target": "1", "target": "0"}', "key 'target' twice"),
        ("{" + "".join(f'"{i}": 1, ' for i in range(60_000)) + '"59999": 2}', "key '59999' twice"),
        ('{"input": ' + "9" * 5000 + "}", "number of too many digits"),
        ('{"input": ' + "[" * 500 + "]" * 500 + "}", "nested too deeply"),
        ('{"input": ' + "[" * 100_000 + "}", "nested too deeply|not valid JSON"),
        ('{"input": "x"} trailing', "Extra data at column 15"),
    ],
)
def test_json_that_is_refused_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{LINES}\n{line}\n")
    with pytest.raises(DataError, match=f"a.jsonl, line 5.*({message})"):
        read_source(str(path))


def test_nan_in_json_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"input": "x", "n": NaN}')
    assert columns(tmp_path / "a.jsonl") == [{"input": "x", "n": None}]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "packed_all_the_same.jsonl"])
def test_packed_files_are_unpacked(tmp_path: Path, name: str) -> None:
    pack = {".bz2": bz2.compress, ".xz": lzma.compress}.get(Path(name).suffix, gzip.compress)
    (tmp_path / name).write_bytes(pack(LINES.encode()))
    assert columns(tmp_path / name) == ROWS


def test_zstandard_needs_arrow_only(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "a.csv.zst").write_bytes(pyarrow.compress(b"input,target\na,b\n", "zstd", asbytes=True))
    assert columns(tmp_path / "a.csv.zst") == [{"input": "a", "target": "b"}]


def test_the_suffix_before_that_of_a_packed_file_tells_the_format() -> None:
    assert format_by_name("x/A.CSV.gz") == "csv"
    assert format_by_name("a.gz") == "auto"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_UNPACKED", 1 << 20)
    for name, pack in {"a.gz": gzip.compress, "a.bz2": bz2.compress, "a.xz": lzma.compress}.items():
        (tmp_path / name).write_bytes(pack(bytes(16 << 20)))
        with pytest.raises(DataError, match=r"unpacks to more than.*unpack it yourself"):
            files.read_bytes(tmp_path / name)
    (tmp_path / "small.gz").write_bytes(gzip.compress(os.urandom(3 << 20)))
    assert len(files.read_bytes(tmp_path / "small.gz")) == 3 << 20, "what packs badly is no bomb"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_damaged_packed_file_is_one_error(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(os.urandom(2000))
    for content in (whole[:-20], whole[:30], whole[:40] + b"\xff\xff" + whole[42:], whole[:6]):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.csv"):
            read_source(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("input,target\nnaïve,b\n".encode(encoding))
    assert columns(tmp_path / "a.csv") == [{"input": "naïve", "target": "b"}]


def test_other_encodings_are_asked_for_by_name_and_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("input,target\nnaïve,b\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"UTF-8: line 2.*0xef, in cp1252 'ï'.*data\.encoding"):
        read_source(str(path))
    assert columns(path, Writing(encoding="cp1252")) == [{"input": "naïve", "target": "b"}]
    path.write_bytes("input,target\nx,b\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"zero byte beside each letter.*utf-16-le"):
        read_source(str(path))
    assert columns(path, Writing(encoding="utf-16-le")) == [{"input": "x", "target": "b"}]
    path.write_text("input,target\nnaïve,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="not text in ASCII"):
        read_source(str(path), writing=Writing(encoding="ascii"))


def test_a_delimiter_that_is_declared_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("input;a,target;b\n1;2,3;4\n")
    assert list(columns(tmp_path / "a.csv")[0]) == ["input", "a,target", "b"]
    assert list(columns(tmp_path / "a.csv", Writing(delimiter=","))[0]) == ["input;a", "target;b"]


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    for content, what in ((b"PK\x03\x04rest", "zip archive or a spreadsheet"), (b"PAR1....PAR1", "Parquet")):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DataError, match=what):
            read_source(str(tmp_path / "a.csv"))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    os.symlink(tmp_path / "loop.csv", tmp_path / "loop.csv")
    for source in (tmp_path / "pipe.csv", tmp_path / "pipe.parquet", tmp_path / "loop.csv", tmp_path):
        with pytest.raises(DataError):
            read_source(str(source), "parquet" if source.suffix == ".parquet" else "csv")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_source("/dev/zero", "csv")


@pytest.mark.parametrize(
    "name", ["a\0b.csv", "a\0b", "n" * 300, "n" * 300 + ".csv", "d" * 300 + "/a.parquet"]
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        read_source(f"{tmp_path}/{name}")
    (tmp_path / "index.jsonl").write_text(json.dumps({"file": name, "title": "x"}))
    with pytest.raises(DataError):
        read_source(str(tmp_path), "table-folder")


def test_an_index_may_have_parts(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "index.json").write_text(json.dumps({"train": [{"file": "1.csv", "title": "x"}]}))
    table = read_source(str(tmp_path / "index.json"), "table-folder")
    assert [record.columns["table"] for record in table.parts["train"]] == ["0 a: 1,"]


class TestParquet:
    @pytest.fixture(autouse=True)
    def arrow(self) -> Any:
        return pytest.importorskip("pyarrow")

    def write(self, path: Path, columns: dict[str, Any]) -> Path:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)
        return path

    def test_whole_numbers_beside_gaps_stay_whole(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path / "a.parquet", {"year": [2001, None, 2**53 + 1], "share": [0.5, None, 1.0]}
        )
        assert columns(path) == [
            {"year": 2001, "share": 0.5},
            {"year": None, "share": None},
            {"year": 2**53 + 1, "share": 1.0},
        ]

    def test_a_name_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["x", "x"])
        parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match="'x' twice"):
            read_source(str(tmp_path / "a.parquet"))

    def test_a_bomb_is_not_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MOST_UNPACKED", 1 << 20)
        path = self.write(tmp_path / "a.parquet", {"x": ["y" * 10_000] * 5000})
        with pytest.raises(DataError, match="unpacks to more than"):
            read_source(str(path))

    def test_damage_is_one_error(self, tmp_path: Path) -> None:
        whole = self.write(tmp_path / "a.parquet", {"x": ["a", "b"] * 10}).read_bytes()
        for place in range(4, len(whole), 7):
            (tmp_path / "b.parquet").write_bytes(whole[:place] + b"\xff\x00\xff" + whole[place + 3 :])
            try:
                read_source(str(tmp_path / "b.parquet"))
            except DataError:
                continue
