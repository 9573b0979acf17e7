"""How well methods tell each label, where a row has any number of them.

Precision and recall are shares of rows, with Wilson's intervals (1927). So is F1, in another form: of rows in
which a label is given or true, the share q in which it is both makes F1 = 2 q / (1 + q). Rows of one input
are right or wrong together, so inputs are what is counted. Intervals are about other test rows: seeds are
averaged over, and how far these spread is in the leaderboard's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import NamedTuple

from deltatune.report.calibration import Share
from deltatune.report.load import Comparison, Method
from deltatune.tasks.label_sets import labels_of

MOST_LISTED = 25
"""Labels with a line; of more those that most rows have, since the others' shares tell little."""


class OfLabel(NamedTuple):
    """How well a method tells a label."""

    name: str
    rows: int
    given: float
    """Rows that have it by the method, averaged over seeds."""
    precision: Share | None
    recall: Share | None
    f1: Share | None


class OfMethod(NamedTuple):
    """What the test rows tell of one method."""

    method: Method
    threshold: str
    """From which probability on it gives labels; of each seed."""
    labels: list[OfLabel]
    more: int
    """Labels without a line."""


def label_sets(comparison: Comparison) -> list[OfMethod]:
    """Of each method that has predictions; nothing where rows have one answer each."""
    result = comparison.first_result
    if not comparison.has_label_sets or result is None:
        return []
    found = (_judged(method, result.data.labels or []) for method in comparison.ranked)
    return [judged for judged in found if judged is not None]


class _Counts:
    """Rows and inputs in which a label is right, given, true, or either."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(("right", "given", "true", "either"), 0)
        self.inputs: dict[str, set[Hashable]] = defaultdict(set)

    def take(self, given: bool, true: bool, row: Hashable) -> None:
        """Count a row that has the label in one of the two ways."""
        found = {"right": given and true, "given": given, "true": true, "either": True}
        for kind, holds in found.items():
            self.rows[kind] += holds
            if holds:
                self.inputs[kind].add(row)


def _judged(method: Method, labels: list[str]) -> OfMethod | None:
    runs = [lines for run in method.runs if (lines := run.predictions())]
    if not runs:
        return None
    counts: dict[str, _Counts] = defaultdict(_Counts)
    for lines in runs:
        for line in lines.values():
            given, true = set(labels_of(line.prediction)), set(labels_of(line.reference))
            for label in given | true:
                counts[label].take(label in given, label in true, line.group or line.id)
    strange = sorted(set(counts) - set(labels))
    every = [_of_label(label, counts[label], len(runs)) for label in (*labels, *strange)]
    shown = every
    if len(every) > MOST_LISTED:
        kept = {line.name for line in sorted(every, key=lambda line: -line.rows)[:MOST_LISTED]}
        shown = [line for line in every if line.name in kept]
    limits = [run.finished.threshold for run in method.runs if run.finished]
    threshold = ", ".join(f"{limit:.3g}" for limit in limits if limit is not None)
    return OfMethod(method, threshold, shown, len(every) - len(shown))


def _of_label(name: str, counts: _Counts, runs: int) -> OfLabel:
    def share(of: str) -> Share | None:
        return Share.of(counts.rows["right"], counts.rows[of], len(counts.inputs[of]))

    both = share("either")
    f1 = None if both is None else Share(*(2 * value / (1 + value) for value in both))
    return OfLabel(
        name,
        round(counts.rows["true"] / runs),
        counts.rows["given"] / runs,
        share("given"),
        share("true"),
        f1,
    )
