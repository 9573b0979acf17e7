"""Files of a folder that others write while they are read: what has gone, or is half there, is no error.

A folder may be a stranger's: nothing is read that a link leads to out of it, and only so much of any file.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Signature = tuple[int, int, int]
"""Of a file: its number, size and time of change."""

MOST = 64 * 1024 * 1024
"""Bytes of a file that are read; ours are far smaller."""
MOST_RUNS = 20_000
"""Runs of a comparison that are looked at."""


def signature(path: Path, root: Path) -> Signature | None:
    """What tells that a file has changed; None for what is no plain file, or a link out of `root`.

    Args:
        path: The file; its folder is known to lie in `root`.
        root: A folder without links in its path.
    """
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            if not path.resolve().is_relative_to(root):
                return None
            found = path.stat()
    except (OSError, ValueError, RuntimeError):  # gone, no right, no name at all, a loop of links
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def content(path: Path) -> bytes | None:
    """What a file holds, up to `MOST` bytes; None if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return handle.read(MOST)
    except (OSError, ValueError):
        return None


def json_object(data: bytes | None) -> dict[str, Any] | None:
    """The JSON object that bytes are; None if they are none."""
    try:
        value = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def folders(path: Path, root: Path) -> list[tuple[Path, int]]:
    """The folders in a folder, by name, with the time of their last change in nanoseconds.

    None that lie outside `root`, and at most `MOST_RUNS`.
    """
    found: list[tuple[Path, int]] = []
    try:
        if not path.resolve().is_relative_to(root):
            return []
        with os.scandir(path) as entries:
            for entry in entries:
                if len(found) == MOST_RUNS:
                    break
                place = path / entry.name
                with contextlib.suppress(OSError, RuntimeError):  # gone since, or a loop of links
                    if entry.is_symlink() and not place.resolve().is_relative_to(root):
                        continue
                    if entry.is_dir():
                        found.append((place, entry.stat().st_mtime_ns))
    except (OSError, RuntimeError):
        return []
    return sorted(found, key=lambda pair: pair[0].name)


@dataclass
class Kept(Generic[T]):
    """What was made of a file, and made anew only when the file is another."""

    make: Callable[[bytes | None], T]
    """Of what the file holds."""
    known: dict[Path, tuple[Signature | None, T]] = field(default_factory=dict)

    def of(self, path: Path, root: Path) -> T:
        """What the file at `path` gives now."""
        now = signature(path, root)
        if path not in self.known or self.known[path][0] != now:
            self.known[path] = (now, self.make(content(path) if now else None))
        return self.known[path][1]
