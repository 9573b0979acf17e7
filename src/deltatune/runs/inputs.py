"""What `predict` is given: a file of rows, a folder of images, lines of text. A broken row stays one row."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from deltatune.data.images import SUFFIXES, prediction_images
from deltatune.errors import DataError

Asked = str | Path | Mapping[str, Any] | DataError
"""An input: a text, an image file, a row's columns; or what is wrong with it."""

FORMATS = "JSON lines (.jsonl), JSON (.json), CSV or TSV with a header, or text, one input a line"
_DELIMITERS = ",;\t|"


def named_inputs(path: Path, *, images: bool) -> Iterator[tuple[str, Asked]]:
    """The inputs of a file, numbered from 0; or those of a folder of images, by their paths in it.

    Args:
        path: The file or folder.
        images: Whether the model reads images. A file may then be one as well.

    Raises:
        DataError: As for `read_inputs`.
    """
    if images and (path.is_dir() or path.suffix.lower() in SUFFIXES):
        yield from prediction_images(path)
        return
    for number, value in enumerate(read_inputs(path)):
        yield str(number), value


def read_inputs(path: Path) -> Iterator[Asked]:
    """Read inputs from a file, in the format that its suffix tells.

    Raises:
        DataError: Nothing of it can be read. What is wrong with a single row is yielded in its place.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            yield from _items(path)
        else:
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as handle:
                if suffix in (".csv", ".tsv"):
                    yield from _delimited(handle, "\t" if suffix == ".tsv" else None)
                elif suffix in (".jsonl", ".ndjson"):
                    yield from (_parsed(line) for line in lines(handle) if line != "")
                else:
                    yield from lines(handle)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            f"cannot read '{path}': {reason}.", field="--file", remedy=f"Give {FORMATS}."
        ) from error


def lines(handle: Iterable[str]) -> Iterator[str | DataError]:
    r"""Give lines of text. Only `\n` and `\r\n` end one: U+2028, form feeds and the like are a part of it."""
    for line in handle:
        text = line.removesuffix("\n").removesuffix("\r")
        yield _broken_text(text) or text


def _broken_text(text: str) -> DataError | None:
    """What is wrong with a text that was no text: bytes that are not UTF-8 (read as lone surrogates), NUL."""
    if text.isascii() and "\0" not in text:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return DataError("it is not text in UTF-8.", remedy="Save the file as UTF-8.")
    return (
        DataError("it holds NUL, and is no text.", remedy="Save the file as UTF-8.") if "\0" in text else None
    )


def _parsed(line: str | DataError) -> Asked:
    """A line of JSON: an object with the columns, or a text."""
    if isinstance(line, DataError):
        return line
    try:
        return _asked(json.loads(line))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "nested too deeply, or a number too long"
        return DataError(f"it is not valid JSON ({reason}).", remedy="Mend or remove the line.")


def _asked(value: Any) -> Asked:
    if isinstance(value, str):
        return _broken_text(value) or value
    if isinstance(value, dict):
        texts = [text for pair in value.items() for text in pair if isinstance(text, str)]
        return next((error for text in texts if (error := _broken_text(text))), value)
    return DataError(
        f"it is a JSON {type(value).__name__}, not a text or an object with columns.",
        remedy='Write "text" or {"column": "value", ...}.',
    )


def _items(path: Path) -> Iterator[Asked]:
    """The items of a JSON file that holds one list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{path}' is not valid JSON ({error}).", field="--file") from error
    if not isinstance(content, list):
        raise DataError(
            f"'{path}' holds a JSON {type(content).__name__}, not a list.",
            field="--file",
            remedy="Write [{...}, {...}], or JSON lines in a file .jsonl.",
        )
    yield from map(_asked, content)


def _delimited(handle: TextIO, delimiter: str | None) -> Iterator[Asked]:
    """The rows of a table with a header, by column."""
    first = handle.readline()
    handle.seek(0)
    if (error := _broken_text(first)) is not None:
        raise DataError(f"the header cannot be read: {error.what}", field="--file", remedy=error.remedy)
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(handle, delimiter=delimiter or max(_DELIMITERS, key=first.count), strict=True)
    header: list[str] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            yield DataError(f"line {reader.line_num} is not valid ({fault}).", remedy="Mend its quotes.")
            continue
        if not header:
            header = cells
        elif cells and len(cells) != len(header):
            yield DataError(
                f"line {reader.line_num} has {len(cells)} cells, and the header has {len(header)}.",
                remedy="Put quotes around cells that hold the delimiter.",
            )
        elif cells:
            yield _asked(dict(zip(header, cells, strict=True)))
