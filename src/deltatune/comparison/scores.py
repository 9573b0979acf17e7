"""What a method scored on the test rows, in the form in which it can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltatune.comparison.chance import NONE, Chance, differ
from deltatune.comparison.ranked import RankedSample
from deltatune.errors import DataError
from deltatune.evaluation.corpus import ROW_METRICS
from deltatune.evaluation.metrics import chance_metric, corpus_metric, label_sets
from deltatune.evaluation.metrics.chances import ByRank, ClassChances
from deltatune.results import Prediction, read_predictions
from deltatune.tasks.label_sets import labels_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Numbers of each test example, and how their sums over examples become a score.

    Attributes:
        values: [seeds, examples, numbers].
        score: Sums over examples [..., numbers] to scores [...].
        low: No score is lower.
        high: No score is higher.
        rows_each: How many test rows an example is, on average: rows of one group are drawn as one example.
        biased: Whether the score leans to one side with few rows. A resample of a biased score has its bias
            twice, so draws are moved back until their mean is the score.
        chance: What else moves the score by chance.
    """

    values: Floats
    score: Callable[[Floats], Floats]
    low: float
    high: float
    rows_each: float = 1.0
    biased: bool = False
    chance: Chance = NONE

    @classmethod
    def of(cls, scores: ArrayLike | Sample) -> Sample:
        """Scores of a metric that is a mean over examples, [examples] or [seeds, examples].

        Raises:
            ValueError: No scores, or one that is not finite.
        """
        if isinstance(scores, Sample):
            return scores
        values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
        if values.ndim != 2 or values.size == 0:
            raise ValueError(
                f"scores must be [examples] or [seeds, examples], not of shape {np.shape(scores)}."
            )
        if not np.isfinite(values).all():
            raise ValueError("scores must be finite numbers.")
        counted = np.stack([values, np.ones_like(values)], axis=-1)
        return cls(counted, _mean, float(values.min()), float(values.max()))

    def grouped(self, groups: Sequence[int]) -> Sample:
        """The same scores, with the rows of a group as one example: they depend on each other.

        Args:
            groups: The number of each row's group, from 0 on without a gap.
        """
        count = max(groups) + 1
        if count == self.examples:
            return self
        sums = np.zeros((self.seeds, count, self.values.shape[2]))
        for seed, values in enumerate(self.values):
            np.add.at(sums[seed], np.asarray(groups), values)
        rows_each = self.rows_each * self.examples / count
        return replace(self, values=sums, rows_each=rows_each, chance=self.chance.grouped(groups))

    @property
    def seeds(self) -> int:
        """How many times the method was trained."""
        return self.values.shape[0]

    @property
    def examples(self) -> int:
        """How many test examples there are: rows, or groups of them."""
        return self.values.shape[1]

    @property
    def varies(self) -> bool:
        """Whether seeds differ in any example."""
        return differ(self.values, self.chance.present)

    def by_seed(self) -> Floats:
        """The score of each seed's run, [seeds]."""
        return self.score(self.values.sum(axis=1))

    def mean(self) -> float:
        """The score, averaged over seeds."""
        return float(self.by_seed().mean())

    def influence(self) -> Floats:
        """How much the score of each seed falls without each example, [seeds, examples] (the jackknife)."""
        if self.examples == 1:
            return np.zeros((self.seeds, 1))
        without = self.values.sum(axis=1, keepdims=True) - self.values
        with np.errstate(invalid="ignore"):
            influence = self.by_seed()[:, None] - self.score(without)
        influence[self.chance.of_one_example(self.seeds)] = 0.0
        return influence


AnySample = Sample | RankedSample
"""What a method scored on the test rows, in a form that can be resampled."""


