"""The log of a run: metrics.jsonl, and the trackers that the recipe names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from deltatune.errors import RecipeError
from deltatune.files import write_text
from deltatune.recipe.schema import TrainSpec


class RunLog:
    """Writes a line for every training step and every validation.

    Args:
        out: The run's folder.
        spec: Its settings, which trackers are told as well.

    Raises:
        RecipeError: A tracker's package is absent; Accelerate would leave it out without a word.
    """

    def __init__(self, out: Path, spec: TrainSpec) -> None:
        for name in spec.trackers:
            if importlib.util.find_spec(name) is None:
                raise RecipeError(
                    f"the package {name} is not installed.",
                    field="train.trackers",
                    remedy='Install it: pip install "deltatune[trackers]".',
                )
        self._path = out / "metrics.jsonl"
        self._spec = spec
        self._accelerator: Accelerator | None = None

    def open(self, accelerator: Accelerator, lines: int) -> None:
        """Begin, or go on behind the first `lines` lines; those behind them are of steps to be done again."""
        kept = self._path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if lines else []
        write_text(self._path, "".join(kept))
        if self._spec.trackers:
            settings = self._spec.model_dump(mode="json").items()
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in settings}
            accelerator.init_trackers("deltatune", config=plain)
            self._accelerator = accelerator

    def write(self, line: dict[str, Any]) -> None:
        """Add a line, which has a `step`."""
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        if self._accelerator is not None:
            flat = {k: v for k, v in line.items() if k != "validation"}
            flat |= {f"validation/{k}": v for k, v in line.get("validation", {}).items()}
            self._accelerator.log(flat, step=int(line["step"]))

    def close(self) -> None:
        """Let trackers finish."""
        if self._accelerator is not None:
            self._accelerator.end_training()
            self._accelerator = None
