"""A lease: what keeps a folder for one process where the file system has no locks.

A lease is a file that its holder touches every few seconds. One that was not touched for a stated time has no
holder, and another process takes it over. Times are those that the file system stamps on files: no clock of a
machine is asked how late it is.

Who has it is decided by the file system alone. The files of a lease are numbered, and the last one counts. A
file is made with its content, by a hard link: of several processes that want the same number one gets it. So
nobody takes over twice what one process left. A holder that was late (a suspended laptop) takes the next
number itself before it writes again; if another process was first, the lease is lost. Whoever lets go takes
the next number to say so. Only files before one's own are removed, so no process that was away for long
removes what another holds. The price is one small file that stays, and says that the folder is free.

Processes that share a folder have a file each, `NAME~with~...`, made while they held the lease for a moment.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

from deltatune.checkpoint.lease_files import Holder, Place, read
from deltatune.errors import DeltatuneError, InUseError, LostError
from deltatune.files import guard, unguard

BEATS = 4
"""Touches while a lease lasts."""
LATE = 0.5
"""Of its seconds: a holder that was away for longer asks whether it still has it."""
POLL = 0.2
"""Seconds between looks at a lease that others hold for a moment."""


class Lease:
    """Holds a folder from its making until `release`, as `Lock` does.

    While it does, nothing is put in place in the folder (`deltatune.files`) unless the lease still lasts.

    Args:
        folder: The folder, which is there.
        name: Of the lease, with which the names of its files begin.
        remedy: What to do if another process holds it.
        join: Whether to share the folder with those that join it as well.

    Raises:
        InUseError: Another process holds it, and does not share it.
        DeltatuneError: A file of somebody else's has such a name.
        OSError: The file system has no hard links, or cannot be written.
    """

    def __init__(self, folder: Path, *, name: str, remedy: str, join: bool) -> None:
        self._place = Place(folder / name, Holder.new(joins=join))
        self._remedy, self._join, self.shared = remedy, join, False
        if not join and (others := list(self._place.others(watch=False))):
            raise self._in_use(others[0])
        self._file: _File = self._enter()
        try:
            others = list(self._place.others())
            if others and not join:
                raise self._in_use(others[0])
            if others:
                self.share()
        except BaseException:
            self._file.end()
            raise
        guard(self, folder, self.require_held)

    def _enter(self) -> _First:
        while True:
            held = _First.take(self._place)
            if isinstance(held, _First):
                return held
            if not (self._join and held.joins):
                raise self._in_use(held)
            time.sleep(POLL)

    def _in_use(self, holder: Holder) -> InUseError:
        return InUseError(
            f"another process ({holder.pid} on {holder.host}) is at work in '{self._place.root.parent}'.",
            field="--out",
            remedy=f"{self._remedy} If it has died, the folder is free {holder.seconds:g} seconds later.",
        )

    def share(self) -> None:
        """Let others join.

        Raises:
            LostError: Another process has taken the folder meanwhile.
        """
        if not self.shared:
            first, self._file = self._file, _Shared.make(self._place)
            self.shared = True
            first.end()

    def require_held(self) -> None:
        """Go on if the lease lasts.

        Raises:
            LostError: Another process may have taken the folder meanwhile.
        """
        self._file.require_held()

    def release(self) -> None:
        """Let others have the folder; again, it does nothing."""
        unguard(self)
        with contextlib.suppress(OSError, LostError):
            self._file.end()


class _File:
    """The file of a lease that this process has; a thread touches it."""

    def __init__(self, place: Place, path: Path) -> None:
        self.place, self.path = place, path
        self.seconds = place.holder.seconds
        self._mutex, self._ended, self._lost = threading.RLock(), threading.Event(), False
        self._seen = _clocks()
        threading.Thread(target=self._keep, name=f"lease {path}", daemon=True).start()

    def _keep(self) -> None:
        while not self._ended.wait(self.seconds / BEATS):
            with contextlib.suppress(OSError, DeltatuneError):  # told to whoever writes next
                self.beat()

    def beat(self) -> None:
        """Touch the file; if that comes late, make sure that no other process took the lease.

        Raises:
            LostError: One did.
        """
        with self._mutex:
            if self._ended.is_set():
                return
            began, before = _clocks(), self._mtime()
            try:
                os.utime(self.path)
            except FileNotFoundError:
                self.lose()
            late = self._mtime() - before  # by the file system's clock, which no pause escapes
            if not 0 <= late <= self.seconds * LATE and not self.renew():
                self.lose()
            self._seen = began

    def _mtime(self) -> float:
        seen = None if self._lost else read(self.path)
        if seen is None or seen.holder != self.place.holder:
            self.lose()
        return seen.mtime

    def lose(self) -> NoReturn:
        """Say that another process has it.

        Raises:
            LostError: Always.
        """
        self._lost = True
        self._ended.set()
        raise LostError(
            f"this process has lost '{self.path.parent}': it did not touch its lease for more than "
            f"{self.seconds:g} seconds (a suspended machine, or a file system that hung), and another "
            "process has taken the folder over.",
            remedy="Run the same command again: it goes on from what is there.",
        )

    def require_held(self) -> None:
        """As of `Lease`. The file system is asked only if the last touch was long ago."""
        if self._lost:
            self.lose()
        away = [now - then for now, then in zip(_clocks(), self._seen, strict=True)]
        if not all(0 <= each <= self.seconds * LATE for each in away):
            self.beat()

    def renew(self) -> bool:
        """Get a file that nobody can have judged by its time; False if another process was first."""
        raise NotImplementedError

    def end(self) -> None:
        """Let go."""
        self._ended.set()


class _First(_File):
    """The lease of one process alone: the last of the numbered files."""

    def __init__(self, place: Place, number: int) -> None:
        self.number = number
        super().__init__(place, place.numbered(number))
        place.clear(number)

    @classmethod
    def take(cls, place: Place) -> _First | Holder:
        """Take the lease, or tell who holds it."""
        while True:
            number = place.last()
            last = read(place.numbered(number)) if number else None
            if last is None and number:  # it was cleared meanwhile
                continue
            if last and not last.holder.free and not place.is_over(last):
                return last.holder
            if place.make_last(number + 1, place.holder):
                return cls(place, number + 1)

    def renew(self) -> bool:
        """Take the next number."""
        return self._follow(self.place.holder)

    def _follow(self, holder: Holder) -> bool:
        if not self.place.make_last(self.number + 1, holder):
            return False
        self.number += 1
        self.path = self.place.numbered(self.number)
        self.place.clear(self.number)
        return True

    def end(self) -> None:
        """Say that the folder is free.

        Raises:
            LostError: Another process has it.
        """
        with self._mutex:
            if not self._ended.is_set():
                super().end()
                if not self._follow(self.place.free):
                    self.lose()


class _Shared(_File):
    """The lease of one of several processes."""

    @classmethod
    def make(cls, place: Place) -> _Shared:
        """Make another file."""
        path = place.another()
        if not place.make(path, place.holder):
            raise FileExistsError(path)
        return cls(place, path)

    def renew(self) -> bool:
        """Give it another name, unless it was removed."""
        path = self.place.another()
        try:
            self.path.rename(path)
        except FileNotFoundError:
            return False
        self.path = path
        return True

    def end(self) -> None:
        """Remove it."""
        with self._mutex:
            super().end()
            self.path.unlink(missing_ok=True)


def _clocks() -> tuple[float, float]:
    """Seconds of two clocks: one goes on while a machine sleeps, one is set right after a virtual one did."""
    sleepless = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if sleepless is None else time.clock_gettime(sleepless), time.time()
