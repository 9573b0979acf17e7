"""The files of leases (lease.py): their names, what is in them, and how one of them is made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from deltatune.errors import DeltatuneError

SETTING = "DELTATUNE_LEASE"
"""Names the seconds for which a lease lasts unless its holder touches it."""
SECONDS = 60.0
LEAST, MOST = 0.2, 86_400.0
LOOK = 0.4
"""Of its seconds: so long one that looks dead is watched, for file systems whose times come from machines."""
_BYTES = 1000
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows
_NUMBER = re.compile("[0-9]{1,15}")


@dataclass(frozen=True)
class Holder:
    """What the file of a lease says."""

    host: str
    pid: int
    seconds: float
    token: str
    joins: bool
    free: bool = False
    """Whether it was let go."""

    @classmethod
    def new(cls, *, joins: bool) -> Holder:
        """What this process writes."""
        return cls(socket.gethostname(), os.getpid(), seconds(), secrets.token_hex(8), joins)

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """What is written there; None if it is no lease."""
        try:
            holder = cls(**json.loads(content))
            whole = isinstance(holder.pid, int) and 0 < holder.seconds <= MOST
        except (ValueError, TypeError):
            return None
        return holder if whole and len(content) <= _BYTES else None


@dataclass(frozen=True)
class Seen:
    """A file of a lease, as it is now."""

    path: Path
    holder: Holder
    mtime: float


@dataclass(frozen=True)
class Place:
    """The files of a lease in its folder, seen from a process that wants it.

    Attributes:
        root: With which their names begin.
        holder: What this process writes into its own.
    """

    root: Path
    holder: Holder

    @property
    def free(self) -> Holder:
        """What it writes when it lets go."""
        return replace(self.holder, free=True)

    def numbered(self, number: int) -> Path:
        """A file of those of which the last counts."""
        return self.root.with_name(f"{self.root.name}~{number}")

    def _numbers(self) -> list[int]:
        names = [path.name.removeprefix(f"{self.root.name}~") for path in leases(self.root)]
        return [int(name) for name in names if _NUMBER.fullmatch(name)]

    def last(self) -> int:
        """The last number; 0 if there is none."""
        return max(self._numbers(), default=0)

    def clear(self, number: int) -> None:
        """Remove the files before one that this process has."""
        for old in self._numbers():
            if old < number:
                self.numbered(old).unlink(missing_ok=True)

    def another(self) -> Path:
        """A new name for one of those that share."""
        return self.root.with_name(f"{self.root.name}~with~{secrets.token_hex(8)}")

    def others(self, *, watch: bool = True) -> Iterator[Holder]:
        """Those that share the folder; with `watch` the files of those that have died are removed."""
        for path in sorted(leases(self.root, "with~")):
            while seen := read(path):
                if not self.is_over(seen, watch=watch):
                    yield seen.holder
                    break
                if not watch:
                    break
                path.unlink(missing_ok=True)  # if its holder is back, it has given it another name

    def make(self, path: Path, holder: Holder) -> bool:
        """Make a file with its content; False if there is one of this name.

        Over a network the answer to a link can get lost and the link be asked for again, which then exists:
        so the number of links has the last word.
        """
        with self._aside() as temporary:
            temporary.write_text(json.dumps(vars(holder)), encoding="utf-8")
            try:
                os.link(temporary, path)
            except FileExistsError:
                return temporary.stat().st_nlink == 2
        return True

    def make_last(self, number: int, holder: Holder) -> bool:
        """Make the numbered file that counts; False if there is one, or a later one.

        There is a later one where what was seen of the folder was old: the number was given and removed.
        """
        made = self.make(self.numbered(number), holder)
        if made and self.last() != number:
            self.numbered(number).unlink(missing_ok=True)
            return False
        return made

    def is_over(self, seen: Seen, *, watch: bool = True) -> bool:
        """Whether a holder has died: its file is older than its lease lasts, and it does not touch it now."""
        lasts = seen.holder.seconds
        with self._aside() as temporary:
            os.utime(temporary)  # as a holder does
            old = abs(temporary.stat().st_mtime - seen.mtime) > lasts
        if old and watch:
            time.sleep(lasts * LOOK)
            return read(seen.path) == seen
        return old

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A file with a name of its own."""
        temporary = self.root.with_name(f"{self.root.name}~aside~{secrets.token_hex(8)}")
        try:
            temporary.touch(exist_ok=False)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def leases(root: Path, begin: str = "") -> list[Path]:
    """Files of leases with the name of `root`."""
    return list(root.parent.glob(f"{root.name}~{begin}*"))


def held(root: Path) -> list[Path]:
    """Those of them that have a holder, who may have died."""
    place = Place(root, Holder("", 0, 0.0, "", joins=False))
    last = place.numbered(place.last())
    seen = read(last)
    return [*([last] if seen and not seen.holder.free else []), *leases(root, "with~")]


def read(path: Path) -> Seen | None:
    """A file of a lease; None if there is none. It is opened, lest a network's cache answers.

    Raises:
        DeltatuneError: It is somebody else's.
    """
    try:
        with open(os.open(path, os.O_RDONLY | _NO_LINK), "rb") as handle:
            content, mtime = handle.read(_BYTES + 1), os.fstat(handle.fileno()).st_mtime
    except FileNotFoundError:
        return None
    except OSError:  # a link is ELOOP
        if not path.is_symlink():
            raise
        content, mtime = b"", 0.0
    if (holder := Holder.read(content)) is None:
        raise DeltatuneError(
            f"'{path}' is no lease that deltatune wrote.",
            field="--out",
            remedy="See what it is and remove it, or choose another folder.",
        )
    return Seen(path, holder, mtime)


def seconds() -> float:
    """For how long a lease lasts.

    Raises:
        DeltatuneError: The setting is no such number.
    """
    given = os.environ.get(SETTING)
    try:
        value = float(given) if given else SECONDS
    except ValueError:
        value = 0.0
    if not LEAST <= value <= MOST:
        raise DeltatuneError(
            f"{given!r} is no number of seconds from {LEAST:g} to {MOST:g}.",
            field=SETTING,
            remedy=f"Leave it out ({SECONDS:g} seconds), or give a number.",
        )
    return value
