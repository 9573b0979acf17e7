"""Readers that need a package beyond the core: Parquet, the Hugging Face Hub, bundled data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deltatune.data.decode import convert_picture
from deltatune.data.images import PART_NAMES
from deltatune.data.rows import Record, Table
from deltatune.data.tables import missing_file
from deltatune.errors import DataError

HUB_ID = re.compile(r"(?:hub:)?(?P<id>[^#@]+)(?:#(?P<config>[^@]+))?(?:@(?P<revision>.+))?")


def read_parquet(source: str) -> Table:
    """Read a Parquet file; needs pandas and pyarrow."""
    path = Path(source)
    if not path.is_file():
        raise missing_file(path)
    try:
        import pandas as pd
        import pyarrow  # noqa: F401 (pandas reads Parquet with it)
    except ImportError as error:
        raise _needs(source, "pandas and pyarrow", "parquet") from error
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise DataError(
            f"is not readable as Parquet ({error}).", field=source, remedy="Write it again."
        ) from error
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    records = [
        Record(f"{path.name}, row {number}", {str(name): _plain(value) for name, value in row.items()})
        for number, row in enumerate(rows)
    ]
    return Table({"all": records})


def read_hub(source: str) -> Table:
    """Load a data set of the Hugging Face Hub: `hub:ID`, `hub:ID#CONFIG`, `hub:ID#CONFIG@REVISION`.

    Its splits train, validation (val, dev) and test become the parts. Class labels become their names. No
    code of the data set is run.
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
    names = {name: kind.names for name, kind in data.features.items() if hasattr(kind, "int2str")}
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
    if hasattr(value, "convert"):  # a PIL image
        return convert_picture(value, where)
    return value


def read_bundled(source: str) -> Table:
    """Read data that come with a Python package: `bundled:NAME`."""
    from deltatune.data.bundled import load_bundled

    rows = load_bundled(source)
    columns = rows[0] if rows else {}
    records = [Record(f"{source}, row {number}", dict(row)) for number, row in enumerate(rows)]
    pairs = [("table", "title"), ("sentence", "label"), ("text", "title"), ("text", "label")]
    own = next((pair for pair in pairs if set(pair) <= set(columns)), ("input", "target"))
    return Table({"all": records}, *own)


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays into Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _needs(source: str, packages: str, extra: str) -> DataError:
    return DataError(
        f"needs {packages}, which cannot be imported.",
        field=source,
        remedy=f"Install it with: pip install 'deltatune[{extra}]'.",
    )
