"""Energy: what the machine's own counters say that a step took.

Processors count joules of each socket, and many those of its memory (RAPL, which Linux shows below
`/sys/class/powercap`). GPUs of Nvidia count theirs. A socket's counter is of all that ran on it and of what
it takes when idle: it is no run's own where others share the machine. Since 2020 Linux lets only root read
it (CVE-2020-8694), unless an administrator grants it. What cannot be read is not known, and nothing is
estimated in its place.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

POWERCAP = Path("/sys/class/powercap")
SOCKETS, MEMORY = "package", "dram"
"""What zones are called that are counted: a socket's with all its cores, and its memory, which is not in it.
Zones of cores are within the socket's, and `psys` is the whole machine, with the sockets in it."""
MOST_WATTS = 600.0
"""Of a socket; so much later than a reading, a counter may have begun anew more than once."""


class Spent(NamedTuple):
    """What something took."""

    seconds: float = 0.0
    joules: float | None = None
    """Null where it is not counted."""

    def plus(self, other: Spent) -> Spent:
        """Both together; joules are known if both are."""
        return Spent(self.seconds + other.seconds, _sum(self.joules, other.joules))

    def share(self, part: float) -> Spent:
        """A part of it, from 0 to 1."""
        return Spent(self.seconds * part, None if self.joules is None else self.joules * part)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


class Reading(NamedTuple):
    """What the clock and the counters show at a moment."""

    seconds: float
    joules: float
    unbroken: int
    """Number of the stretch in which no turn of a counter can have been missed; -1: nothing is counted."""

    def since(self, before: Reading) -> Spent:
        """What went by from a moment to this one."""
        known = before.unbroken == self.unbroken >= 0
        return Spent(self.seconds - before.seconds, self.joules - before.joules if known else None)


@dataclass
class Counter:
    """A counter of energy that begins anew at its end."""

    read: Callable[[], int]
    """Its units at present; raises OSError or ValueError where it cannot be read."""
    end: int
    """Units at which it begins anew; 0: never."""
    joules_each: float
    name: str
    last: int = 0
    total: float = 0.0
    """Joules since the first reading."""

    def advance(self) -> float:
        """Read it, and give the joules since it was first read."""
        now = self.read()
        step = now - self.last
        if step < 0 and self.end:
            step += self.end
        self.last, self.total = now, self.total + max(0, step) * self.joules_each
        return self.total


@dataclass
class Meter:
    """The counters of a machine, read together."""

    counters: list[Counter]
    _at: float = field(default_factory=time.perf_counter)
    _stretch: int = 0

    def __post_init__(self) -> None:
        for counter in self.counters:
            counter.last = counter.read()
        ends = [counter.end * counter.joules_each for counter in self.counters if counter.end]
        self._longest = min(ends, default=float("inf")) / MOST_WATTS

    @property
    def of(self) -> str | None:
        """What is counted, in words; None: nothing."""
        return ", ".join(counter.name for counter in self.counters) or None

    def read(self) -> Reading:
        """The clock and the counters. One that can no longer be read ends the counting."""
        try:
            joules = sum(counter.advance() for counter in self.counters)
        except (OSError, ValueError):
            self.counters = []
        now = time.perf_counter()
        if now - self._at > self._longest:
            self._stretch += 1
        self._at = now
        return Reading(now, joules, self._stretch) if self.counters else Reading(now, 0.0, -1)


@functools.cache
def meter_of(device: torch.device) -> Meter:
    """What counts the energy of this machine's sockets and of a GPU; one for all runs of the process."""
    return Meter([*sockets(), *(gpu(device) if device.type == "cuda" else ())])


def sockets(folder: Path = POWERCAP) -> list[Counter]:
    """Counters of the sockets and of their memory; none where one of them cannot be read.

    Args:
        folder: Where the system shows them.
    """
    try:
        zones = [
            zone for zone in sorted(folder.glob("intel-rapl:*")) if _name(zone).startswith((SOCKETS, MEMORY))
        ]
        found = [_of_zone(zone) for zone in zones]
        for counter in found:
            counter.read()
    except (OSError, ValueError):
        return []
    return found if any(counter.name.startswith(SOCKETS) for counter in found) else []


def _of_zone(zone: Path) -> Counter:
    name = _name(zone)
    parent = zone.name.rpartition(":")[0]  # of intel-rapl:0:1 the socket intel-rapl:0
    named = f"{name} of {_name(zone.parent / parent)}" if name.startswith(MEMORY) and ":" in parent else name
    end = int((zone / "max_energy_range_uj").read_text())
    return Counter(lambda: int((zone / "energy_uj").read_text()), end, 1e-6, named)


def _name(zone: Path) -> str:
    return (zone / "name").read_text().strip()


def gpu(device: torch.device) -> list[Counter]:
    """The counter of one of Nvidia's GPUs; none without the package nvidia-ml-py, or of an older GPU."""
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

        def read() -> int:
            try:
                return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            except pynvml.NVMLError as error:
                raise OSError(str(error)) from error

        read()
    except (OSError, pynvml.NVMLError):
        return []
    return [Counter(read, 0, 1e-3, str(torch.cuda.get_device_name(device)))]
