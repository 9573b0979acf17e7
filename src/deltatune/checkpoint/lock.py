"""One process at a time works in a folder, or several that have agreed to share it.

The lock is the kernel's (flock), on a file in the folder: it ends with the process, however that ends. The
file says who holds it, and goes with the lock; one that a killed process left locks nothing. Where a trial
shows that the file system has no such locks, a lease is kept instead (lease.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltatune.checkpoint.lease import Lease
from deltatune.checkpoint.lease_files import held
from deltatune.errors import DeltatuneError, InUseError
from deltatune.files import OURS, storing

NAME = ".deltatune-lock"
SETTING = "DELTATUNE_LOCKS"
"""Where it says `lease`, leases are kept although locks seem to work: some network file systems lock each
machine's processes against each other alone, which no trial on one machine shows."""
REMEDY = "Wait for it, end it, or choose another folder."
POLL = 0.2
"""Seconds between looks at a lock that others hold."""
MOST = 1000
"""Bytes of a lock; a name of a host has at most 255."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of a file system that has no hard links."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows


class Lock:
    """Holds a folder from its making until `release`.

    Args:
        folder: The folder, which is there.
        warn: Is told where neither locks nor leases are supported: work goes on without one.
        name: Of the lock's file in it.
        remedy: What to do if another process holds it.
        join: Whether to share the folder with those that join it as well. The first of them holds it alone
            until it calls `share`; the others wait for that.

    Raises:
        InUseError: Another process holds it, and does not share it.
        DeltatuneError: A file of somebody else's has its name.
        StorageError: The file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None],
        *,
        name: str = NAME,
        remedy: str = REMEDY,
        join: bool = False,
    ) -> None:
        self._path, self._remedy, self._join = folder / name, remedy, join
        self._descriptor: int | None = None
        self._lease: Lease | None = None
        self.shared = False
        with storing(self._path):
            if why := _no_locks(folder):
                self._take_lease(why, warn)
            else:
                self._take()

    def _take_lease(self, why: str, warn: Callable[[str], None]) -> None:
        if self._path.exists():
            raise DeltatuneError(
                f"'{self._path}' is a lock of a process{_holder(self._path)} that keeps no leases, as this "
                f"one does ({why}).",
                field=SETTING,
                remedy="Let all processes at work in the folder keep leases, or none. If that one has ended, "
                "remove the file.",
            )
        folder = self._path.parent
        try:
            self._lease = Lease(folder, name=self._path.name, remedy=self._remedy, join=self._join)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            why = f"{why}; no leases: {error.strerror}"
            if self._join:
                raise DeltatuneError(
                    f"'{folder}' cannot be locked ({why}): processes cannot share it.",
                    field="--join",
                    remedy="Choose a file system that has locks or hard links, or leave --join out.",
                ) from error
            warn(f"'{folder}' cannot be locked ({why}): see to it that no other process works in it.")
            return
        self.shared = self._lease.shared

    def _take(self) -> None:
        if held(self._path):
            raise DeltatuneError(
                f"'{self._path.parent}' is kept by leases, and this process would use locks.",
                field=SETTING,
                remedy=f"Set {SETTING}=lease for this one as well. If no process is at work there, remove "
                f"'{self._path.name}~*' in the folder.",
            )
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self.shared = not self._alone(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise InUseError(
                    f"another process{_holder(self._path)} is at work in '{self._path.parent}'.",
                    field="--out",
                    remedy=self._remedy,
                ) from None
            if _is_at(descriptor, self._path):
                self._descriptor = descriptor
            else:  # its holder has just removed it
                os.close(descriptor)
        if not self.shared:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "joins": self._join}
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def _alone(self, descriptor: int) -> bool:
        """Lock the file; tell whether for this process alone.

        Raises:
            BlockingIOError: Another process holds it, and does not share it.
        """
        while True:
            try:
                _flock(descriptor)
                return True
            except BlockingIOError:
                if not self._join:
                    raise
            try:
                _flock(descriptor, shared=True)
                return False
            except BlockingIOError:  # the first of those that join will share it; anyone else will not
                if not _joins(os.pread(descriptor, MOST, 0)):
                    raise
            time.sleep(POLL)

    def share(self) -> None:
        """Let others join."""
        if self._lease is not None:
            self._lease.share()
            self.shared = True
        elif self._descriptor is not None:
            _flock(self._descriptor, shared=True)
            self.shared = True

    def _open(self) -> int:
        """Open the file, which is written over: it must be a lock, and no link to something else.

        Raises:
            DeltatuneError: It is somebody else's.
        """
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
            content = os.pread(descriptor, MOST + 1, 0)
            if len(content) <= MOST and (not content or _holder_in(content)):
                return descriptor
        except OSError as error:  # a link is ELOOP, a pipe cannot be read at a place
            if not (self._path.is_symlink() or error.errno == errno.ESPIPE):
                raise
        if descriptor >= 0:
            os.close(descriptor)
        raise DeltatuneError(
            f"'{self._path}' is no lock that deltatune wrote.",
            field="--out",
            remedy="See what it is and remove it, or choose another folder.",
        )

    def release(self) -> None:
        """Let others have the folder; again, it does nothing."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # others share it; the folder may have gone, or be read-only
                if self.shared:
                    _flock(self._descriptor)
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def _no_locks(folder: Path) -> str:
    """Why leases are kept in a folder instead of locks; nothing where locks work, which a trial shows.

    Raises:
        DeltatuneError: The setting has another value.
    """
    given = os.environ.get(SETTING, "auto")
    if given not in ("auto", "lease"):
        raise DeltatuneError(f"{given!r} is neither auto nor lease.", field=SETTING, remedy="Leave it out.")
    if given == "lease":
        return f"{SETTING}=lease"
    with tempfile.TemporaryFile(dir=folder, prefix=f"{OURS}trial.") as trial:
        try:
            _flock(trial.fileno())
        except (OSError, ImportError) as error:
            return str(error)
    return ""


def _flock(descriptor: int, *, shared: bool = False) -> None:
    import fcntl  # absent on Windows

    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _joins(content: bytes) -> bool:
    """Whether the holder that a lock names shares it, or has not yet written who it is."""
    try:
        return bool(json.loads(content)["joins"]) if content else True
    except (ValueError, KeyError, TypeError):
        return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return _holder_in(path.read_bytes())
    except OSError:
        return ""


def _holder_in(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f" ({int(holder['pid'])} on {holder['host']})"
    except (ValueError, KeyError, TypeError):
        return ""
