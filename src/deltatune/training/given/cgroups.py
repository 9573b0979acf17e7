"""What the control groups of Linux leave to this process: memory and processors. Containers are such groups.

Torch sees neither limit: where two of sixty-four processors are granted it starts sixty-four threads, which
are then stopped in turns.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT = 2**62
"""From so many bytes on."""


def memory_limit() -> int | None:
    """Bytes that the groups of this process may take in all; None without a limit."""
    return min((limit for limit, _ in _memory()), default=None)


def memory_left() -> int | None:
    """Bytes that the groups of this process may still take; None without a limit."""
    return min((max(limit - used, 0) for limit, used in _memory()), default=None)


def _memory() -> Iterator[tuple[int, int]]:
    """(limit, used) of every group that has a limit; without one version 1 says a huge number."""
    for group in _groups("memory"):
        for names in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):  # without a limit version 2 says "max"
                limit, used = (int((group / f"memory.{name}").read_text()) for name in names)
                if limit < NO_LIMIT:
                    yield limit, used


def processors_granted() -> int | None:
    """How many processors' time the groups of this process get, rounded up; None without a limit."""
    found = []
    for group in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            found.append([int(part) for part in (group / "cpu.max").read_text().split()])
        with contextlib.suppress(OSError, ValueError):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            found.append([int((group / name).read_text()) for name in names])
    granted = [math.ceil(quota / period) for quota, period in found if quota > 0 and period > 0]
    return min(granted, default=None)


def processors() -> int:
    """How many processors this process may use: those that it is bound to, within what its groups get."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, processors_granted() or allowed)


def _groups(controller: str) -> Iterator[Path]:
    """The group of this process and those around it: of version 2, and the controller's own of version 1.

    What a container does not show of the groups around it does not exist under these names; reading fails.
    """
    with contextlib.suppress(OSError):
        for line in OWN.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = ROOT / controller if controllers else ROOT
            own = top / path.strip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(top))
