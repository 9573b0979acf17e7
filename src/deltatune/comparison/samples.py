"""What methods scored on the test rows, with all that moves it by chance; of several splits side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.chance import Chance
from deltatune.comparison.ranked import RankedSample
from deltatune.comparison.scores import (
    AnySample,
    Sample,
    groups_of,
    in_order,
    read_rows,
    sample_of,
)
from deltatune.results import LeaderboardRow, Prediction, Tuning

Places = NDArray[np.intp]


class Judged(NamedTuple):
    """The methods that have a number for each test row, or one that follows from sums over them."""

    samples: dict[str, AnySample]
    """By name, all on the same rows in the same order."""
    groups: list[int]
    """The number of each test row's group, which counts as one example."""


def read_split_samples(
    predictions: Mapping[str, Sequence[Path]],
    metric: str,
    labels: Sequence[str] | None,
    kind: str,
) -> Judged:
    """Read the predictions of all methods, of which the runs of one place are on the rows of one split.

    Args:
        predictions: Of each method the files of its runs, in the order of the splits.
        metric: As of `read_sample`, as are the others.
        labels: All classes.
        kind: Of answers.

    Raises:
        DataError: A file is missing or damaged, or runs of one split were judged on different rows.
    """
    read = {name: [read_rows(path) for path in paths] for name, paths in predictions.items()}
    if not read:
        return Judged({}, [])
    ids = [[row.id for row in run] for run in next(iter(read.values()))]
    runs = {
        name: [in_order(*each) for each in zip(read[name], ids, paths, strict=True)]
        for name, paths in predictions.items()
    }
    pool = {name: at for at, name in enumerate(dict.fromkeys(name for part in ids for name in part))}
    places = [np.array([pool[name] for name in part], dtype=np.intp) for part in ids]
    present = np.zeros((len(ids), len(pool)), dtype=np.bool_)
    for run, at in enumerate(places):
        present[run, at] = True
    chance = Chance(present)
    samples = {}
    for name, of_method in runs.items():
        parts = [sample_of([run], metric, labels, kind) for run in of_method]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            samples[name] = side_by_side(known, places, chance)
    return Judged(samples, groups_of([_first_of_each(of_method) for of_method in runs.values()]))


def _first_of_each(runs: Sequence[Sequence[Prediction]]) -> list[Prediction]:
    """A prediction of each row of the pool, in its order."""
    found: dict[str, Prediction] = {}
    for run in runs:
        for row in run:
            found.setdefault(row.id, row)
    return list(found.values())


def side_by_side(parts: Sequence[AnySample], places: Sequence[Places], chance: Chance) -> AnySample:
    """One sample of the runs of a method, each of which is a sample on rows of its own.

    Args:
        parts: Of each run, of one seed.
        places: Where its rows are among those of all runs.
        chance: With which of these are present.

    Raises:
        TypeError: They are not of one metric.
    """
    assert chance.present is not None
    count = chance.present.shape[1]
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    ranked = [part for part in parts if isinstance(part, RankedSample)]
    if len(ranked) == len(parts):
        classes = ranked[0].positive.shape[1]
        scores, positive = np.zeros((len(parts), count, classes)), np.zeros((count, classes), dtype=np.bool_)
        for run, (one, at) in enumerate(zip(ranked, places, strict=True)):
            scores[run, at], positive[at] = one.scores[0], one.positive
        whole = RankedSample.of(scores, positive, ranked[0].curve)
        return replace(whole, rows=tuple(places), chance=chance)
    summed = [part for part in parts if isinstance(part, Sample)]
    if len(summed) < len(parts):
        raise TypeError("runs of a metric of sums cannot stand beside those of a ranking.")
    values = np.zeros((len(parts), count, summed[0].values.shape[2]))
    for run, (part, at) in enumerate(zip(summed, places, strict=True)):
        values[run, at] = part.values[0]  # a row of another part adds nothing to the sums
    return replace(summed[0], values=values, low=low, high=high, chance=chance)


def with_choosing(sample: AnySample, tuning: Tuning | None) -> AnySample:
    """The sample with how far the choice of the method's settings moves its score, where that is known."""
    again = tuple((each.share, each.score) for each in (tuning and tuning.again) or ())
    return replace(sample, chance=replace(sample.chance, again=again)) if again else sample


def holds_choosing(rows: Sequence[LeaderboardRow]) -> bool | None:
    """Whether intervals hold the choosing of all settings that were tuned or searched; None without any."""
    chosen = [row.tuning for row in rows if row.status == "done" and row.tuning and row.tuning.chosen]
    return all(tuning.again is not None for tuning in chosen) if chosen else None
