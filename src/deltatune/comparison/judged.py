"""What the methods of a finished comparison scored, in the form in which it can be resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deltatune.comparison.samples import Judged, read_split_samples
from deltatune.comparison.scores import read_sample, row_groups, row_ids
from deltatune.results import DataUsed
from deltatune.tasks import TASKS
from deltatune.tasks.classes import positive_last


def read_judged(
    files: Mapping[str, Sequence[Path]],
    metric: str,
    task: str,
    data: DataUsed | None,
    positive: str | None,
    *,
    splits: int | None = None,
) -> Judged:
    """Read the predictions of methods that finished.

    Args:
        files: Of each method its predictions, one file a seed.
        metric: The key of the metric that decides.
        task: Name of the task.
        data: What the runs were trained and judged on; None if none finished.
        positive: Of two classes the one that the recipe calls positive.
        splits: How many there are, each run having its own; None: all runs have the same rows.

    Raises:
        DataError: A file is missing or damaged, or a run was judged on other test rows.
    """
    kind, labels = TASKS.get(task), data.labels if data else None
    if labels and kind.has_classes:
        labels = positive_last(labels, positive)
    if splits:
        samples, groups = read_split_samples(files, metric, labels, kind.scored_as)
    else:
        ids = next((row_ids(paths[0]) for paths in files.values()), [])
        groups = row_groups([paths[0] for paths in files.values()], ids)
        read = {
            name: read_sample(paths, metric, ids, labels, kind.scored_as) for name, paths in files.items()
        }
        samples = {name: sample for name, sample in read.items() if sample is not None}
    return Judged({name: sample.grouped(groups) for name, sample in samples.items()}, groups)
