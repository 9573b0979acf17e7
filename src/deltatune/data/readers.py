"""Readers: from a file, a folder or a name to records. All of it is read into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltatune.data.files import check_file, missing_file, read_text
from deltatune.data.images import named, visible_files
from deltatune.data.json_rows import parse_rows
from deltatune.data.rows import Record, Table
from deltatune.data.tables import LISTS, TABLES, flatten_table, parse_delimited
from deltatune.errors import DataError, nearest
from deltatune.recipe.formats import TEXT_FORMATS, format_by_name
from deltatune.recipe.sections import Format
from deltatune.registry import Registry

Reader = Callable[..., Table]
"""Takes a source (a path, or `hub:ID` or `bundled:NAME`), for text also a `Writing`, and reads all of it;
raises DataError."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How text is written, as far as the recipe says so; None is told by the text itself."""

    delimiter: str | None = None
    encoding: str | None = None


PLAIN = Writing()

READERS: Registry[Reader] = Registry(
    "data format",
    {
        "csv": "deltatune.data.readers:read_csv",
        "tsv": "deltatune.data.readers:read_tsv",
        "jsonl": "deltatune.data.readers:read_jsonl",
        "json": "deltatune.data.readers:read_json",
        "parquet": "deltatune.data.remote:read_parquet",
        "table-folder": "deltatune.data.readers:read_table_folder",
        "conll": "deltatune.data.conll:read_conll",
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
    if os.path.isdir(source):
        return "table-folder" if any((path / name).is_file() for name in INDEX_NAMES) else "image-folder"
    check_file(path)
    raise DataError(
        f"has the suffix {path.suffix!r}, which tells no format.",
        field=source,
        remedy=f"Set data.format to one of: {', '.join(READERS.names())}.",
    )


def read_source(source: str, declared: Format = "auto", writing: Writing = PLAIN) -> Table:
    """Read a source in the format that was declared or that `find_format` finds.

    Args:
        source: A path, `hub:ID` or `bundled:NAME`.
        declared: Its format.
        writing: How it is written, if it is text.

    Raises:
        DataError: It cannot be read, or holds no rows.
    """
    kind = find_format(source, declared)
    reader = READERS.get(kind, field="data.format")
    table = reader(source, writing) if kind in TEXT_FORMATS else reader(source)
    if not any(table.parts.values()):
        raise DataError("holds no rows.", field=source, remedy="Give a source with at least one row.")
    return table


def read_csv(source: str, writing: Writing = PLAIN) -> Table:
    """Read comma-separated values with a header line; other delimiters are told by the rows."""
    return _read_delimited(Path(source), writing, LISTS)


def read_tsv(source: str, writing: Writing = PLAIN) -> Table:
    """Read tab-separated values with a header line."""
    return _read_delimited(Path(source), writing, "\t")


def _read_delimited(path: Path, writing: Writing, candidates: str) -> Table:
    text = read_text(path, writing.encoding)
    header, parsed = parse_delimited(text, writing.delimiter or candidates, path.name)
    # Spreadsheets write rows of blank cells where cells once were.
    rows = [(line, cells) for line, cells in parsed if len(cells) == 1 or any(map(str.strip, cells))]
    return Table(
        {
            "all": [
                Record(f"{path.name}, line {line}", dict(zip(header, cells, strict=True)))
                for line, cells in rows
            ]
        }
    )


def read_jsonl(source: str, writing: Writing = PLAIN) -> Table:
    """Read one JSON object a line, or whatever else `parse_rows` knows."""
    return parse_rows(read_text(Path(source), writing.encoding), Path(source).name, lines=True)


def read_json(source: str, writing: Writing = PLAIN) -> Table:
    """Read a JSON list of objects, an object of such lists: train, validation, test, or JSON lines."""
    return parse_rows(read_text(Path(source), writing.encoding), Path(source).name, lines=False)


def read_sentence_label(source: str, writing: Writing = PLAIN) -> Table:
    """Read lines `sentence@label`, split at the last `@`; UTF-8, or else Latin-1 (Financial PhraseBank)."""
    path = Path(source)
    records = []
    text = read_text(path, writing.encoding, otherwise=("latin-1",))
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        sentence, at, label = line.rpartition("@")
        where = f"{path.name}, line {number}"
        if not at or not label.strip():
            raise DataError(
                "has no label after an '@'.",
                field=where,
                remedy="Write sentence@label; if the file is a table, set data.format to csv or tsv.",
            )
        records.append(Record(where, {"sentence": sentence.strip(), "label": label.strip()}))
    return Table({"all": records}, input="sentence", target="label")


def read_table_folder(source: str, writing: Writing = PLAIN) -> Table:
    """Read a folder of delimited tables and the index that names them.

    The index is `index.csv`, `index.tsv` or `index.jsonl` in the folder, or the file that `source` names. It
    has a column `file`, the table's path within the folder, and usually `title`. Each table becomes the
    column `table`, flattened by `flatten_table`; its delimiter, one of `,` `#` tab `;` `|`, is told by its
    rows, unless `writing` says it. Files in the folder that the index does not name are counted in a warning.
    """
    folder, index = _find_index(Path(source))
    parts = read_source(str(index), writing=Writing(encoding=writing.encoding)).parts
    tables = {
        part: [_read_table(entry, folder, writing) for entry in entries] for part, entries in parts.items()
    }
    entries = [entry for part in parts.values() for entry in part]
    warnings = _unnamed(entries, folder, index) if os.path.isdir(source) else ()
    return Table(tables, input="table", target="title", warnings=warnings)


def _unnamed(entries: Sequence[Record], folder: Path, index: Path) -> tuple[str, ...]:
    """A warning of the files beside the tables that the index does not name."""
    read = {index.resolve(), *((folder / entry.columns["file"]).resolve() for entry in entries)}
    unused = [path for path in visible_files(folder)[0] if path.resolve() not in read]
    if not unused:
        return ()
    verb = "file is" if len(unused) == 1 else "files are"
    return (f"{folder}: {len(unused)} {verb} not in {index.name} and not used: {named(unused, folder)}.",)


def _find_index(path: Path) -> tuple[Path, Path]:
    if os.path.isfile(path):
        return path.parent, path
    if not os.path.isdir(path):
        raise missing_file(path)
    for name in INDEX_NAMES:
        if (path / name).is_file():
            return path, path / name
    raise DataError(
        "holds no index of its tables.",
        field=str(path),
        remedy=f"Add {' or '.join(INDEX_NAMES)} with the columns file and title, or name the index itself.",
    )


def _read_table(entry: Record, folder: Path, writing: Writing) -> Record:
    name = entry.columns.get("file")
    if not isinstance(name, str) or not name:
        raise DataError(
            "names no file.",
            field=entry.where,
            remedy=f"It needs a column file. {nearest('file', entry.columns)}",
        )
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError) as error:
        raise missing_file(folder / name, error) from error
    if not path.is_relative_to(folder.resolve()):
        raise DataError(
            f"names {name!r}, which lies outside the folder {folder.name!r}.",
            field=entry.where,
            remedy="Tables must lie in the folder of their index.",
        )
    if not os.path.isfile(path):
        raise DataError(
            f"names {name!r}, which is no file in the folder.", field=entry.where, remedy="Mend the index."
        )
    text = read_text(path, writing.encoding)
    header, rows = parse_delimited(text, writing.delimiter or TABLES, name, unique_names=False)
    if not rows:
        raise DataError(
            "has a header but no rows.", field=name, remedy=f"Take it out of the index ({entry.where})."
        )
    return Record(
        entry.where, {**entry.columns, "table": flatten_table(header, [cells for _, cells in rows])}
    )
