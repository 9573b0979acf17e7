"""Rows in memory become a file of the cache that a recipe can name."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltatune import cache
from deltatune.data.memory import is_rows, keep_rows
from deltatune.errors import DataError

ROWS = [{"text": "good \u2028 film", "label": 1}, {"text": "bad", "label": 0}]

ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path))


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_list_is_kept_once_by_its_content() -> None:
    path = keep_rows(ROWS)
    assert read(path) == ROWS
    before = path.stat().st_mtime_ns
    assert keep_rows(iter(ROWS)) == path
    assert path.stat().st_mtime_ns == before
    assert keep_rows(ROWS[:1]) != path


def test_frames_and_data_sets_give_the_same_rows() -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    path = keep_rows(ROWS)
    assert keep_rows(pandas.DataFrame(ROWS)) == path
    assert keep_rows(datasets.Dataset.from_list(ROWS)) == path


def test_frames_with_two_columns_of_one_name() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="the column 'text' twice"):
        keep_rows(pandas.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_what_somebody_changed_in_the_cache_is_not_taken_for_the_rows() -> None:
    path = keep_rows(ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"good", b"evil"))
    assert keep_rows(ROWS) == path
    assert path.read_bytes() == whole


def test_polars_frames() -> None:
    class Frame:  # what is asked of one
        def to_dicts(self) -> list[dict[str, Any]]:
            return ROWS

    assert keep_rows(Frame()) == keep_rows(ROWS)


def test_values_are_those_of_json() -> None:
    row = {
        "number": np.float32(0.5), "count": np.int64(3), "list": np.array([1, 2]), "missing": float("nan"),
        "day": datetime.date(2026, 11, 29), "nested": ({"a": np.bool_(True)},),
        "time": np.datetime64("2026-11-29T12:00", "ns"), "no time": np.datetime64("NaT", "ns"),
    }  # fmt: skip
    plain = {"number": 0.5, "count": 3, "list": [1, 2], "missing": None}
    plain |= {"day": "2026-11-29", "nested": [{"a": True}]}
    [kept] = read(keep_rows([row]))
    assert kept == {**plain, "time": "2026-11-29T12:00:00.000000000", "no time": None}


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["data: holds no rows"]),
        (3, ["data: is a int, not rows"]),
        (["text"], ["data, row 0", "str", "mapping"]),
        ([{"a": 1}, {"b": np.zeros((2, 2))}], ["data, row 1, column b", "ndarray", "images need files"]),
        ([{"a": b"x"}], ["data, row 0, column a", "bytes"]),
        ([{"a": 1, 1: "x", "1": "y"}], ["data, row 0", "the column '1' twice"]),
        ([{"a": {1: "x", "1": "y"}}], ["data, row 0, column a", "the column '1' twice"]),
        ([{"a": 10**5000}], ["data, row 0", "cannot be written as JSON"]),
        ([{"a": ITSELF}], ["data, row 0", "cannot be written as JSON"]),
    ],
)  # fmt: skip
def test_what_are_no_rows_is_named(rows: Any, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        keep_rows(rows)
    for part in parts:
        assert part in str(caught.value)


def test_names_of_files_and_sections_are_no_rows() -> None:
    assert is_rows(ROWS)
    assert not any(map(is_rows, ["rows.csv", Path("rows.csv"), {"source": "rows.csv"}, None, 3]))


def test_the_cache_command_knows_them() -> None:
    path = keep_rows(ROWS)
    assert [(entry.name, entry.bytes) for entry in cache.entries()] == [(path.name, path.stat().st_size)]
    cache.clear(path.name)
    assert not path.exists()
