"""Whole folders of files, written at once or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltatune.errors import AdapterError, DeltatuneError
from deltatune.files import OURS, new_folder, open_to_readers, require_guarded, storing, sync

_OF_0_1 = re.compile(
    r"\.(?:(?P<folder>adapter|resume)\.(?P<kind>old|new)\.[a-z0-9_]{8}"
    r"|(?:[a-z_]+\.(?:json|jsonl|yaml|html))\.[a-z0-9_]{8}\.tmp)"
)
"""Names that version 0.1 gave to what is half written."""


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes its place, on error it is removed.

    A link is replaced, and what it names is left alone: a stranger's folder may hold links to any other. What
    a killed process leaves of this is put in order by `settle`.

    Raises:
        StorageError: It cannot be written.
    """
    with storing(folder):
        parent = folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        temporary = new_folder(parent, f"new.{_tag(folder.name)}")
        try:
            yield temporary
            open_to_readers(temporary)
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            require_guarded(folder)
            if folder.exists() or folder.is_symlink():
                _exchange(temporary, folder)
            else:
                temporary.replace(folder)
            sync(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _exchange(temporary: Path, place: Path) -> None:
    """Put a folder in the place of another, which lies within a third meanwhile, under its name."""
    aside = new_folder(place.parent, f"old.{_tag(place.name)}")
    try:
        place.replace(aside / place.name)
        try:
            temporary.replace(place)
            sync(place.parent)
        except BaseException:
            (aside / place.name).replace(place)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def settle(parent: Path, name: str | None = None) -> None:
    """Put in order what processes that were killed while they wrote into `parent` left there.

    A folder that was moved aside and has no successor is put back; half-written files and folders are
    removed. All of these have names that only deltatune gives, and none is a link: what a link of such a name
    leads to is somebody's. Nobody else may be writing there.

    Args:
        parent: The folder, which is deltatune's own, or with a name, anybody's.
        name: Put in order what was left of replacing the folder `parent / name`, and nothing else.
    """
    tag = "*" if name is None else f"{_tag(name)}.*"
    with storing(parent):
        for aside in parent.glob(f"{OURS}old.{tag}"):
            for folder in aside.iterdir() if _is_folder(aside) else ():
                _put_back(folder, parent / folder.name)
            shutil.rmtree(aside, ignore_errors=True)
        for pattern in (f"{OURS}new.{tag}", f"{OURS}gone.{tag.removesuffix('.*')}"):
            for unfinished in parent.glob(pattern):
                shutil.rmtree(unfinished, ignore_errors=True)
        if name is None:
            for file in parent.glob(f"{OURS}tmp.*"):
                file.unlink(missing_ok=True)
            _settle_0_1(parent)


def _settle_0_1(parent: Path) -> None:
    for path in sorted(parent.glob(".*"), reverse=True):  # "old" before "new"
        found = _OF_0_1.fullmatch(path.name)
        if found is None or path.is_symlink():
            continue
        if found["kind"] == "old":
            _put_back(path / "folder", parent / found["folder"])
        if path.is_dir() and found["kind"]:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and not found["kind"]:
            path.unlink()


def _put_back(folder: Path, place: Path) -> None:
    if _is_folder(folder) and not place.exists() and not place.is_symlink():
        folder.replace(place)
        sync(place.parent)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _tag(name: str) -> str:
    """What tells temporary folders of different targets in one parent apart; short, whatever the name."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def remove(path: Path) -> None:
    """Remove a file, a folder, or of a link the link alone; nothing, if there is nothing.

    A folder loses its name at once: a process that is killed meanwhile leaves no half of it. What one left
    goes too.
    """
    with storing(path):
        aside = path.with_name(f"{OURS}gone.{_tag(path.name)}")
        shutil.rmtree(aside, ignore_errors=True)
        if _is_folder(path):
            path.replace(aside)
            shutil.rmtree(aside)
        else:
            path.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tensors that share memory are written one by one."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        AdapterError: It is missing, truncated or no safetensors file, or holds values that are not finite.
    """
    if not path.is_file():
        raise AdapterError(
            f"there is no file '{path}'.", remedy="Name the folder that holds the saved delta."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"'{path}' is damaged or is no safetensors file ({error}).", remedy="Copy or train it again."
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise AdapterError(f"{name} in '{path}' holds complex numbers.", remedy="Save it as float32.")
        # in float32, which deltas are trained in: 1e300 of float64 becomes infinite there
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise AdapterError(
                f"{name} in '{path}' is not finite in float32.", remedy="Train it again at a lower rate."
            )
    return tensors


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Within the block, files are read that anybody may have written: what they break is said of them.

    Raises:
        AdapterError: They do not hold what they should, in whatever way.
    """
    try:
        yield
    except (DeltatuneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise AdapterError(
            f"the delta in '{folder}' cannot be read ({type(error).__name__}: {text[:200]}).",
            remedy="Copy or train it again.",
        ) from error
