from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.data import flatten_table
from deltatune.data.readers import read_csv
from deltatune.data.tables import LISTS, TABLES, parse_delimited, parse_rows_apart
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


PROSE = ["The film, which was long, bored us", "I said no", "Great!", "Prices rose by 1,5 %"]


def lines(header: str, *rows: str) -> str:
    return "\n".join((header, *rows)) + "\n"


@pytest.mark.parametrize(
    ("text", "header", "first"),
    [
        (
            "name#born, in#cost\nA, B#1990#3,5\nC#1991, Rome#4\n",
            ["name", "born, in", "cost"],
            ["A, B", "1990", "3,5"],
        ),
        ("a,b\n1,2\n", ["a", "b"], ["1", "2"]),
        ("a\tb\n1, 2\t3\n", ["a", "b"], ["1, 2", "3"]),
        ("a;b;c\n1,5;2,5;3,5\n", ["a", "b", "c"], ["1,5", "2,5", "3,5"]),
        ('a,b\n"1,2#3",4\n', ["a", "b"], ["1,2#3", "4"]),
        ("a|b\n1|2\n", ["a", "b"], ["1", "2"]),
        ("all\n1, 2\n2\n", ["all"], ["1, 2"]),
    ],
)
def test_delimiters_of_a_folder_of_tables(text: str, header: list[str], first: list[str]) -> None:
    names, rows = parse_delimited(text, TABLES, "t.csv")
    assert (names, rows[0][1]) == (header, first)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_of_a_csv_file_among_prose(delimiter: str) -> None:
    quoted = [f'"{text}"' if delimiter in text else text for text in PROSE]
    text = lines(f"input{delimiter}target", *(f"{cell}{delimiter}pos" for cell in quoted))
    names, rows = parse_delimited(text, LISTS, "a.csv")
    assert names == ["input", "target"]
    assert [cells[0] for _, cells in rows] == PROSE


def test_a_column_of_sentences_has_no_delimiter() -> None:
    names, rows = parse_delimited(lines("text", *PROSE[1:3]), LISTS, "a.csv")
    assert (names, [cells for _, cells in rows]) == (["text"], [["I said no"], ["Great!"]])


def test_the_line_by_which_spreadsheets_tell_the_delimiter() -> None:
    names, rows = parse_delimited("sep=;\r\na,b;c\r\n1,2;3\r\n", LISTS, "a.csv")
    assert (names, rows) == (["a,b", "c"], [(3, ["1,2", "3"])])


def test_a_faulty_row_is_named_with_the_delimiter() -> None:
    with pytest.raises(DataError, match=r"line 3: has 1 cells.*2 columns, by the delimiter ';'.*delimiter"):
        parse_delimited("a;b\n1,5;2\nx\n", LISTS, "a.csv")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        # letters: a title in quotes, a quote that opens and one that closes in another row
        ('t\tl\n"Hello there\tpos\nworld"\tneg\n', [['"Hello there', "pos"], ['world"', "neg"]]),
        ('t\tl\n"Yesterday"\tsong\nplain\tx\n', [['"Yesterday"', "song"], ["plain", "x"]]),
        ('t\tl\n"Hi" he said\tpos\n', [['"Hi" he said', "pos"]]),
        # enclosing: as spreadsheets write cells with quotes, tabs or line breaks, or programs every cell
        ('t\tl\n"He said ""hi"""\tpos\nplain\tneg\n', [['He said "hi"', "pos"], ["plain", "neg"]]),
        ('t\tl\n"a\tb"\tpos\n', [["a\tb", "pos"]]),
        ('t\tl\n"a\nb"\tpos\n', [["a\nb", "pos"]]),
        ('"t"\t"l"\n"a"\t"pos"\n"b"\t"neg"\n', [["a", "pos"], ["b", "neg"]]),
    ],
)
def test_quotes_between_tabs_are_letters_unless_the_rows_tell(text: str, rows: list[list[str]]) -> None:
    assert [cells for _, cells in parse_delimited(text, "\t", "a.tsv")[1]] == rows


def test_twenty_thousand_columns_take_no_time() -> None:
    text = ",".join(f"c{number}" for number in range(20_000)) + "\n" + "," * 19_999 + "\n"
    start = time.perf_counter()
    names, _ = parse_delimited(text, LISTS, "wide.csv")
    assert len(names) == 20_000
    assert time.perf_counter() - start < 2, "counting each name among all took eleven seconds"


def test_delimited_text_keeps_line_numbers_and_quoted_breaks() -> None:
    header, rows = parse_delimited('a,b\n\n"1\n2",3\n4,5\n', ",", "x.csv")
    assert header == ["a", "b"]
    assert rows == [(4, ["1\n2", "3"]), (5, ["4", "5"])]


def test_rows_of_blank_cells_are_what_a_spreadsheet_leaves(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;title\r\na;b\r\n;\r\n ; \r\n", encoding="utf-8")
    assert [record.columns for record in read_csv(str(tmp_path / "a.csv")).parts["all"]] == [
        {"text": "a", "title": "b"}
    ]


@pytest.mark.parametrize(
    "text",
    [
        '"sep=;"\ntext;title\na, b;c\n',
        '"text", "title"\n"a, b", "c"\n',
        'text, "title"\n"a, b", "c"\n',
    ],
)
def test_ways_of_writing_a_table(text: str) -> None:
    header, rows = parse_delimited(text, LISTS, "a.csv")
    assert header == ["text", "title"]
    assert [cells for _, cells in rows] == [["a, b", "c"]]


def test_spaces_stay_where_no_quotes_follow_them() -> None:
    assert parse_delimited("a,b\n1, 2\n", LISTS, "a.csv")[1] == [(2, ["1", " 2"])]


def test_faults_stand_in_the_places_of_their_rows() -> None:
    rows = list(parse_rows_apart('a;b\n1;2\n3\n"x"y;4\n5;6\n', LISTS, "a.csv"))
    assert [isinstance(row, DataError) for row in rows] == [False, True, True, False]
    assert rows[3] == {"a": "5", "b": "6"}
