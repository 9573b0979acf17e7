"""Tagged texts in the forms that people have them in, each made a text, its words, and a tag for each.

| form | columns |
|---|---|
| words | a list of words (`tokens`, `words`) and a list of tags (`ner_tags`, `tags`, `labels`) |
| spans | a `text` and its `spans` (`entities`, `label`): `{start, end, label}` or `[start, end, label]` |

Lists may also stand as JSON in a text, as in CSV, or with blanks between words and between tags.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text
from deltatune.data.json_rows import check_content
from deltatune.data.messages import parsed
from deltatune.data.rows import Record, Row, Table, Words, each_row
from deltatune.data.spans import Span, span_of, tags_of
from deltatune.data.split_words import EDGES, SIGNS, joined, split_words, splitting_of
from deltatune.errors import DataError
from deltatune.recipe.sections import DataSpec

WORDS = ("tokens", "words")
"""Columns of words, the likeliest first."""
TAGS = ("ner_tags", "tags", "labels", "ner", "pos_tags", "upos", "chunk_tags", "target")
"""Columns of their tags."""
TEXTS = ("text", "sentence", "input")
SPANS = ("spans", "entities", "label", "labels", "target")
"""Columns of texts, and of what is in them."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the rows of a source write tags."""

    name: str
    """`words` or `spans`."""
    input: str
    target: str
    """Columns."""

    def __str__(self) -> str:
        return f"{self.name} (columns {self.input!r} and {self.target!r})"


def tagged_rows(records: Sequence[Record], table: Table, spec: DataSpec, notes: list[str]) -> list[Row]:
    """Make rows of records.

    Args:
        records: At least one.
        table: What they are of, which may say which columns are meant.
        spec: The recipe's data section.
        notes: Gets what a person should know.

    Raises:
        DataError: A row has no words or no tag for each, or its spans overlap or lie out of the text; how
            many there are is said.
    """
    form = find_form(records[0], table, spec)
    rows = each_row(records, lambda record, number: _row(record, form, spec.columns.id, number))
    widened = [row for row in rows if row.words is not None and row.words.widened]
    if widened:
        notes.append(
            f"{len(widened)} of {len(rows)} rows have spans that begin or end within a word, such as row "
            f"{widened[0].id}; the whole word counts as a part of the entity."
        )
    return rows


def splitting_of_rows(rows: Sequence[Row]) -> str:
    """How a text is split into words such as those of these rows; all are words where some rows are."""
    given = [row for row in rows if row.words is not None and row.words.given]
    words = (
        str(row.input)[start:end] for row in given if row.words is not None for start, end in row.words.places
    )
    return splitting_of(words) if given else SIGNS


def asked_words(
    value: str | Mapping[str, Any], spec: DataSpec, row_id: str, splitting: str | None = None
) -> Row:
    """Make a row of what is to be tagged: a text, or a row with `tokens` or a `text`.

    Args:
        value: The text or row.
        spec: The recipe's data section.
        row_id: The row's name.
        splitting: How a text is split into words; None, where that is not known: as CoNLL files are.

    Raises:
        DataError: There are no words.
    """
    where = f"input {row_id}"
    if isinstance(value, Mapping):
        name = next((name for name in word_columns(spec) if name in value), None)
        if name is None:
            raise DataError(
                f"has the columns {', '.join(map(repr, value))}, and none is known as words or a text.",
                field=where,
                remedy="Give tokens (a list of words) or text.",
            )
        cell = _listed(value[name])
        record = Record(where, {name: cell if isinstance(cell, list) else as_text(value[name])})
        check_content(record.columns, where)
        if isinstance(cell, list):
            text, places = joined(_words(cell, record, name))
            return Row(row_id, text, "", {}, words=Words(places))
        value = record.columns[name]
    text = str(value)
    places = tuple(split_words(text, splitting or EDGES))
    if not places:
        raise DataError("has no words.", field=where, remedy="Give a text.")
    return Row(row_id, text, "", {}, words=Words(places))


def word_columns(spec: DataSpec) -> tuple[str, ...]:
    """Columns of a row's words or text, the likeliest first."""
    return (spec.columns.input, *WORDS, *TEXTS)


def find_form(record: Record, table: Table, spec: DataSpec) -> Form:
    """Tell how a row writes its tags: by the columns that recipe or format name, or by those that it has.

    Raises:
        DataError: It writes none.
    """
    columns, named = record.columns, spec.columns
    inputs = [named.input] if named.input != "auto" else [table.input, *WORDS, *TEXTS]
    targets = [named.target] if named.target not in ("auto", None) else [table.target, *TAGS, *SPANS]
    for place in dict.fromkeys(inputs):
        for target in dict.fromkeys(targets):
            if place in columns and target in columns and place != target:
                texts = isinstance(columns[target], str) and not isinstance(_listed(columns[target]), list)
                words = texts or isinstance(_listed(columns[place]), list)
                return Form("words" if words else "spans", place, str(target))
    raise DataError(
        f"holds no tagged words; it has the columns {', '.join(map(repr, columns))}.",
        field=record.where,
        remedy="Give tokens and tags (a tag for each word), or text and spans ({start, end, label}); other "
        "columns are named by data.columns.input and data.columns.target, and a CoNLL file by "
        "data.format: conll.",
    )


