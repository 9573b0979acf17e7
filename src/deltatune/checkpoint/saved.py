"""Saved deltas as they lie in their folders: read, and checked, without any base.

    adapter_config.json        what peft reads; for methods that peft lacks it names a type of ours
    adapter_model.safetensors  the tensors, under peft's keys
    deltatune.json             method and settings, the base it belongs to, the checksum of the tensors

A folder that only has peft's files is read as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from deltatune.checkpoint import foreign
from deltatune.checkpoint.folders import read_tensors, reading
from deltatune.core.method import MethodConfig
from deltatune.errors import AdapterError, RecipeError
from deltatune.files import CHECKSUM, is_intact, read_json, sha256
from deltatune.methods import METHODS
from deltatune.methods.lora import CONVOLUTIONS
from deltatune.methods.peft_bridge import UNFIT

SCHEMA = 1
CONFIG, TENSORS, OURS = foreign.CONFIG, foreign.TENSORS, "deltatune.json"


@dataclass(frozen=True)
class SavedAdapter:
    """A delta as it lies in its folder."""

    method: str
    config: MethodConfig
    peft: dict[str, Any]
    ours: dict[str, Any] | None
    tensors: dict[str, Tensor]
    """By the keys of the file."""


def read_adapter(folder: Path) -> SavedAdapter:
    """Read and check a saved delta without any base.

    Raises:
        AdapterError: A file is missing, damaged, of an unknown method or does not match its checksum.
    """
    with reading(folder):
        return _read(folder)


def _read(folder: Path) -> SavedAdapter:
    folder = foreign.adapter_folder(folder)
    peft = read_adapter_json(folder / CONFIG)
    ours = read_adapter_json(folder / OURS) if (folder / OURS).exists() else None
    tensors = read_tensors(folder / TENSORS)
    if ours is None:
        tensors = foreign.plain_keys(tensors)
        if peft.get("bias", "none") != "none" and not foreign.trained_biases(tensors):
            peft = {**peft, "bias": "none"}  # asked for, and there were none to train
        if foreign.updates_convolutions(tensors):
            peft = {**peft, CONVOLUTIONS: True}
        method = _method_of_peft(peft, folder)
        with _settings_of(folder / CONFIG):
            return SavedAdapter(method, METHODS.get(method).from_peft(peft), peft, None, tensors)
    if ours.get("schema") != SCHEMA:
        raise AdapterError(
            f"'{folder / OURS}' has the schema {ours.get('schema')!r}; this version reads {SCHEMA}.",
            remedy="Install the version of deltatune that wrote it.",
        )
    _require(peft, ("peft_type",), folder / CONFIG)
    _require(ours, ("method", "config", "heads", "base", "peft_compatible", "sha256"), folder / OURS)
    _require(ours["base"], ("name", "structure", "fingerprint", "dtype"), folder / OURS)
    _require_as_saved(ours, folder)
    with _settings_of(folder / OURS):
        config = METHODS.get(ours["method"], field=str(folder / OURS))(**ours["config"])
    return SavedAdapter(ours["method"], config, peft, ours, tensors)


def _require_as_saved(ours: Mapping[str, Any], folder: Path) -> None:
    """Check all files by checksums, ours by its own; version 0.1 had one of the tensors alone.

    Raises:
        AdapterError: One differs.
    """
    files = {TENSORS: ours["sha256"], **ours.get("files", {})}
    if unknown := files.keys() - {TENSORS, CONFIG}:  # a stranger's may name any file of this machine
        raise AdapterError(
            f"'{folder / OURS}' has a checksum of {sorted(unknown)[0]!r}, which is no file of a delta.",
            remedy="Copy or train it again.",
        )
    changed = [name for name, digest in files.items() if sha256(folder / name) != digest]
    if is_intact(ours) is False or (CHECKSUM in ours) != ("files" in ours):
        changed.append(OURS)
    if changed:
        raise AdapterError(
            f"'{folder / changed[0]}' is not the file that was saved: its checksum differs.",
            remedy="Copy or train it again.",
        )


def read_adapter_json(path: Path) -> dict[str, Any]:
    """A JSON file of a saved delta.

    Raises:
        AdapterError: There is none, or it cannot be read.
    """
    if not path.exists():
        raise AdapterError(
            f"there is no '{path}'.", remedy="Name the folder of a saved delta (a run keeps it in adapter/)."
        )
    return read_json(path, remedy="Copy or train it again.", error=AdapterError)


def _require(found: Any, keys: tuple[str, ...], path: Path) -> None:
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise AdapterError(f"'{path}' lacks {', '.join(missing)}.", remedy="Copy or train it again.")


@contextlib.contextmanager
def _settings_of(path: Path) -> Iterator[None]:
    """Name the file and the setting if a method's settings cannot be read."""
    try:
        yield
    except KeyError as error:
        raise AdapterError(f"'{path}' lacks {error}.", remedy="Copy or train it again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise AdapterError(
            f"'{path}' has a bad setting {first['loc']}: {first['msg']}.", remedy="Save it again."
        ) from error
    except RecipeError as error:
        raise AdapterError(f"'{path}' has a bad setting {error}", remedy="Save it again.") from error


def _method_of_peft(peft: Mapping[str, Any], folder: Path) -> str:
    for name in METHODS.names():
        if METHODS.get(name).reads_peft(peft):
            return name
    kind = peft.get("peft_type")
    known = sorted({t for name in METHODS.names() if (t := METHODS.get(name).peft_type)})
    if kind in UNFIT:
        why, remedy = f": {UNFIT[kind]}", "Load it with peft."
    else:
        why, remedy = "", f"It reads {', '.join(known)}, and with peft installed all that act on layers."
    raise AdapterError(
        f"'{folder / CONFIG}' has the peft_type {kind!r}, which deltatune does not read{why}.", remedy=remedy
    )
