"""What can be wrong with sets of labels though every cell is readable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.tasks import tasks_that
from deltatune.tasks.classes import in_order
from deltatune.tasks.label_sets import labels_of

SHOWN = 3
"""Labels that a warning names."""


@dataclass(frozen=True, slots=True)
class LabelSets:
    """What rows with any number of labels look like."""

    written: str
    """How their source writes them, in words."""
    without: dict[str, int]
    """Rows without a label, by part."""
    most: int
    """Labels of the training row that has most."""
    mean: float
    """Labels of a training row, on average."""
    one_each: bool
    """Whether each row has exactly one."""
    always: list[str]
    """Labels that all training rows have."""
    never: list[str]
    """Labels that the recipe names and no training row has."""
    unknown: dict[str, dict[str, int]]
    """Labels that no training row has, by the other parts, with the rows that have them."""

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[Row]], labels: Sequence[str], written: str) -> LabelSets:
        """Look at all rows.

        Args:
            parts: The rows.
            labels: Those that are learned.
            written: How the source writes them, in words.
        """
        sets = {part: [labels_of(row.target) for row in rows] for part, rows in parts.items()}
        counts = {part: Counter(label for each in found for label in each) for part, found in sets.items()}
        train, known = sets["train"], set(labels)
        return cls(
            written=written,
            without={part: sum(not each for each in found) for part, found in sets.items()},
            most=max(map(len, train)),
            mean=sum(map(len, train)) / len(train),
            one_each=all(len(each) == 1 for found in sets.values() for each in found),
            always=[label for label in labels if counts["train"][label] == len(train)],
            never=[label for label in labels if not counts["train"][label]],
            unknown={
                part: strange
                for part, found in counts.items()
                if (strange := {label: n for label, n in found.items() if label not in known})
            },
        )

    def warnings(self) -> Iterator[str]:
        """What a person should know before training."""
        for part, strange in self.unknown.items():
            yield (
                f"{sum(strange.values())} times a {part} row has a label that no training row has "
                f"({_named(list(strange))}): no model can give it, and it counts as missed."
            )
        if self.never:
            yield f"no training row has {_named(self.never)}: nothing can be learned of it."
        if self.always:
            yield f"every training row has {_named(self.always)}: there is nothing to tell apart by it."
        if self.one_each:
            fitting = tasks_that(lambda task: task.has_classes and not task.has_label_sets)
            yield (
                f"every row has exactly one label; task: {fitting[0]} learns which one it is, so that they "
                "rule each other out."
            )

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self)


def label_names(rows: Sequence[Row], columns: Sequence[str] | None) -> list[str]:
    """All labels, in the order of the head's outputs.

    Args:
        rows: The training rows.
        columns: The names of the columns, where there is one for each label.

    Raises:
        DataError: No row has one.
    """
    found = {label for row in rows for label in labels_of(row.target)}
    if not found:
        raise DataError(
            "have no label at all.",
            field=f"the {len(rows)} training rows",
            remedy="Name the column of the labels, or those of 0 and 1, by data.columns.target.",
        )
    return list(columns) if columns else in_order(found)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(map(repr, labels[:SHOWN])) + more
