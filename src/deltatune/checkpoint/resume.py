"""The state of an interrupted run: tensors in safetensors, everything else in JSON. Nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.checkpoint.folders import atomic_folder, read_tensors, write_tensors
from deltatune.errors import AdapterError
from deltatune.files import CHECKSUM, is_intact, read_json, sealed, sha256, write_json
from deltatune.timeline import phase

ANEW = "Start the run again with --overwrite."
_TENSOR = "__tensor__"


@phase("write")
def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, numbers, strings, None and tensors, all at once."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    with atomic_folder(folder) as temporary:
        write_tensors(temporary / "state.safetensors", tensors)
        digest = sha256(temporary / "state.safetensors")
        write_json(temporary / "state.json", sealed({"sha256": digest, "state": tree}))


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        AdapterError: A file is missing, damaged or does not belong to the other.
    """
    digest, tree = _read_tree(folder)
    tensors = read_tensors(folder / "state.safetensors")
    if sha256(folder / "state.safetensors") != digest:
        raise AdapterError(
            f"the two files in '{folder}' do not belong together.",
            remedy=ANEW,
        )
    try:
        joined = _join(tree, tensors)
    except (KeyError, TypeError) as error:
        raise AdapterError(f"the saved state in '{folder}' lacks {error}.", remedy=ANEW) from error
    assert isinstance(joined, dict)
    return joined


def rows_of_state(folder: Path) -> str | None:
    """Digest of the rows that a saved state rests on; None in states of version 0.1.

    Raises:
        AdapterError: It cannot be read.
    """
    rows = (_read_tree(folder)[1].get("inputs") or {}).get("rows")
    return None if rows is None else str(rows)


def dtype_of_state(folder: Path) -> str | None:
    """The dtype of the base of a saved state; None in states up to version 0.2.

    Raises:
        AdapterError: It cannot be read.
    """
    dtype = (_read_tree(folder)[1].get("inputs") or {}).get("dtype")
    return None if dtype is None else str(dtype)


def _read_tree(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The checksum of the tensors, and everything else."""
    path = folder / "state.json"
    document = read_json(path, remedy=ANEW, error=AdapterError)
    # Version 0.1 wrote no checksum; a name that was damaged must not pass for that.
    whole = document.keys() in ({"sha256", "state"}, {"sha256", "state", CHECKSUM})
    if not whole or not isinstance(document["state"], dict) or is_intact(document) is False:
        raise AdapterError(f"'{path}' is damaged: its checksum differs.", remedy=ANEW)
    return document["sha256"], document["state"]


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, dict):
        return {str(key): _split(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value
