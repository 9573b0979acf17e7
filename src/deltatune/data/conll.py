"""CoNLL files: a word a line with its tags in columns, and a blank line behind each sentence.

Columns are separated by tabs, or where the first word's line has none by blanks. The last one is the tag, of
CoNLL-U the fourth. `-DOCSTART-` lines and comments are no words. A line that begins with `#` is a comment
where a sentence begins, unless it has a tag that other lines have: a hashtag may be a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltatune.data.files import read_text
from deltatune.data.readers import PLAIN, Writing
from deltatune.data.rows import Record, Table
from deltatune.errors import DataError

DOCUMENT = "-DOCSTART-"
LONGEST = 1000
"""Words of a file that is one sentence, beyond which the blank lines must be missing."""
_BLANKS = re.compile(r"[ \t]+")
_NAMES = "# global.columns ="
_CONLL_U = 10
"""Columns of CoNLL-U."""
_NUMBER = re.compile(r"\d+(-\d+|\.\d+)?")
_NO_WORD = re.compile(r"\d+(-\d+|\.\d+)")
"""What CoNLL-U numbers words that are written as one by, and words that are not written."""


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    cells: list[str]


def read_conll(source: str, writing: Writing = PLAIN) -> Table:
    """Read a CoNLL file: a row for each sentence, whose columns are lists, named "1", "2" and so on.

    Raises:
        DataError: A line has other columns than the first, a word is missing, or there are no sentences.
    """
    path = Path(source)
    text = read_text(path, writing.encoding)
    sentences = list(_sentences(text, writing.delimiter))
    if not sentences:
        raise DataError("holds no words.", field=path.name, remedy="Give a file with one word per line.")
    width = len(sentences[0][0].cells)
    _require_columns(sentences, width, path.name)
    names = _names(text, width) or [str(number) for number in range(1, width + 1)]
    is_conll_u = width == _CONLL_U and all(_NUMBER.fullmatch(line.cells[0]) for line in sentences[0])
    if is_conll_u:
        sentences = [[line for line in lines if not _NO_WORD.fullmatch(line.cells[0])] for lines in sentences]
    word, tag = (1, 3) if is_conll_u else (0, width - 1)
    records = [
        Record(
            f"{path.name}, line {lines[0].number}",
            {name: [line.cells[place] for line in lines] for place, name in enumerate(names)},
        )
        for lines in sentences
        if lines
    ]
    if len(records) == 1 and len(sentences[0]) > LONGEST:
        raise DataError(
            f"is one sentence of {len(sentences[0]):,} words, without a blank line.",
            field=path.name,
            remedy="Write a blank line behind each sentence.",
        )
    return Table({"all": records}, input=names[word], target=names[tag])


def _sentences(text: str, delimiter: str | None) -> Iterator[list[_Line]]:
    """The lines of each sentence, without comments and document marks."""
    lines = [_Line(number, [line.removesuffix("\r")]) for number, line in enumerate(text.split("\n"), 1)]
    first = next((each.cells[0] for each in lines if _may_be_word(each.cells[0])), "")
    separator = delimiter or ("\t" if "\t" in first.strip(" \t") else None)
    split = [
        _Line(line.number, _cells(line.cells[0], separator) if line.cells[0].strip(" \t") else [])
        for line in lines
    ]
    known = {(len(line.cells), line.cells[-1]) for line in split if line.cells and line.cells[0][:1] != "#"}
    sentence: list[_Line] = []
    for line in split:
        if not line.cells:
            if sentence:
                yield sentence
            sentence = []
        elif line.cells[0] == DOCUMENT or _is_comment(line, sentence, known):
            continue
        else:
            sentence.append(line)
    if sentence:
        yield sentence


def _may_be_word(line: str) -> bool:
    return bool(line.strip(" \t")) and not line.startswith(("#", DOCUMENT))


def _cells(line: str, separator: str | None) -> list[str]:
    cells = line.split(separator) if separator else _BLANKS.split(line.strip(" \t"))
    return [cell.strip(" ") for cell in cells]


def _is_comment(line: _Line, sentence: Sequence[_Line], known: set[tuple[int, str]]) -> bool:
    return line.cells[0].startswith("#") and not sentence and (len(line.cells), line.cells[-1]) not in known


def _require_columns(sentences: Sequence[Sequence[_Line]], width: int, name: str) -> None:
    """Refuse lines that are no word with as many columns as the first.

    Raises:
        DataError: There is one.
    """
    first = sentences[0][0]
    if width == 1:
        raise DataError(
            f"has one column: {first.cells[0][:40]!r}.",
            field=f"{name}, line {first.number}",
            remedy="Write a word and its tag in each line, with a tab between them; or set data.format if "
            "the file is of another kind.",
        )
    if first.cells[0].startswith("{"):
        raise DataError("is JSON.", field=f"{name}, line {first.number}", remedy="Set data.format to jsonl.")
    for line in (line for lines in sentences for line in lines):
        if len(line.cells) != width:
            columns = "column" if len(line.cells) == 1 else "columns"
            raise DataError(
                f"has {len(line.cells)} {columns}, and line {first.number} has {width}.",
                field=f"{name}, line {line.number}",
                remedy="Give each line a word and its tags, and end sentences with a blank line; words that "
                "have blanks need tabs between the columns.",
            )
        if not line.cells[0]:
            raise DataError(
                "has no word.", field=f"{name}, line {line.number}", remedy="Fill or remove the line."
            )
        if not line.cells[-1].strip():
            raise DataError(
                f"has no tag for the word {line.cells[0]!r}.",
                field=f"{name}, line {line.number}",
                remedy="Write O where a word is in no entity.",
            )


def _names(text: str, width: int) -> list[str]:
    """The columns' names that CoNLL-U Plus has in its first line, if it is that."""
    first = text.partition("\n")[0]
    names = first.removeprefix(_NAMES).split() if first.startswith(_NAMES) else []
    return names if len(names) == width and len(set(names)) == width else []
