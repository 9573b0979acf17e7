"""What classifiers confuse, how well they tell each class, and whether their probabilities hold.

Intervals of shares are Wilson's (1927), which have a width where all rows or none are meant. Rows of one
input are right or wrong together, so inputs are what is counted in them. They are about other test rows:
seeds are averaged over, and how far these spread is in the leaderboard's intervals.
"""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from deltatune.report import display
from deltatune.report.calibration import Calibration, Share, calibration
from deltatune.report.heat import LEVELS, Cell, Heat
from deltatune.report.load import Comparison, Method
from deltatune.report.run import Run
from deltatune.results import Prediction
from deltatune.tasks import TASKS
from deltatune.tasks.classes import BINARY, positive_last

MOST_IN_A_MAP = 12
"""Classes; of more the most confused pairs are listed instead."""
MOST_LISTED = 20
"""Classes with a line in the table; of more the least sensitive ones have one."""
FEWEST_LISTED = 10
MOST_MAPS = 6
LONGEST = 24
"""Letters of a class's name beside a map."""


class OfClass(NamedTuple):
    """How well a method tells a class."""

    name: str
    rows: int
    predicted: float
    sensitivity: Share | None
    specificity: Share | None
    precision: Share | None


class Confused(NamedTuple):
    """Rows of a class that are taken for another."""

    true: str
    predicted: str
    rows: float
    share: Share


class Judged(NamedTuple):
    """What the test rows tell of one method."""

    method: Method
    classes: list[OfClass]
    more: int
    """Classes without a line."""
    confused: list[Confused]
    """The most confused pairs, where there are too many classes for a map."""


class Classes(NamedTuple):
    """The section about classes."""

    judged: list[Judged]
    maps: list[Heat]
    more_maps: int
    note: str
    calibration: Calibration | None
    """Whether probabilities hold; None where predictions have none."""

    def rows(self, count: float) -> str:
        """A number of rows, which over seeds may be a fraction."""
        return f"{count:,.0f}" if abs(count - round(count)) < 0.05 else f"{count:,.1f}"


def classes(comparison: Comparison, series: dict[str, int]) -> Classes | None:
    """The section, of a comparison of classifiers whose predictions are there.

    Args:
        comparison: The comparison.
        series: Colour and mark of each method.
    """
    task, data = comparison.board.task or "", comparison.board.data
    if task not in TASKS or TASKS.get(task).scored_as != "classes" or not data or not data.labels:
        return None
    positive = ((comparison.board.recipe or {}).get("evaluation") or {}).get("positive")
    labels = positive_last(data.labels, positive)
    tables = [
        table
        for method in comparison.ranked
        if (table := _Table.of(method, comparison.on_same_rows(method), labels))
    ]
    if not tables:
        return None
    judged = [table.judged() for table in tables]
    in_maps = len(labels) <= MOST_IN_A_MAP
    maps = [table.map() for table in tables[:MOST_MAPS]] if in_maps else []
    note = "A map shows rows, and their share of the true class. Outlined cells are right. "
    note = (note if in_maps else "") + (
        f"The positive class is {labels[1]}. " if len(labels) == BINARY else ""
    )
    if comparison.board.splits:
        note += "The numbers are those of the first split. "
    if any(len(table.runs) > 1 for table in tables):
        note += "Numbers are means over seeds, whose spread is not in the intervals. "
    return Classes(
        judged,
        maps,
        len(tables) - len(maps) if in_maps else 0,
        note,
        calibration({table.method.name: (table.method, table.runs) for table in tables}, labels, series),
    )


class _Table(NamedTuple):
    """The predictions of a method's runs."""

    method: Method
    labels: list[str]
    runs: list[list[Prediction]]
    """Of each seed, the same rows in the same order."""
    counts: list[list[float]]
    """Mean rows by true and predicted class; predictions that are no class are in none."""
    true: list[list[Prediction]]
    """Rows by their class, of the first seed."""

    @classmethod
    def of(cls, method: Method, of_method: list[Run], labels: list[str]) -> _Table | None:
        found = [lines for run in of_method if (lines := run.predictions())]
        if not found:
            return None
        ids = [name for name in found[0] if all(name in lines for lines in found)]
        runs = [[lines[name] for name in ids] for lines in found]
        places = {label: place for place, label in enumerate(labels)}
        counts = [[0.0] * len(labels) for _ in labels]
        true: list[list[Prediction]] = [[] for _ in labels]
        for number, run in enumerate(runs):
            for row in run:
                if row.reference not in places:
                    continue
                if number == 0:
                    true[places[row.reference]].append(row)
                if row.prediction in places:
                    counts[places[row.reference]][places[row.prediction]] += 1 / len(runs)
        return cls(method, labels, runs, counts, true)

    def inputs(self, place: int) -> int:
        """How many different inputs the rows of a class have."""
        return len({row.of_input for row in self.true[place]})

    def share(self, true: int, predicted: int) -> Share | None:
        """Of the rows of a class, those that are predicted to be of another, or of itself."""
        return Share.of(self.counts[true][predicted], len(self.true[true]), self.inputs(true))

    def judged(self) -> Judged:
        everything = sum(map(len, self.true))
        lines = []
        for place, label in enumerate(self.labels):
            rows, right = len(self.true[place]), self.counts[place][place]
            predicted = sum(row[place] for row in self.counts)
            others = [row.of_input for at, of in enumerate(self.true) if at != place for row in of]
            taken = [len({r.of_input for r in run if r.prediction == label}) for run in self.runs]
            lines.append(
                OfClass(
                    label,
                    rows,
                    predicted,
                    self.share(place, place),
                    Share.of(everything - rows - (predicted - right), everything - rows, len(set(others))),
                    Share.of(right, predicted, fmean(taken)),
                )
            )
        shown = lines
        if len(lines) > MOST_LISTED:
            known = [line for line in lines if line.sensitivity]
            shown = sorted(known, key=lambda line: line.sensitivity or 0)[:FEWEST_LISTED]
        confused = self._confused() if len(lines) > MOST_IN_A_MAP else []
        return Judged(self.method, shown, len(lines) - len(shown), confused)

    def _confused(self) -> list[Confused]:
        pairs = sorted(
            ((n, t, p) for t, row in enumerate(self.counts) for p, n in enumerate(row) if t != p and n > 0),
            key=lambda pair: -pair[0],
        )
        return [
            Confused(self.labels[t], self.labels[p], n, share)
            for n, t, p in pairs[:FEWEST_LISTED]
            if (share := self.share(t, p))
        ]

    def map(self) -> Heat:
        """Rows by true and predicted class."""
        names = [name if len(name) <= LONGEST else f"{name[:LONGEST]}\u2026" for name in self.labels]
        rows = [
            (names[true], [self._cell(true, predicted) for predicted in range(len(names))])
            for true in range(len(names))
        ]
        return Heat(f"{self.method.shown}: what is taken for what", "", "true \\ predicted", names, rows)

    def _cell(self, true: int, predicted: int) -> Cell:
        rows, share = self.counts[true][predicted], self.share(true, predicted)
        text = f"{rows:,.0f}" if len(self.runs) == 1 else f"{rows:,.1f}"
        if share is None:
            return Cell("0", None, f"no test row is of the class {self.labels[true]}")
        tip = (
            f"true {self.labels[true]}, predicted {self.labels[predicted]}\n{text} of "
            f"{len(self.true[true]):,} rows: {share.text}{display.THIN}% {share.bounds}"
        )
        level = round(share.value * (LEVELS - 1))
        return Cell(text, level, tip, true == predicted, f"{100 * share.value:.0f}{display.THIN}%")
