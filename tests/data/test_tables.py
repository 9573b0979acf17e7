from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.data import flatten_table
from deltatune.data.tables import parse_delimited, sniff_delimiter
from deltatune.errors import DataError

NAMES = st.lists(st.text("abcxyz ", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=4)
CELLS = st.text("abc 019$.", max_size=8)


def test_tables_are_written_as_in_the_study() -> None:
    header, rows = ["Country", "Cost"], [["Russia", "42$"], ["Spain", "7$"]]
    text = "0 Country: Russia, Cost: 42$, 1 Country: Spain, Cost: 7$,"
    assert flatten_table(header, rows) == text
    assert flatten_table(header, rows, max_rows=1) == "0 Country: Russia, Cost: 42$,"
    assert flatten_table(header, []) == ""
    assert flatten_table(["a\nb"], [["x \t y"]]) == "0 a b: x y,"


@given(st.data(), NAMES, st.integers(0, 5))
def test_every_cell_is_there_in_its_place(data: st.DataObject, names: list[str], count: int) -> None:
    rows = [[data.draw(CELLS) for _ in names] for _ in range(count)]
    text = flatten_table(names, rows)
    cells = [(name, cell) for row in rows for name, cell in zip(names, row, strict=True)]
    expected = [f"{' '.join(name.split())}: {' '.join(cell.split())}" for name, cell in cells]
    pieces = text.removesuffix(",").split(", ") if rows else []
    found = [
        re.sub(r"^\d+ ", "", piece) if index % len(names) == 0 else piece
        for index, piece in enumerate(pieces)
    ]
    assert found == expected
    assert "\n" not in text


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(DataError, match="table row 1: has 1 cells, but the header has 2"):
        flatten_table(["a", "b"], [["1", "2"], ["3"]])


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("name#born, in#cost\nA, B#1990#3,5\nC#1991, Rome#4\n", "#"),
        ("a,b\n1,2\n", ","),
        ("a\tb\n1, 2\t3\n", "\t"),
        ("a;b;c\n1,5;2,5;3,5\n", ";"),
        ('a,b\n"1,2#3",4\n', ","),
        ("a|b\n1|2\n", "|"),
        ("one, all\n1\n2\n", ","),
        ("a#b#c\n1#2\n", "#"),
    ],
)
def test_delimiters_are_found(text: str, delimiter: str) -> None:
    assert sniff_delimiter(text) == delimiter


def test_delimited_text_keeps_line_numbers_and_quoted_breaks() -> None:
    header, rows = parse_delimited('a,b\n\n"1\n2",3\n4,5\n', ",", "x.csv")
    assert header == ["a", "b"]
    assert rows == [(4, ["1\n2", "3"]), (5, ["4", "5"])]
