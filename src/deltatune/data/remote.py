"""Readers that need a package beyond the core: Parquet, the Hugging Face Hub, bundled data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltatune.data.decode import convert_picture
from deltatune.data.files import check_file, most_unpacked, too_large
from deltatune.data.images import PART_NAMES
from deltatune.data.rows import Record, Table
from deltatune.data.tag_names import features_of_parquet, named, names_of_lists
from deltatune.errors import DataError

_POINTER = 8
"""Bytes that a cell takes at least, once it is a Python value."""
HUB_ID = re.compile(r"(?:hub:)?(?P<id>[^#@]+)(?:#(?P<config>[^@]+))?(?:@(?P<revision>.+))?")


def read_parquet(source: str) -> Table:
    """Read a Parquet file; needs pyarrow.

    Values are taken as Arrow gives them: pandas would make real numbers of whole ones beside gaps.
    """
    path = Path(source)
    check_file(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _needs(source, "pyarrow", "parquet") from error
    try:
        with parquet.ParquetFile(path) as opened:
            twice = [name for name, count in Counter(opened.schema_arrow.names).items() if count > 1]
            rows = [] if twice else list(_parquet_rows(opened, path))
            names = names_of_lists(features_of_parquet(opened.schema_arrow.metadata))
    except (OSError, ValueError, NotImplementedError, MemoryError, pyarrow.ArrowException) as error:
        raise DataError(
            f"is not readable as Parquet ({str(error).strip() or type(error).__name__}).",
            field=source,
            remedy="Write it again.",
        ) from error
    if twice:
        raise DataError(
            f"has the column {twice[0]!r} twice.", field=source, remedy="Give every column a name of its own."
        )
    records = [
        Record(f"{path.name}, row {number}", named({str(name): value for name, value in row.items()}, names))
        for number, row in enumerate(rows)
    ]
    return Table({"all": records})


def _parquet_rows(opened: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The rows, a thousand at a time: a short file can hold one long text a million times."""
    size = path.stat().st_size
    held = opened.metadata.num_rows * opened.metadata.num_columns * _POINTER
    for batch in opened.iter_batches(batch_size=1000):
        held += batch.nbytes
        if held > most_unpacked(size):
            raise too_large(path, size)
        yield from batch.to_pylist()


def read_hub(source: str) -> Table:
    """Load a data set of the Hugging Face Hub: `hub:ID`, `hub:ID#CONFIG`, `hub:ID#CONFIG@REVISION`.

    Its splits train, validation (val, dev) and test become the parts. Class labels become their names, also
    those in lists (tags). No code of the data set is run.
    """
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise DataError("is no Hub data set.", field=source, remedy="Write hub:ID[#CONFIG][@REVISION].")
    try:
        import datasets
    except ImportError as error:
        raise _needs(source, "datasets", "hub") from error
    try:
        loaded = datasets.load_dataset(match["id"], match["config"], revision=match["revision"])
    except Exception as error:  # the package raises many kinds: network, missing, access, formats
        raise DataError(
            f"could not be loaded from the Hub ({type(error).__name__}: {error}).",
            field=source,
            remedy="Check the id, the config, your network and your access rights.",
        ) from error
    parts: dict[str, list[Record]] = {}
    for split, data in loaded.items():
        if part := PART_NAMES.get(str(split)):
            parts[part] = _hub_records(data, f"{source}, {split}")
    if not parts:
        raise DataError(
            f"has the splits {', '.join(map(str, loaded))}; none is train, validation or test.",
            field=source,
            remedy="Save the split that you want as a Parquet file and use that.",
        )
    return Table({"all": parts["train"]} if set(parts) == {"train"} else parts)


def _hub_records(data: Any, where: str) -> list[Record]:
    kinds = {
        name: getattr(kind, "feature", kind) for name, kind in data.features.items()
    }  # of lists, of items
    names = {name: kind.names for name, kind in kinds.items() if hasattr(kind, "int2str")}
    return [
        Record(
            f"{where} row {number}",
            {
                name: _hub_value(value, names.get(name), f"{where} row {number}")
                for name, value in row.items()
            },
        )
        for number, row in enumerate(data)
    ]


def _hub_value(value: Any, names: list[str] | None, where: str) -> Any:
    if names is not None and isinstance(value, int):
        return names[value] if value >= 0 else None  # the Hub's -1 means: not labelled
    if names is not None and isinstance(value, list):
        return [_hub_value(item, names, where) for item in value]
    if hasattr(value, "convert"):  # a PIL image
        return convert_picture(value, where)
    return value


def read_bundled(source: str) -> Table:
    """Read data that come with a Python package: `bundled:NAME`."""
    from deltatune.data.bundled import load_bundled

    rows = load_bundled(source)
    columns = rows[0] if rows else {}
    records = [Record(f"{source}, row {number}", dict(row)) for number, row in enumerate(rows)]
    pairs = [
        ("tokens", "tags"),
        ("table", "title"),
        ("sentence", "label"),
        ("text", "title"),
        ("text", "label"),
    ]
    own = next((pair for pair in pairs if set(pair) <= set(columns)), ("input", "target"))
    return Table({"all": records}, *own)


def _needs(source: str, packages: str, extra: str) -> DataError:
    return DataError(
        f"needs {packages}, which cannot be imported.",
        field=source,
        remedy=f"Install it with: pip install 'deltatune[{extra}]'.",
    )
