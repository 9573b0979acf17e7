"""Several processes at one comparison: what each does is decided by locks in its folder.

A process that joins (`--join`) shares the folder with the others and takes whatever no one is at. A run is
claimed by the lock of its folder, which is freed when its holder dies: another then goes on from the run's
state. What is decided by all results (who is stopped early, the leaderboard) follows from files alone,
so every process decides alike. A comparison by one process does the same, and never finds a thing taken.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.lock import POLL as LOCK_POLL
from deltatune.checkpoint.lock import Lock
from deltatune.errors import InUseError
from deltatune.files import OURS
from deltatune.observer import Observer
from deltatune.results import FailedRun, RunResult
from deltatune.training.given.folder import read_result

DESK = ".deltatune-desk"
"""The lock of the files that all write: held for moments."""
POLL = 1.0
"""Seconds between looks at what others do."""
LOOKS = 4
"""Runs of others that are looked at in that time: many processes that wait for many runs would keep a file
server busy with nothing else."""
REMEDY = (
    "Wait for it, end it, or choose another folder; or let both share the folder: give each command --join."
)

T = TypeVar("T")


def not_to_be_cleared(out: Path) -> InUseError:
    """That others are at work in a folder which is to be emptied."""
    return InUseError(
        f"other processes are at work in '{out}'.",
        field="--overwrite",
        remedy="Leave it out to join them; or wait for them, or choose another folder.",
    )


class Team:
    """The processes at a comparison, seen from one of them.

    Args:
        out: The comparison's folder, which is there.
        observer: Is told of the progress.
        join: Whether to share the folder.

    Raises:
        InUseError: Another process works there, and one of both does not share.
        DeltatuneError: The file system has neither locks nor links to share it by.
    """

    def __init__(self, out: Path, observer: Observer, *, join: bool) -> None:
        self.out, self.observer, self.joins = out, observer, join
        self._lock = Lock(out, observer.warn, remedy=REMEDY, join=join)
        self._began = self._now()
        self.first = not self._lock.shared
        """Whether no other was there: this one puts the folder in order."""

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def open(self) -> None:
        """The folder is in order: let others join."""
        if self.joins and self.first:
            for path in self.out.glob("runs/*/result.json"):  # what failed before is tried once more, by one
                if isinstance(read_result(path.parent, remedy=REMEDY), FailedRun):
                    remove(path)
            self._lock.share()

    def _now(self) -> int:
        """What time it is for the file system, in nanoseconds."""
        with tempfile.TemporaryFile(dir=self.out, prefix=f"{OURS}now.") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def is_written(self, path: Path, after: Iterable[Path]) -> bool:
        """Whether another process has written a file since this one began, and after all of these.

        Args:
            path: What all make of the same files, at the desk.
            after: These files, of which one that is not there is passed over.
        """
        if not self.joins or not path.exists():
            return False
        newest = max((file.stat().st_mtime_ns for file in after if file.exists()), default=0)
        return path.stat().st_mtime_ns > max(self._began, newest)

    @contextlib.contextmanager
    def desk(self) -> Iterator[None]:
        """Read and write what all write, one process at a time."""
        if not self.joins:
            yield
            return
        with self._at_desk():
            yield

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Do something that only one process may be at.

        Raises:
            InUseError: Another is at it.
        """
        if not self.joins:
            yield
            return
        with Lock(self.out, self.observer.warn, name=f".deltatune-{name}"):
            yield

    def told(self, folder: Path) -> RunResult | FailedRun | None:
        """What became of a run that is over, of a team: another process tried it, or finished and proved it.

        Else each process would read each delta again, of a thousand runs by 64 processes terabytes. A process
        alone looks whether all of a run's files are whole, and tries again what failed.
        """
        result = read_result(folder, remedy=REMEDY) if self.joins else None
        return result if isinstance(result, RunResult | FailedRun) else None

    def require_free(self, folder: Path) -> None:
        """Look whether another process is at a run, before it is said that it begins.

        Raises:
            InUseError: One is.
        """
        if self.joins and folder.is_dir() and not self.told(folder):
            Lock(folder, self.observer.warn).release()

    def each(self, jobs: Iterable[T], do: Callable[[T], None], what: str) -> None:
        """Do each job; those that another process is at are looked at again until all are done.

        Args:
            jobs: What is to be done.
            do: Does one, or finds that it is done; `InUseError` if another process is at it.
            what: What jobs are called, for progress.
        """
        told = False
        while True:
            left, count = [], 0
            for job in jobs:
                count += 1
                try:
                    do(job)
                except InUseError:
                    if not self.joins:
                        raise
                    left.append(job)
            if not left:
                return
            if len(left) == count:
                if not told:
                    self.observer.stage(f"Waiting for {what} that other processes work on ({count} left)")
                time.sleep(POLL * max(1, len(left) / LOOKS))
            told, jobs = len(left) == count, left

    @contextlib.contextmanager
    def _at_desk(self) -> Iterator[None]:
        while True:
            try:
                lock = Lock(self.out, self.observer.warn, name=DESK)
                break
            except InUseError:
                time.sleep(LOCK_POLL)
        with lock:
            yield
