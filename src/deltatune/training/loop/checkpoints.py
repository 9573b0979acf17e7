"""The deltas of a run's latest checkpoints, each in a folder that can be used as the run's own delta can."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.saved import OURS

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoints:
    """The last few deltas of a run while it trains."""

    folder: Path
    keep: int
    """How many; 0: none."""
    write: Callable[[Path], None]
    """Writes the delta, as it is now, into a folder."""

    def add(self, step: int) -> None:
        """Keep the delta behind a step; the oldest goes if there are too many.

        One that is there already is of this run and of this step, and the same.
        """
        if not self.keep:
            return
        place = self.folder / f"step-{step}"
        if not place.exists():
            self.write(place)
        for path in _by_step(self.folder)[: -self.keep]:
            remove(path)


def _by_step(folder: Path) -> list[Path]:
    """Our folders of checkpoints, the earliest first; what else lies there is left alone."""
    steps = {
        int(named[1]): path
        for path in folder.iterdir()
        if (named := _NAME.fullmatch(path.name)) and (path / OURS).is_file()
    }
    return [steps[step] for step in sorted(steps)]