def _row(record: Record, form: Form, id_column: str | None, number: str) -> Row:
    for name in (form.input, form.target):
        if name not in record.columns:
            raise DataError(
                f"has no column {name!r}, as the first row does.",
                field=record.where,
                remedy="Mend or remove it.",
            )
    widened = 0
    if form.name == "words":
        words = _words(record.columns[form.input], record, form.input)
        text, places = joined(words)
        tags = _tags(record.columns[form.target], words, record, form.target)
    else:
        text = as_text(record.columns[form.input])
        places = tuple(split_words(text))
        if not places:
            raise DataError("has an empty text.", field=record.where, remedy="Fill or remove it.")
        tags, widened = tags_of(text, places, _spans(text, record, form.target), record.where)
    check_content({"text": text, "tags": tags}, record.where)  # JSON in a cell may hold what a file cannot
    row_id = _row_id(record, id_column, number)
    others = {
        name: as_text(value)
        for name, value in record.columns.items()
        if isinstance(value, str | int | float) and name not in (form.input, form.target)
    }
    words_of_row = Words(places, tuple(tags), str(form), form.name == "words", widened)
    return Row(row_id, text, " ".join(tags), others, words=words_of_row)


def _row_id(record: Record, id_column: str | None, number: str) -> str:
    if id_column is None:
        return number
    if id_column not in record.columns:
        raise DataError(
            f"has no column {id_column!r}.", field=record.where, remedy="Set data.columns.id in the recipe."
        )
    return as_text(record.columns[id_column])


def _listed(cell: Any) -> Any:
    """A cell as a list, if it is one or writes one: in JSON, or as Python prints it."""
    value = parsed(cell)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return cell
    return list(value) if isinstance(value, tuple) else value


def _words(cell: Any, record: Record, name: str) -> list[str]:
    words = _listed(cell)
    words = words.split() if isinstance(words, str) else words
    where = f"{record.where}, column {name!r}"
    if not isinstance(words, list) or not all(isinstance(word, str | int | float) for word in words):
        raise DataError(
            f"holds no list of words but {as_text(cell)[:40]!r}.",
            field=where,
            remedy='Write ["Angela", "Merkel", "speaks"].',
        )
    if not words:
        raise DataError("holds no words.", field=where, remedy="Fill or remove the row.")
    return [as_text(word) for word in words]


def _tags(cell: Any, words: Sequence[str], record: Record, name: str) -> list[str]:
    tags = _listed(cell)
    tags = tags.split() if isinstance(tags, str) else tags
    where = f"{record.where}, column {name!r}"
    if not isinstance(tags, list) or any(isinstance(tag, list | dict) for tag in tags):
        raise DataError(
            f"holds no list of tags but {as_text(cell)[:40]!r}.",
            field=where,
            remedy='Write one for each word: ["B-PER", "I-PER", "O"].',
        )
    if len(tags) != len(words):
        raise DataError(
            f"holds {len(tags)} tags for {len(words)} words.",
            field=where,
            remedy="Give each word one tag, O where it is in no entity.",
        )
    for word, tag in zip(words, tags, strict=True):
        if isinstance(tag, bool) or not isinstance(tag, str | int) or not as_text(tag).strip():
            raise DataError(
                f"holds the tag {tag!r} for the word {word[:40]!r}.",
                field=where,
                remedy="Write a name, such as B-PER, or O where the word is in no entity.",
            )
    if all(isinstance(tag, int) or tag.isdecimal() for tag in tags):
        raise DataError(
            f"holds tags without names ({', '.join(map(str, tags[:6]))}{', ...' if tags[6:] else ''}), and "
            "which of them are entities is not known.",
            field=where,
            remedy="Write the names in their place (B-PER, I-PER, O), or take the data from the Hub or a "
            "datasets.Dataset whose tags have names.",
        )
    return ["_".join(as_text(tag).split()) for tag in tags]


def _spans(text: str, record: Record, name: str) -> list[Span]:
    where = f"{record.where}, column {name!r}"
    items = _listed(record.columns[name])
    items = [] if items is None or items == "" else items
    if not isinstance(items, list):
        raise DataError(
            f"holds no list of spans but {as_text(items)[:40]!r}.",
            field=where,
            remedy='Write [{"start": 0, "end": 6, "label": "PER"}], or [] where there is none.',
        )
    return [span_of(item, text, f"{where}, span {number}") for number, item in enumerate(items, start=1)]
