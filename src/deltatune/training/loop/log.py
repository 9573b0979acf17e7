"""The log of a run: metrics.jsonl, and the trackers that the recipe names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltatune.files import atomic_path, storing
from deltatune.recipe.schema import TrainSpec
from deltatune.training.loop.accelerate import Accelerate


class RunLog:
    """Writes a line for every training step and every validation.

    Args:
        out: The run's folder.
        spec: Its settings, which trackers are told.
        accelerate: Knows the trackers.
    """

    def __init__(self, out: Path, spec: TrainSpec, accelerate: Accelerate) -> None:
        self._path = out / "metrics.jsonl"
        self._spec = spec
        self._accelerate = accelerate
        self._written = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of all lines so far."""
        return self._written.hexdigest()

    def open(self, lines: int, digest: str | None, warn: Callable[[str], None]) -> int:
        """Begin, or go on behind the first `lines` lines; those behind them are of steps to be done again.

        Args:
            lines: How many the state that the run goes on from has written.
            digest: Of these; None where it was not noted.
            warn: Is told if they are not all there.

        Returns:
            How many there are.
        """
        kept = self._lines()[:lines] if lines else []
        for line in kept:
            self._written.update(line)
        if len(kept) < lines or digest not in (None, self.digest):
            warn(
                f"'{self._path}' was cut short or changed since ({len(kept)} of {lines} lines): what the run "
                "goes on with is whole, but its history is not."
            )
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._accelerate.start_trackers(self._spec.model_dump(mode="json"))
        return len(kept)

    def _lines(self) -> list[bytes]:
        """Those that are whole."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [line for line in lines if line.endswith(b"\n")]

    def write(self, line: dict[str, Any]) -> None:
        """Add a line, which has a `step`."""
        text = (json.dumps(line) + "\n").encode()
        with storing(self._path), self._path.open("ab") as handle:
            handle.write(text)
        self._written.update(text)
        numbers = {k: v for k, v in line.items() if k not in ("validation", "rows")}
        numbers |= {f"validation/{k}": v for k, v in line.get("validation", {}).items()}
        self._accelerate.track(numbers, int(line["step"]))

    def close(self) -> None:
        """Let trackers finish."""
        self._accelerate.end_trackers()
