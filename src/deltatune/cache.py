"""The folder where converted models and prepared data sets are kept between runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltatune.errors import DeltatuneError, nearest
from deltatune.files import OURS, make_folder, new_folder, open_to_readers, remove_at_once

MARK = "source.json"
"""The file in each folder of a model that says what the folder was made from."""
ROWS = "rows"
"""The folder of rows that were given in memory, a file for each data set."""
_ROWS = re.compile(r"[0-9a-f]{32}\.jsonl")
"""Their names: the first half of the SHA-256 of what they hold."""
MACHINES = "machines"
"""The folder of what was measured of processors, a file for each."""
_FILES = {ROWS: _ROWS, MACHINES: re.compile(r"[0-9a-f]{16}\.json")}
_LEFT = re.compile(
    rf"{re.escape(OURS)}.+|\.damaged\.[a-z0-9_]{{8}}|\.cleared\..+\.\d+|\.[a-z0-9-]+-\d+\.[a-z0-9_]{{8}}"
)
"""Names of what a killed process leaves half written or half removed; the latter ones are of before."""


def cache_root() -> Path:
    """`$DELTATUNE_CACHE`, else `$XDG_CACHE_HOME/deltatune`, else `~/.cache/deltatune`; it need not exist."""
    own = os.environ.get("DELTATUNE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "deltatune"


def make_cache_folder(path: Path) -> Path:
    """Create a folder of the cache.

    Raises:
        DeltatuneError: It cannot be created or written to.
    """
    return make_folder(
        path, field="cache folder", remedy="Set DELTATUNE_CACHE to a folder that you may write to."
    )


@dataclass(frozen=True)
class Entry:
    """Something that is kept between runs, and can be made again."""

    name: str
    path: Path
    bytes: int


def entries() -> list[Entry]:
    """What is in the cache, by name: folders with our mark, what killed processes left, and files."""
    paths = [path for kind in ("models", *_FILES) for path in _listed(cache_root() / kind) if _is_ours(path)]
    return [Entry(path.name, path, _size(path)) for path in paths]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DeltatuneError(
            f"cannot list '{folder}' ({error.strerror}).",
            field="cache folder",
            remedy="Set DELTATUNE_CACHE to a folder that you may read.",
        ) from error


def _is_ours(path: Path) -> bool:
    """Whether its name and kind are those of what we keep: the cache may be a folder of the user's."""
    if path.is_symlink():
        return False
    if _LEFT.fullmatch(path.name):  # a day is more than any process takes to write it
        return time.time() - _changed(path) > 24 * 3600
    if (names := _FILES.get(path.parent.name)) is not None:
        return names.fullmatch(path.name) is not None and path.is_file()
    return (path / MARK).is_file() and not path.name.startswith(".")


def _changed(path: Path) -> float:
    """When it was; what another process has just removed has changed now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, as far as they are there."""
    total = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size if file.is_file() else 0
    return total


def clear(name: str | None = None) -> list[Entry]:
    """Remove the entry `name`, or all, and return what was removed. Nothing without our mark is touched.

    Raises:
        DeltatuneError: There is no such entry, or it cannot be removed.
    """
    found = entries()
    chosen = [entry for entry in found if name in (None, entry.name)]
    if name is not None and not chosen:
        known = nearest(name, [entry.name for entry in found]) if found else "The cache is empty."
        raise DeltatuneError(f"{name!r} is not in the cache.", field="NAME", remedy=known)
    for entry in chosen:
        try:
            remove_at_once(entry.path)
        except OSError as error:
            raise DeltatuneError(
                f"cannot remove '{entry.path}' ({error.strerror}).",
                field="cache folder",
                remedy="Remove it yourself, or set DELTATUNE_CACHE to another folder.",
            ) from error
    return chosen


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; on success it becomes `path` in one rename, on error it vanishes.

    Two processes may do so at once: the first to finish wins, and the other's work is thrown away.
    """
    temporary = new_folder(make_cache_folder(path.parent), "new")
    try:
        yield temporary
        open_to_readers(temporary)
        for file in temporary.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # a folder that is there came from a process that was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
