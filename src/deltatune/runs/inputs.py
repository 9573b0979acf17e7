"""What `predict` is given: a file of rows, a folder of images, lines of text. A broken row stays one row.

Files are read by the readers of training data: what could be trained on can be predicted for.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltatune.data.files import check_file, read_text
from deltatune.data.images import SUFFIXES, prediction_images
from deltatune.data.json_rows import check_content, parse_items
from deltatune.data.readers import PLAIN, Writing, find_format, read_source
from deltatune.data.tables import LISTS, parse_rows_apart
from deltatune.errors import DataError
from deltatune.recipe.formats import format_by_name

Asked = str | Path | Mapping[str, Any] | DataError
"""An input: a text, an image file, a row's columns; or what is wrong with it."""


def named_inputs(path: Path, *, images: bool, writing: Writing = PLAIN) -> Iterator[tuple[str, Asked]]:
    """The inputs of a file, numbered from 0; or those of a folder of images, by their paths in it.

    Args:
        path: The file or folder.
        images: Whether the model reads images. A file may then be one as well.
        writing: As of `read_inputs`.

    Raises:
        DataError: As for `read_inputs`.
    """
    if images and (path.is_dir() or path.suffix.lower() in SUFFIXES):
        yield from prediction_images(path)
        return
    number = -1
    for number, value in enumerate(read_inputs(path, writing)):
        yield str(number), value
    if number < 0:
        raise DataError("holds no rows.", field=str(path), remedy="Give a file with at least one row.")


def read_inputs(path: Path, writing: Writing = PLAIN) -> Iterator[Asked]:
    """Read inputs from a file, in the format that its suffix tells; without one, each line is a text.

    Args:
        path: The file; or a folder of tables with its index.
        writing: How the training data were written. The delimiter and the encoding are tried as well: a file
            may be written alike or not.

    Raises:
        DataError: Nothing of it can be read. What is wrong with a single row is yielded in its place.
    """
    kind = "table-folder" if path.is_dir() else format_by_name(path.name)
    if kind in ("parquet", "npz", "table-folder"):
        if kind == "table-folder" and find_format(str(path), "auto") != kind:
            check_file(path)
        for records in read_source(str(path), kind, writing).parts.values():
            yield from (record.columns for record in records)
        return
    if kind == "conll":
        table = read_source(str(path), kind, writing)
        yield from ({"tokens": record.columns[table.input]} for record in table.parts["all"])
        return
    otherwise = () if writing.encoding is None else (writing.encoding,)
    text = read_text(path, otherwise=otherwise, errors="surrogateescape")
    if kind in ("csv", "tsv"):
        known = "\t" if kind == "tsv" else LISTS
        candidates = "".join(dict.fromkeys((writing.delimiter or "") + known))
        _check_header(text, path)
        yield from map(checked, parse_rows_apart(text, candidates, path.name))
    elif kind in ("json", "jsonl"):
        yield from map(checked, parse_items(text, path.name, lines=kind == "jsonl"))
    else:
        yield from lines(io.StringIO(text, newline="\n"))


def _check_header(text: str, path: Path) -> None:
    """Names of columns that are no text would be missed by every row."""
    if (error := _broken_text(text.partition("\n")[0])) is not None:
        raise DataError(f"the header cannot be read: {error.what}", field=str(path), remedy=error.remedy)


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


def checked(value: Any, *, images: bool = False) -> Asked:
    """An input as it is, or what is wrong with it.

    Args:
        value: A text, a row's columns, or an error; anything else is none of these.
        images: Whether texts are names of image files, which may hold what no text does.
    """
    if isinstance(value, DataError | Path) or (images and isinstance(value, str)):
        return value
    if isinstance(value, str):
        return _broken_text(value) or value
    if isinstance(value, Mapping):
        value = dict(value)
        texts = [text for pair in value.items() for text in pair if isinstance(text, str)]
        if broken := next((error for text in texts if (error := _broken_text(text))), None):
            return broken
        try:
            check_content(value, "the row")
        except DataError as error:
            return error
        return value
    return DataError(
        f"it is a {type(value).__name__}, not a text or an object with columns.",
        remedy='Write "text" or {"column": "value", ...}.',
    )