class Samples:
    """Several methods on the same examples.

    Drawing n examples with replacement is the same as drawing how often each occurs (multinomial), which
    turns the sums over resampled examples, of all methods and seeds, into one matrix product.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._columns, self._places = _side_by_side([sample.values for sample in samples])
        # The numbers of seeds may differ, so what two methods exchange is averaged over them.
        means = [sample.values.mean(axis=0, keepdims=True) for sample in samples]
        self._means, self._at = _side_by_side(means)
        self._totals = self._means.sum(axis=0)

    @property
    def width(self) -> int:
        """Numbers that a draw keeps at once."""
        return max(self._columns.shape)

    @property
    def swap_width(self) -> int:
        """The same where methods are swapped."""
        return max(self._means.shape)

    def drawn(self, weights: Floats) -> list[Floats]:
        """Of each method the scores [draws, seeds] of resamples, which have an example so many times.

        Args:
            weights: [draws, examples].
        """
        sums = weights @ self._columns
        return [
            sample.score(sums[:, place].reshape(len(weights), sample.seeds, -1))
            for sample, place in zip(self.samples, self._places, strict=True)
        ]

    def swapped(self, pairs: Sequence[tuple[int, int]], swap: Floats) -> Floats:
        """Differences [pairs, draws] after the two of a pair have exchanged examples.

        The examples are the same for all pairs, so the sums over them are made once for each method.

        Args:
            pairs: Of methods.
            swap: 1 where an example is exchanged, else 0, [draws, examples].
        """
        chosen, totals = swap @ self._means, self._totals
        found = np.empty((len(pairs), len(swap)))
        for row, (i, j) in enumerate(pairs):
            a, b = self._at[i], self._at[j]
            moved = chosen[:, b] - chosen[:, a]
            score = self.samples[i].score
            found[row] = score(totals[a] + moved) - score(totals[b] - moved)
        return found


def _side_by_side(values: Sequence[Floats]) -> tuple[Floats, list[slice]]:
    """Numbers [seeds, examples, numbers] of all samples side by side, [examples, all], and where each is."""
    flat = [each.transpose(1, 0, 2).reshape(each.shape[1], -1) for each in values]
    ends = np.cumsum([each.shape[1] for each in flat])
    starts = [0, *ends[:-1]]
    return np.concatenate(flat, axis=1), [slice(a, b) for a, b in zip(starts, ends, strict=True)]


def _mean(sums: Floats) -> Floats:
    found: Floats = sums[..., 0] / sums[..., 1]
    return found


def read_sample(
    predictions: Sequence[Path],
    metric: str,
    ids: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    kind: str = "",
) -> AnySample | None:
    """Read the predictions of a method's runs, one file a seed.

    Args:
        predictions: The files.
        metric: Its key.
        ids: Of the test rows, in the order in which the sample shall have them; by default the first file's.
        labels: All classes of the data, of a classification, of two the positive one behind.
        kind: The kind of answers (`Task.scored_as`).

    Returns:
        None if the metric has no value for single rows and does not follow from sums over them either.

    Raises:
        DataError: A file is missing or damaged, or a run was judged on other test rows.
    """
    runs = [read_rows(path) for path in predictions]
    ids = ids or [row.id for row in runs[0]]
    runs = [in_order(run, ids, path) for run, path in zip(runs, predictions, strict=True)]
    return sample_of(runs, metric, labels, kind)


def sample_of(
    runs: Sequence[Sequence[Prediction]], metric: str, labels: Sequence[str] | None, kind: str
) -> AnySample | None:
    """The same of predictions that are at hand: those of each run, on the same rows in the same order."""
    if all(metric in row.scores for run in runs for row in run):
        return Sample.of([[row.scores[metric] for row in run] for run in runs])
    if metric in ROW_METRICS:
        fields = ROW_METRICS[metric].fields
        numbers = [[[getattr(row, name) for name in fields] for row in run] for run in runs]
        if any(number is None for run in numbers for row in run for number in row):
            return None
        return row_sample(metric, numbers)
    if chance_metric(metric) is not None:
        of_sets = kind == label_sets.KIND
        return (label_set_sample if of_sets else chance_sample)(metric, runs, labels or ())
    corpus = corpus_metric(metric, kind)
    if corpus is None:
        return None
    texts = [[row.prediction for row in run] for run in runs]
    references = [row.references if corpus.several and row.references else row.reference for row in runs[0]]
    return corpus_sample(metric, texts, references, labels or (), kind)


def row_ids(predictions: Path) -> list[str]:
    """Ids of the rows of a file of predictions.

    Raises:
        DataError: It is missing or damaged.
    """
    return [row.id for row in read_rows(predictions)]


def row_groups(predictions: Sequence[Path], ids: Sequence[str]) -> list[int]:
    """Which test rows belong together, and count as one example: the number of each row's group.

    Rows belong together if their predictions bear the same group or, in those of an older version, have the
    same input. Entries may read rows in their own way, and two rows that differ in one can be the same in
    another: they belong together if they do in any of the files.

    Args:
        predictions: One file of each entry.
        ids: Of the test rows, in the order of the result.

    Raises:
        DataError: A file is missing or damaged, or a run was judged on other test rows.
    """
    return groups_of([in_order(read_rows(path), ids, path) for path in predictions])


def groups_of(entries: Sequence[Sequence[Prediction]]) -> list[int]:
    """The same of predictions that are at hand: those of each entry, on the same rows in the same order.

    Without any entry there are no rows.
    """
    labels = list(range(len(entries[0]))) if entries else []
    readings = []
    for rows in entries:
        keys = [row.of_input for row in rows]
        if len(set(keys)) < len(keys) and keys not in readings:
            readings.append(keys)
    changed = bool(readings)
    while changed:  # every label is the least of those that are joined to it, directly or by others
        before = list(labels)
        for keys in readings:
            least: dict[Hashable, int] = {}
            for key, label in zip(keys, labels, strict=True):
                least[key] = min(least.get(key, label), label)
            labels = [least[key] for key in keys]
        changed = labels != before
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def read_rows(path: Path) -> list[Prediction]:
    """The rows of a file of predictions.

    Raises:
        DataError: It is missing or damaged.
    """
    return read_predictions(path, remedy=train_again(path.parent))


def train_again(folder: Path) -> str:
    """What to do about a run of a comparison that is damaged."""
    return f"Remove the folder '{folder}' and compare again: that run is trained anew, the others are kept."


def in_order(run: Sequence[Prediction], ids: Sequence[str], path: Path) -> list[Prediction]:
    """Rows by their ids: what is paired is the same example, whatever the order of a file."""
    by_id = {row.id: row for row in run}
    if by_id.keys() != set(ids) or len(run) != len(ids):
        raise DataError(
            f"the run in '{path.parent}' was judged on other test rows than the first one.",
            remedy="The data have changed in between: start anew with --overwrite.",
        )
    return [by_id[name] for name in ids]


def row_sample(metric: str, values: ArrayLike) -> Sample:
    """Make the sample of a metric that follows from numbers of the rows, such as the loss.

    Args:
        metric: A key of `ROW_METRICS`.
        values: Its numbers, [seeds, examples, fields].
    """
    found, numbers = ROW_METRICS[metric], np.asarray(values, dtype=np.float64)
    by_row = found.score(numbers)
    return Sample(numbers, found.score, float(by_row.min()), float(by_row.max()))


def corpus_sample(
    metric: str,
    predictions: Sequence[Sequence[str]],
    references: Sequence[str | Sequence[str]],
    labels: Sequence[str] = (),
    kind: str = "",
) -> Sample:
    """Make the sample of a corpus metric.

    Args:
        metric: The key of one that follows from sums over rows (`corpus_metric`).
        predictions: Texts or labels, [seeds][examples].
        references: [examples]; lists of several, where the metric takes them.
        labels: All classes of the data, of a classification.
        kind: The kind of answers.
    """
    corpus = corpus_metric(metric, kind)
    assert corpus is not None
    values = np.stack([corpus.statistics(texts, references, labels) for texts in predictions])
    return Sample(values, corpus.score, corpus.low, corpus.high)


def label_set_sample(
    metric: str, runs: Sequence[Sequence[Prediction]], labels: Sequence[str]
) -> RankedSample:
    """Make the sample of a metric of the order of rows by each label's probability.

    Args:
        metric: A key of `label_sets.RANKED`.
        runs: Predictions of the same rows in the same order, [seeds][rows].
        labels: All labels of the data.
    """
    references = [labels_of(row.reference) for row in runs[0]]
    given = []
    for run in runs:
        chances = [[(row.probabilities or {}).get(label, 0.0) for label in labels] for row in run]
        given.append(label_sets.by_label(references, np.array(chances), labels))
    scores, truths = zip(*given, strict=True)
    return RankedSample.of(np.stack(scores), truths[0], label_sets.RANKED[metric])


def chance_sample(
    metric: str, runs: Sequence[Sequence[Prediction]], labels: Sequence[str]
) -> AnySample | None:
    """Make the sample of a metric of the probabilities of classes; None if rows have none.

    Args:
        metric: The key of one that follows from them (`chance_metric`).
        runs: Predictions of the same rows in the same order, [seeds][rows].
        labels: All classes of the data, of two the positive one behind.
    """
    chances = chance_metric(metric)
    if chances is None or not labels:
        return None
    given = []
    for run in runs:
        probabilities = [row.probabilities for row in run if row.probabilities]
        if len(probabilities) < len(run):
            return None
        predictions, references = [row.prediction for row in run], [row.reference for row in run]
        given.append(ClassChances.of(probabilities, predictions, references, labels))
    if isinstance(chances, ByRank):
        scores, positive = zip(*(chances.scores(each) for each in given), strict=True)
        return RankedSample.of(np.stack(scores), positive[0], chances.curve)
    values = np.stack([chances.statistics(each) for each in given])
    return Sample(values, chances.score, 0.0, chances.high, biased=chances.biased)
