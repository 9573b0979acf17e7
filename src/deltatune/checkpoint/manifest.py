"""What tells that a folder is deltatune's own, and that its files are those that were written.

manifest.json is made with the folder, with an id. At the end of the work it gets the checksums of the files.
A folder without one is somebody else's, unless what lies in it can only come from version 0.1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.errors import AdapterError, RecipeError
from deltatune.files import is_intact, read_json, sealed, sha256, write_json

NAME = "manifest.json"
MADE_BY = "deltatune"
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """The content of the file."""

    kind: str
    """`run`, `comparison` or `merged model`."""
    id: str
    files: Mapping[str, str]
    """SHA-256 by path within the folder; none while work is under way."""


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None if it has none.

    Raises:
        AdapterError: It is damaged, or another program's.
    """
    path = folder / NAME
    if not path.exists():
        return None
    remedy = "Choose another folder; or, if deltatune wrote what is in it, remove that file."
    content = read_json(path, remedy=remedy, error=AdapterError)
    if content.get("made_by") != MADE_BY:
        raise AdapterError(f"'{path}' was not written by deltatune.", field="--out", remedy=remedy)
    kind, number, files = content.get("kind"), content.get("id"), content.get("files")
    if not (isinstance(kind, str) and isinstance(number, str) and isinstance(files, dict)):
        raise AdapterError(f"'{path}' is damaged.", remedy=remedy)
    if is_intact(content) is not True:
        raise AdapterError(
            f"'{path}' is damaged or was changed: its checksum differs.",
            remedy=remedy,
        )
    return Manifest(kind, number, files)


def mark(folder: Path, kind: str) -> None:
    """Make the folder deltatune's own; of one that is, the files are no longer vouched for."""
    known = read_manifest(folder)
    _write(folder, kind, known.id if known else secrets.token_hex(8), {})


def vouch(folder: Path, kind: str, files: Mapping[str, str], number: str | None = None) -> None:
    """Write down the checksums of the folder's files, by their paths in it.

    Args:
        folder: The folder.
        kind: What it is.
        files: The checksums.
        number: Its id, of a copy; else it keeps its own or gets a new one.
    """
    known = read_manifest(folder)
    _write(folder, kind, number or (known.id if known else secrets.token_hex(8)), files)


def _write(folder: Path, kind: str, number: str, files: Mapping[str, str]) -> None:
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "made_by": MADE_BY,
        "kind": kind,
        "id": number,
        "files": dict(sorted(files.items())),
    }
    write_json(folder / NAME, sealed(content))


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the files, and of all files in those of the folders, that are there."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found |= {str(file.relative_to(folder)): sha256(file) for file in files if file.is_file()}
    return found


def changed_files(folder: Path, among: Iterable[str] | None = None) -> list[str] | None:
    """Files that are not what was written, or have gone; None if there are no checksums to tell by.

    Args:
        folder: The folder.
        among: Look at these only.

    Raises:
        AdapterError: The manifest is damaged.
    """
    known = read_manifest(folder)
    if known is None or not known.files:
        return None
    wanted = known.files if among is None else {n: known.files[n] for n in among if n in known.files}
    return [name for name, digest in wanted.items() if not _is_unchanged(folder, name, digest)]


def _is_unchanged(folder: Path, name: str, digest: str) -> bool:
    """Whether a file has this checksum. A stranger's manifest may name any: it must lie in the folder.

    What a link out of the folder leads to is never what was written, and is not read: of some files of the
    system that would take for ever.
    """
    try:
        path = (folder / name).resolve()
        return path.is_relative_to(folder.resolve()) and path.is_file() and sha256(path) == digest
    except (OSError, ValueError, RuntimeError):  # no right to read it, no name at all, a loop of links
        return False


def require_unchanged(folder: Path, among: Iterable[str] | None = None, *, remedy: str) -> None:
    """Refuse a folder of which files are not what was written. Without checksums there is nothing to tell.

    Raises:
        AdapterError: There is one.
    """
    if changed := changed_files(folder, among):
        raise AdapterError(
            f"{', '.join(changed)} in '{folder}' differs from what was written, by the checksums in {NAME}.",
            remedy=remedy,
        )


def require_own(folder: Path, kind: str, writes: Iterable[str], of_0_1: Callable[[Path], bool]) -> None:
    """Refuse a folder in which a file of somebody else's has the name of one that is going to be written.

    Args:
        folder: The folder.
        kind: What it shall be.
        writes: Names of all that is written there, removed or replaced.
        of_0_1: Whether what lies there was written by version 0.1, which left no manifest.

    Raises:
        RecipeError: It is somebody else's, or deltatune's and of another kind.
        AdapterError: Its manifest cannot be read.
    """
    known = read_manifest(folder)
    if known is not None and known.kind != kind:
        raise RecipeError(
            f"'{folder}' holds a {known.kind}.",
            field="--out",
            remedy=f"Choose another folder for the {kind}.",
        )
    if known is not None:
        return
    foreign = [name for name in writes if (folder / name).is_symlink() or (folder / name).exists()]
    if foreign and not of_0_1(folder):
        raise RecipeError(
            f"'{folder / foreign[0]}' was not written by deltatune, and a {kind} writes what has this name.",
            field="--out",
            remedy="Choose another folder.",
        )
