"""Who is at work in a folder, as its lock says. Nothing is locked to find out."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from deltatune.checkpoint.lease_files import held
from deltatune.checkpoint.lock import MOST, NAME
from deltatune.errors import DeltatuneError
from deltatune.watch.files import json_object, signature

Holder = tuple[str, int]
"""Host and process."""


def holder(folder: Path, root: Path) -> Holder | None:
    """Who holds the lock of a folder, or left it; None if nobody does."""
    path = folder / NAME
    if signature(path, root) is None:
        with contextlib.suppress(OSError, DeltatuneError):
            path = next(iter(held(path)), path)
    if (found := signature(path, root)) is None or found[1] > MOST:
        return None
    try:
        named = json_object(path.read_bytes()[:MOST]) or {}
    except OSError:
        return None
    host, pid = named.get("host"), named.get("pid")
    if isinstance(host, str) and isinstance(pid, int) and 0 < pid < 2**31:
        return host, pid
    return "", 0


def is_gone(of: Holder) -> bool:
    """Whether a process is known to have ended; of other machines, and outside of POSIX, it is not known."""
    host, pid = of
    if host != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's, and there
        return False
    try:  # one that has ended stays in the list until its parent asks for it, which some never do
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] == ["Z"]
