"""The state of an interrupted run: tensors in safetensors, everything else in JSON. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.checkpoint.folders import atomic_folder, read_tensors, write_tensors
from deltatune.errors import AdapterError
from deltatune.files import sha256, write_json

_TENSOR = "__tensor__"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, numbers, strings, None and tensors, all at once."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    with atomic_folder(folder) as temporary:
        write_tensors(temporary / "state.safetensors", tensors)
        digest = sha256(temporary / "state.safetensors")
        write_json(temporary / "state.json", {"sha256": digest, "state": tree})


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        AdapterError: A file is missing, damaged or does not belong to the other.
    """
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        digest, tree = document["sha256"], document["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"the saved state in '{folder}' cannot be read ({error}).",
            remedy="Start the run again with --overwrite.",
        ) from error
    tensors = read_tensors(folder / "state.safetensors")
    if sha256(folder / "state.safetensors") != digest:
        raise AdapterError(
            f"the two files in '{folder}' do not belong together.",
            remedy="Start the run again with --overwrite.",
        )
    joined = _join(tree, tensors)
    assert isinstance(joined, dict)
    return joined


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
