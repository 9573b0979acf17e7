"""Where the time of a run goes: phases that add up to its wall time.

A phase is a block or a function that says its name. One that begins within another takes the clock from it
and gives it back, so no second counts twice. What no phase claims is `other`. Several timelines may be open
at once, such as a comparison's and a run's in it: each counts what happens while it is open.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

OTHER = "other"
"""What no phase claims."""


@dataclass
class Spent:
    """Time of a phase."""

    seconds: float = 0.0
    """On the wall."""
    processor: float = 0.0
    """Seconds of processors, of all threads of the process: what others on the machine do is not in it."""


@dataclass
class Timeline:
    """The phases of a run or a comparison, in the order in which they first began."""

    phases: dict[str, Spent] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Count within the block; what was counted before stays."""
        _settle()
        _threads.timelines.append(self)
        try:
            yield
        finally:
            _settle()
            _threads.timelines.remove(self)

    def add(self, name: str, seconds: float, processor: float = 0.0) -> None:
        """Add time to a phase: what was measured elsewhere, such as the share of a step that several made."""
        spent = self.phases.setdefault(name, Spent())
        spent.seconds += seconds
        spent.processor += processor

    def so_far(self) -> dict[str, Spent]:
        """The phases up to now, `other` last."""
        _settle()
        other = self.phases.get(OTHER, Spent())
        return {name: spent for name, spent in self.phases.items() if name != OTHER} | {OTHER: other}


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Within the block, or the function that this decorates, time is that of the phase `name`."""
    _settle()
    before, _threads.name = _threads.name, name
    try:
        yield
    finally:
        _settle()
        _threads.name = before


class _Threads(threading.local):
    """What each thread is at: threads of one process may make runs of their own."""

    def __init__(self) -> None:
        self.timelines: list[Timeline] = []
        self.name = OTHER
        self.wall = self.processor = 0.0


_threads = _Threads()


def _settle() -> None:
    """Give the time since the last call to the phase that was under way."""
    wall, processor = time.perf_counter(), time.process_time()
    for timeline in _threads.timelines:
        timeline.add(_threads.name, wall - _threads.wall, processor - _threads.processor)
    _threads.wall, _threads.processor = wall, processor
