"""Where the time of a run or a comparison went, as it is written down."""

from __future__ import annotations

from deltatune.results.record import Record
from deltatune.timeline import Timeline


class Phase(Record):
    """A part of the time of a run or a comparison. No second is in two of them; all add up to its time."""

    name: str
    """What was done, such as `training`; `other` is what no phase claims."""
    seconds: float
    """On the wall."""
    processor_seconds: float
    """Of all processors that worked on it, whatever else the machine was doing."""


def phases(timeline: Timeline) -> list[Phase]:
    """A timeline up to now, as it is written."""
    return [
        Phase(name=name, seconds=spent.seconds, processor_seconds=spent.processor)
        for name, spent in timeline.so_far().items()
    ]
