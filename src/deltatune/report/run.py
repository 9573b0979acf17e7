"""The folder of one run, as a report reads it: what is missing leaves gaps, what is damaged is told."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deltatune.checkpoint.manifest import changed_files
from deltatune.errors import DeltatuneError
from deltatune.files import read_json
from deltatune.results import (
    AnyResult,
    Certificate,
    PausedRun,
    Prediction,
    RunResult,
    run_result,
    whole_predictions,
)

AGAIN = "Run `deltatune compare` again; finished runs are kept."


@dataclass(frozen=True)
class Run:
    """The folder of one run. Files that a failed run never wrote are empty here."""

    folder: Path

    @cached_property
    def result(self) -> AnyResult | None:
        """result.json."""
        path = self.folder / "result.json"
        return run_result(read(path), f"'{path}'", remedy=AGAIN) if path.is_file() else None

    @property
    def finished(self) -> RunResult | None:
        """The result of a run that ended well."""
        return self.result if isinstance(self.result, RunResult) else None

    @cached_property
    def certificate(self) -> Certificate | None:
        """certificate.json; of runs from before there was one, the lines that result.json holds.

        One of another shape is none: it does not stop a page about all runs.
        """
        path = self.folder / "certificate.json"
        if path.is_file():
            content = read(path)
            with contextlib.suppress(DeltatuneError):
                return Certificate.of(content, f"'{path}'", remedy=AGAIN)
            return None
        if self.result is None or isinstance(self.result, PausedRun):
            return None
        lines = self.result.certificate
        return Certificate(passed=all(line.passed for line in lines), lines=lines)

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return list(lines_of(self.folder / "metrics.jsonl"))

    @cached_property
    def delta(self) -> dict[str, Any]:
        """adapter/deltatune.json: what the delta became, such as the ranks that AdaLoRA kept."""
        path = self.folder / "adapter" / "deltatune.json"
        return read(path) if path.is_file() else {}

    def predictions(self) -> dict[str, Prediction]:
        """Lines of predictions.jsonl by the id of their row; ids are unique within a part of the data.

        The last line of a run that was killed may be half written; it is left out.
        """
        return {line.id: line for line in whole_predictions(self.folder / "predictions.jsonl") if line}

    def training_loss(self) -> list[tuple[float, float]]:
        """(step, loss) of training."""
        return _finite((line.get("step"), line.get("loss")) for line in self.steps)

    def validation(self, key: str) -> list[tuple[float, float]]:
        """(step, metric) on the validation rows."""
        return _finite(
            (line.get("step"), line["validation"].get(key)) for line in self.steps if "validation" in line
        )


def read(path: Path) -> dict[str, Any]:
    """A JSON object of a comparison.

    Raises:
        DeltatuneError: It cannot be read.
    """
    return read_json(path, remedy=AGAIN)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file. The last line of a run that was killed may be half written; it is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if (value := _object(line)) is not None:
                yield value


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def changes(folder: Path) -> list[str]:
    """What of a run's files, or of a comparison's own, is not what was written, in words."""
    name = f"'{folder.name}'"
    try:
        changed = changed_files(folder)
    except DeltatuneError as error:
        return [f"{name}: {error.what}"]
    if changed:
        return [f"{', '.join(changed)} in {name} is not what was written: changed or damaged since."]
    path = folder / "predictions.jsonl"  # of version 0.1, without checksums
    if changed is not None or not path.is_file():
        return []
    damaged = sum(line is None for line in whole_predictions(path))
    return [f"predictions.jsonl in {name} has damaged lines: {damaged}."] if damaged else []


def _finite(pairs: Iterator[tuple[Any, Any]] | Any) -> list[tuple[float, float]]:
    return [
        (float(step), float(value))
        for step, value in pairs
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value)
    ]
