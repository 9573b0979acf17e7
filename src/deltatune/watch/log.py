"""The metrics.jsonl of a run, read on from where it was left, as curves of a bounded number of points."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.watch.files import MOST, Signature, signature

POINTS = 400
"""Points of a curve; twice as many are made half as many, each the mean of two."""
Point = tuple[float, float]


@dataclass
class Log:
    """A run's log so far."""

    path: Path
    root: Path
    step: int = 0
    """Of the last line."""
    seconds: float = 0.0
    """Of training, until then."""
    per_epoch: int = 0
    """Steps of an epoch; 0: not known yet."""
    losses: list[Point] = field(default_factory=list)
    """(step, loss) of training."""
    validations: dict[str, list[Point]] = field(default_factory=dict)
    """(step, value) on the validation rows, by key."""
    _seen: Signature | None = None
    _read: int = 0
    _rest: bytes = b""

    def renew(self) -> None:
        """Read what has been added; all of it where the file is another one."""
        now = signature(self.path, self.root)
        if now == self._seen:
            return
        if now is None or self._seen is None or now[0] != self._seen[0] or now[1] < self._read:
            self.step, self.seconds, self.per_epoch, self._read, self._rest = 0, 0.0, 0, 0, b""
            self.losses, self.validations = [], {}
        self._seen = now
        if now is None:
            return
        try:
            with self.path.open("rb") as handle:
                handle.seek(self._read)
                added = handle.read(MOST)
        except OSError:
            return
        self._read += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")  # the last may be half written
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict) or (step := number(value.get("step"))) is None or step < 0:
            return
        self.step = int(step)
        if isinstance(measured := value.get("validation"), dict):
            for key, measure in list(measured.items())[:20]:
                if (point := number(measure)) is not None:
                    _add(self.validations.setdefault(str(key), []), (step, point))
            return
        if (seconds := number(value.get("seconds"))) is not None:
            self.seconds = seconds
        if epoch := number(value.get("epoch")):
            self.per_epoch = max(1, round(step / epoch)) if 0 < step / epoch < 1e9 else 0
        if (loss := number(value.get("loss"))) is not None:
            _add(self.losses, (step, loss))


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of 400 digits
        return None


def _add(points: list[Point], point: Point) -> None:
    points.append(point)
    if len(points) >= 2 * POINTS:
        pairs = zip(points[::2], points[1::2], strict=True)
        points[:] = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairs]
