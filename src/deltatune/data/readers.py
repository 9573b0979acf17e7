"""Readers: from a file, a folder or a name to records. All of it is read into memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deltatune.data.images import named, visible_files
from deltatune.data.rows import Record, Table
from deltatune.data.tables import (
    flatten_table,
    missing_file,
    parse_delimited,
    read_text,
    sniff_delimiter,
)
from deltatune.errors import DataError, nearest
from deltatune.recipe.rules import format_by_name
from deltatune.recipe.sections import Format
from deltatune.registry import Registry

Reader = Callable[[str], Table]
"""Takes a source (a path, or `hub:ID` or `bundled:NAME`) and reads all of it; raises DataError."""

READERS: Registry[Reader] = Registry(
    "data format",
    {
        "csv": "deltatune.data.readers:read_csv",
        "tsv": "deltatune.data.readers:read_tsv",
        "jsonl": "deltatune.data.readers:read_jsonl",
        "json": "deltatune.data.readers:read_json",
        "parquet": "deltatune.data.remote:read_parquet",
        "table-folder": "deltatune.data.readers:read_table_folder",
        "sentence-label": "deltatune.data.readers:read_sentence_label",
        "image-folder": "deltatune.data.images:read_image_folder",
        "npz": "deltatune.data.archives:read_npz",
        "hub": "deltatune.data.remote:read_hub",
        "bundled": "deltatune.data.remote:read_bundled",
    },
)

INDEX_NAMES = ("index.csv", "index.tsv", "index.jsonl")
"""Names of the index in a folder of tables."""


def find_format(source: str, declared: Format) -> Format:
    """Tell the format of a source: as declared, by its name, or for a folder by what it holds.

    Raises:
        DataError: The source does not exist, or its name and content do not tell.
    """
    found = format_by_name(source, declared)
    if found != "auto":
        return found
    path = Path(source)
    if path.is_dir():
        return "table-folder" if any((path / name).is_file() for name in INDEX_NAMES) else "image-folder"
    if not path.exists():
        raise missing_file(path)
    raise DataError(
        f"has the suffix {path.suffix!r}, which tells no format.",
        field=source,
        remedy=f"Set data.format to one of: {', '.join(READERS.names())}.",
    )


def read_source(source: str, declared: Format = "auto") -> Table:
    """Read a source in the format that was declared or that `find_format` finds.

    Raises:
        DataError: It cannot be read, or holds no rows.
    """
    table = READERS.get(find_format(source, declared), field="data.format")(source)
    if not any(table.parts.values()):
        raise DataError("holds no rows.", field=source, remedy="Give a source with at least one row.")
    return table


def read_csv(source: str) -> Table:
    """Read comma-separated values with a header line, in UTF-8."""
    return Table({"all": _read_delimited(Path(source), ",")})


def read_tsv(source: str) -> Table:
    """Read tab-separated values with a header line, in UTF-8."""
    return Table({"all": _read_delimited(Path(source), "\t")})


def _read_delimited(path: Path, delimiter: str) -> list[Record]:
    header, rows = parse_delimited(read_text(path), delimiter, path.name)
    return [
        Record(f"{path.name}, line {line}", dict(zip(header, cells, strict=True))) for line, cells in rows
    ]


def read_jsonl(source: str) -> Table:
    """Read one JSON object a line."""
    path = Path(source)
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path.name}, line {number}"
            records.append(Record(where, _object(_parse_json(line, where), where)))
    return Table({"all": records})


def read_json(source: str) -> Table:
    """Read a JSON list of objects, or an object of lists of objects: train, validation, test."""
    path = Path(source)
    content = _parse_json(read_text(path), path.name)
    parts = content if isinstance(content, dict) else {"all": content}
    if isinstance(content, dict) and not set(content) <= {"train", "validation", "test"}:
        raise DataError(
            f"is an object with the keys {', '.join(map(repr, content))}.",
            field=path.name,
            remedy="Give a list of objects, or an object with the lists train, validation and test.",
        )
    table: dict[str, list[Record]] = {}
    for part, items in parts.items():
        if not isinstance(items, list):
            raise DataError("is not a list of objects.", field=path.name, remedy="Write [{...}, {...}].")
        wheres = [f"{path.name}, item {number} of {part}" for number in range(len(items))]
        table[part] = [Record(where, _object(item, where)) for where, item in zip(wheres, items, strict=True)]
    return Table(table)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if ", line " in where else f"{where}, line {error.lineno}"
        raise DataError(
            f"is not valid JSON: {error.msg} at column {error.colno}.",
            field=place,
            remedy="Mend or remove it.",
        ) from error
    except RecursionError as error:
        raise DataError("is nested too deeply.", field=where, remedy="Write flat objects.") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"is a JSON {type(value).__name__}, not an object.",
            field=where,
            remedy='Write {"column": "value", ...}.',
        )
    for piece in (*value, *value.values()):
        _require_text(piece, where)
    return value


def _require_text(value: Any, where: str) -> None:
    """Refuse halves of surrogate pairs: JSON can write them, but no tokenizer and no file can hold them.

    Raises:
        DataError: There is one in `value`, or in what it consists of.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for piece in value:
            _require_text(piece, where)
    if not isinstance(value, str) or value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"holds \\u{ord(value[error.start]):04x}, which is half of a character and no text.",
            field=where,
            remedy="Mend or remove it.",
        ) from error


