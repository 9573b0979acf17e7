"""The folder where converted models and prepared data sets are kept between runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltatune.errors import DeltatuneError, nearest
from deltatune.files import make_folder

MARK = "source.json"
"""The file in each folder of a model that says what the folder was made from."""
ROWS = "rows"
"""The folder of rows that were given in memory, a file for each data set."""


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
    """What is in the cache, by name: folders with our mark, what killed processes left, and rows."""
    rows = [
        Entry(path.name, path, path.stat().st_size) for path in sorted((cache_root() / ROWS).glob("*.jsonl"))
    ]
    return [*_models(), *rows]


def _models() -> list[Entry]:
    folder = cache_root() / "models"
    if not folder.is_dir():
        return []
    return [
        Entry(path.name, path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.is_symlink() and _is_ours(path)
    ]


def _is_ours(path: Path) -> bool:
    if path.name.startswith("."):  # a day is more than any process takes to write it
        return time.time() - path.stat().st_mtime > 24 * 3600
    return (path / MARK).is_file()


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
        aside = entry.path.with_name(f".cleared.{entry.name}.{os.getpid()}")
        try:
            entry.path.rename(aside)  # at once: another process never reads half of it
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
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
    temporary = Path(tempfile.mkdtemp(dir=make_cache_folder(path.parent), prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors makes files that only their owner can read
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # a folder that is there came from a process that was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
