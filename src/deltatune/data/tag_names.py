"""Names of tags that a source keeps as numbers: data sets of Hugging Face say them in their features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def names_of_lists(features: Any) -> dict[str, list[str]]:
    """By column, the names of what its lists hold as numbers; of columns without names nothing.

    Args:
        features: `Dataset.features` of the package datasets, or the same as JSON in its Parquet files.
    """
    if not isinstance(features, Mapping):
        return {}
    found = {}
    for column, kind in features.items():
        inner = kind[0] if isinstance(kind, list) and len(kind) == 1 else _of(kind, "feature")
        names = _of(inner, "names")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            found[str(column)] = names
    return found


def features_of_parquet(metadata: Mapping[bytes, bytes] | None) -> Any:
    """What the package datasets notes of a Parquet file's columns; None if it did not write the file."""
    try:
        noted = json.loads((metadata or {}).get(b"huggingface", b"null"))
    except ValueError:
        return None
    return noted.get("info", {}).get("features") if isinstance(noted, dict) else None


def named(row: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row with the names of its lists' numbers in their place; a number without a name stays."""
    return {
        column: [_name(item, names[column]) for item in value]
        if column in names and isinstance(value, list)
        else value
        for column, value in row.items()
    }


def _name(item: Any, names: list[str]) -> Any:
    return names[item] if isinstance(item, int) and 0 <= item < len(names) else item


def _of(kind: Any, name: str) -> Any:
    return kind.get(name) if isinstance(kind, Mapping) else getattr(kind, name, None)