def read_sentence_label(source: str) -> Table:
    """Read lines `sentence@label`, split at the last `@`; UTF-8, or else Latin-1 (Financial PhraseBank)."""
    path = Path(source)
    records = []
    for number, line in enumerate(read_text(path, ("utf-8-sig", "latin-1")).split("\n"), start=1):
        if not line.strip():
            continue
        sentence, at, label = line.rpartition("@")
        where = f"{path.name}, line {number}"
        if not at or not label.strip():
            raise DataError("has no label after an '@'.", field=where, remedy="Write sentence@label.")
        records.append(Record(where, {"sentence": sentence.strip(), "label": label.strip()}))
    return Table({"all": records}, input="sentence", target="label")


def read_table_folder(source: str) -> Table:
    """Read a folder of delimited tables and the index that names them.

    The index is `index.csv`, `index.tsv` or `index.jsonl` in the folder, or the file that `source` names. It
    has a column `file`, the table's path within the folder, and usually `title`. Each table becomes the
    column `table`, flattened by `flatten_table`; its delimiter, one of `,` `#` tab `;` `|`, is sniffed. Files
    in the folder that the index does not name are counted in a warning.
    """
    folder, index = _find_index(Path(source))
    entries = read_source(str(index)).parts["all"]
    records = [_read_table(entry, folder) for entry in entries]
    warnings = _unnamed(entries, folder, index) if Path(source).is_dir() else ()
    return Table({"all": records}, input="table", target="title", warnings=warnings)


def _unnamed(entries: Sequence[Record], folder: Path, index: Path) -> tuple[str, ...]:
    """A warning of the files beside the tables that the index does not name."""
    read = {index.resolve(), *((folder / entry.columns["file"]).resolve() for entry in entries)}
    unused = [path for path in visible_files(folder)[0] if path.resolve() not in read]
    if not unused:
        return ()
    return (f"{folder}: {len(unused)} files are not in {index.name} and not used: {named(unused, folder)}.",)


def _find_index(path: Path) -> tuple[Path, Path]:
    if path.is_file():
        return path.parent, path
    if not path.is_dir():
        raise missing_file(path)
    for name in INDEX_NAMES:
        if (path / name).is_file():
            return path, path / name
    raise DataError(
        "holds no index of its tables.",
        field=str(path),
        remedy=f"Add {' or '.join(INDEX_NAMES)} with the columns file and title, or name the index itself.",
    )


def _read_table(entry: Record, folder: Path) -> Record:
    name = entry.columns.get("file")
    if not isinstance(name, str) or not name:
        raise DataError(
            "names no file.",
            field=entry.where,
            remedy=f"It needs a column file. {nearest('file', entry.columns)}",
        )
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(
            f"names {name!r}, which lies outside the folder {folder.name!r}.",
            field=entry.where,
            remedy="Tables must lie in the folder of their index.",
        )
    if not path.is_file():
        raise DataError(
            f"names {name!r}, which is no file in the folder.", field=entry.where, remedy="Mend the index."
        )
    text = read_text(path)
    header, rows = parse_delimited(text, sniff_delimiter(text), name, unique_names=False)
    if not rows:
        raise DataError(
            "has a header but no rows.", field=name, remedy=f"Take it out of the index ({entry.where})."
        )
    return Record(
        entry.where, {**entry.columns, "table": flatten_table(header, [cells for _, cells in rows])}
    )
