"""General text, on which forgetting is measured: what comes along, or a file.

`general_texts.json` was written for this package and is in the public domain (CC0 1.0): short texts of many
kinds, of what a model of language has surely seen the like. There are few of them and they are no benchmark:
they tell that a model has drifted, not what it still knows.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from deltatune.data.files import read_text
from deltatune.data.readers import read_source
from deltatune.data.rows import Record
from deltatune.errors import DataError
from deltatune.files import text_sha256
from deltatune.recipe.formats import format_by_name
from deltatune.recipe.sections import BUNDLED_TEXT

COLUMN = "text"
"""Of files with rows."""
PARTS = ("test", "validation", "all", "train")
"""Of a source with parts of its own, the first that it has."""
FIELD = "evaluation.general"
FORM = "Give a text file in UTF-8 with blank lines between documents, or rows with a column 'text'."
_TEXTS = "general_texts.json"


@dataclass(frozen=True)
class GeneralText:
    """Documents that have nothing to do with what is learned."""

    name: str
    """`bundled`, or the name of the file without its folders."""
    ids: list[str]
    texts: list[str]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the texts."""
        return text_sha256(json.dumps(self.texts))


def read_general(name: str) -> GeneralText:
    """Read the documents of `evaluation.general`.

    Args:
        name: `bundled`; a text file, in which blank lines part documents; or a source of rows with a column
            `text`, or with one column.

    Raises:
        DataError: It cannot be read, or holds no text.
    """
    if name == BUNDLED_TEXT:
        content = json.loads(resources.files(__package__).joinpath(_TEXTS).read_text(encoding="utf-8"))
        return GeneralText(name, [text["id"] for text in content], [text["text"] for text in content])
    try:
        texts = [text for part in _parts(name) if (text := part.strip())]
    except DataError as error:
        if error.field == FIELD:
            raise
        where = error.field or name
        remedy = error.remedy if error.remedy and "data." not in error.remedy else FORM  # of other fields
        raise DataError(f"({where}) {error.what}", field=FIELD, remedy=remedy) from error
    if not texts:
        raise DataError("holds no text.", field=FIELD, remedy="Name a file of texts, or write bundled.")
    return GeneralText(Path(name).name, [str(number) for number in range(len(texts))], texts)


def _parts(name: str) -> list[str]:
    """The documents of a file as it has them."""
    kind = format_by_name(name)
    if kind in ("auto", "sentence-label"):  # a suffix that tells nothing, or .txt
        return re.split(r"\n[ \t\r]*\n", read_text(Path(name)))
    parts = read_source(name).parts
    records = next(parts[part] for part in PARTS if parts.get(part))
    return [_text(record, name) for record in records]


def _text(record: Record, name: str) -> str:
    columns: dict[str, Any] = record.columns
    value = columns.get(COLUMN, next(iter(columns.values())) if len(columns) == 1 else None)
    if not isinstance(value, str):
        raise DataError(
            f"'{name}' has no text in the column '{COLUMN}' of its rows ({record.where}).",
            field=FIELD,
            remedy=f"Call the column of the texts '{COLUMN}', or give a text file with blank lines between "
            "documents.",
        )
    return value
