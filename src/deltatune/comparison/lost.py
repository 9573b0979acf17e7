"""What is lost by each method: means over its seeds, with intervals over documents and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.scores import Sample, train_again
from deltatune.comparison.statistics import intervals
from deltatune.errors import DataError
from deltatune.results import AnyResult, GeneralLoss, LeaderboardRow, Lost, RunResult
from deltatune.training.single.lost import FILE

Floats = NDArray[np.float64]


def with_losses(
    rows: Sequence[LeaderboardRow], results: Mapping[str, Sequence[AnyResult]], out: Path
) -> list[LeaderboardRow]:
    """The rows, each with what is lost by its method, where that was asked for.

    Args:
        rows: Of the leaderboard.
        results: What the runs of each came to.
        out: The comparison's folder.

    Raises:
        DataError: The general text has changed since some of the runs, or a file of one is damaged.
    """
    found: dict[str, Lost] = {}
    measured: dict[str, list[GeneralLoss]] = {}
    for row in rows:
        lost = [run.lost for run in results[row.name] if isinstance(run, RunResult) and run.lost]
        if row.status != "done" or len(lost) < len(results[row.name]):
            continue
        found[row.name] = lost[0]
        general = [each.general for each in lost if each.general]
        if len(general) == len(lost):
            measured[row.name] = general
    _require_same([each for of_runs in measured.values() for each in of_runs])
    folders = {row.name: [out / run for run in row.runs] for row in rows}
    means = _means(measured, folders)
    return [
        row.model_copy(update={"lost": _with(found[row.name], means.get(row.name))})
        if row.name in found
        else row
        for row in rows
    ]


def _with(lost: Lost, general: GeneralLoss | None) -> Lost:
    return lost if general is None else lost.model_copy(update={"general": general})


def _require_same(measured: Sequence[GeneralLoss]) -> None:
    if len({each.sha256 for each in measured}) > 1:
        raise DataError(
            "has changed since some of the runs were measured on it.",
            field="evaluation.general",
            remedy="Restore it, or start anew with --overwrite.",
        )


def _means(
    measured: Mapping[str, list[GeneralLoss]], folders: Mapping[str, Sequence[Path]]
) -> dict[str, GeneralLoss]:
    """Means over seeds; intervals are of all methods together that predict the same tokens."""
    found: dict[str, GeneralLoss] = {}
    alike: dict[tuple[str, int, int], dict[str, Sample]] = {}
    for name, runs in measured.items():
        first = runs[0]
        update: dict[str, Any] = {
            key: fmean(getattr(run, key) for run in runs) for key in ("delta", "difference")
        }
        found[name] = first.model_copy(update=update)
        if first.documents > 1 and any(run.difference for run in runs):
            sample = _sample([_changes(folder / FILE) for folder in folders[name]])
            alike.setdefault((first.measure, first.documents, first.tokens), {})[name] = sample
    for samples in alike.values():
        for name, (low, high) in intervals(samples).items():
            found[name] = found[name].model_copy(update={"low": low, "high": high})
    return found


def _sample(runs: Sequence[Floats]) -> Sample:
    """Changes of the loss per token, of each seed's run [documents, (nats, tokens)]."""
    values = np.stack(runs)
    by_document = _per_token(values)
    return Sample(values, _per_token, float(by_document.min()), float(by_document.max()))


def _per_token(sums: Floats) -> Floats:
    found: Floats = sums[..., 0] / sums[..., 1]
    return found


def _changes(path: Path) -> Floats:
    """Of each document how much its loss has changed, in nats, and its tokens."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return np.array([[line["delta"] - line["base"], line["tokens"]] for line in lines], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' cannot be read.", remedy=train_again(path.parent)) from error
