"""What can be wrong with data though every row is readable: leaks, lopsided classes, contradictory labels.

Nothing is changed or left out. Rows without an input or a target never come this far: reading refuses them.
What comes this far are words that stand for a missing label.
"""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltatune.data.label_sets import LabelSets
from deltatune.data.leakage import SHOWN, Leak, excerpt, leaks
from deltatune.data.rows import Row
from deltatune.data.shift import Shift, shifts, warning
from deltatune.data.spread import Spreads
from deltatune.tasks import tasks_that
from deltatune.tasks.label_sets import labels_of

if TYPE_CHECKING:
    from deltatune.data.encode import EncodeReport

MOST_CLASSES = 100
ROWS_A_CLASS = 10
"""Targets are classes if there are at least so many training rows for each of them on average."""
LOPSIDED = 0.8
"""Share of one class among the test rows from which on accuracy hardly says anything."""
FEW = 5
"""Training rows below which a class can hardly be learned."""
MISSING = ("nan", "null", "n/a", "<na>", "unlabeled", "unlabelled")
"""What other programs write where there is no label, in small letters; -1 among classes 0, 1, 2, ... too."""
CUT = 0.01
"""Share of rows cut off that is worth a warning."""
SHARED = 0.01
"""Share of the test rows that repeat another one's input from which on they count as fewer than they are."""
SWITCHES = {"true": "1", "false": "0"}
"""How a program may have written a switch beside another's numbers."""
JOINTS = "|;,"
"""What stands between several labels that were written into one cell."""


@dataclass(frozen=True)
class Contradiction:
    """One input with several labels among the training rows."""

    rows: list[str]
    """Ids."""
    labels: list[str]
    excerpt: str


@dataclass(frozen=True)
class DataCheck:
    """What the rows of a recipe look like, and what is suspicious about them."""

    leaks: list[Leak]
    repeated: int
    """Training rows whose input an earlier training row has."""
    classes: dict[str, dict[str, int]] | None
    """Rows of each class, by part, the most frequent class first; None if targets are free texts."""
    contradictions: list[Contradiction]
    shifts: list[Shift] = field(default_factory=list)
    """Parts whose classes are not spread alike."""
    unlabelled: dict[str, dict[str, int]] = field(default_factory=dict)
    """By part, targets that stand for a missing label, and how many rows have each."""
    inputs: dict[str, int] = field(default_factory=dict)
    """Different inputs, by part."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows, by part."""
    alike: list[list[str]] = field(default_factory=list)
    """Classes whose names differ in writing only."""
    joined: list[str] = field(default_factory=list)
    """Classes whose names consist of other classes' names."""
    label_sets: LabelSets | None = None
    """Where a row has any number of labels: `classes` then counts the rows of each label."""
    spreads: Spreads | None = None
    """Of targets that are numbers."""

    @property
    def majority(self) -> tuple[str, float] | None:
        """The most frequent class of the training rows, and the accuracy of always answering with it."""
        if not self.classes or self.label_sets:
            return None
        label = next(iter(self.classes["train"]))
        held_out = self.classes["test"] or self.classes["train"]
        return label, held_out.get(label, 0) / sum(held_out.values())

    def warnings(self, primary: str = "auto") -> list[str]:
        """What a person should know before training.

        Args:
            primary: The recipe's `evaluation.primary`.
        """
        found = [warning for leak in self.leaks for warning in leak.warnings()]
        if self.contradictions:
            first, count = self.contradictions[0], len(self.contradictions)
            inputs = "input of the training rows has" if count == 1 else "inputs of training rows have"
            found.append(
                f"{count} {inputs} contradictory labels (the first: "
                f"rows {', '.join(first.rows[:4])} with {' and '.join(map(repr, first.labels))}, "
                f"{first.excerpt!r}); no model can get them all right."
            )
        for part, targets in self.unlabelled.items():
            for target, count in targets.items():
                verb = "row has" if count == 1 else "rows have"
                found.append(
                    f"{count} {'training' if part == 'train' else part} {verb} the target {target!r}, which "
                    "usually means that there is none; leave such rows out."
                )
        if self.shifts and self.classes:
            found.append(warning(self.classes, self.shifts))
        if self.majority and self.majority[1] >= LOPSIDED:
            label, share = self.majority
            misled = primary in ("auto", "accuracy", "exact_match", "loss", "perplexity")
            advice = "; set evaluation.primary to macro_f1 or mcc" if misled else ""
            found.append(
                f"always answering {label!r} is right in {share:.0%} of the test rows, so accuracy tells "
                f"little{advice}."
            )
        if self.label_sets:
            found += self.label_sets.warnings()
            found += [
                f"no {part} row has a label, so that none can be right: micro_f1 says nothing."
                for part, classes in (self.classes or {}).items()
                if not classes and self.label_sets.without[part]
            ]
        found += self.spreads.far if self.spreads else ()
        return found + self._writing() + self._rare() + self._absent() + self._shared()

    @property
    def _kind(self) -> tuple[str, str]:
        """What rows are told apart by: one, and several."""
        return ("label", "labels") if self.label_sets else ("class", "classes")

    def _writing(self) -> list[str]:
        """Classes that may be one, and classes that may be several."""
        kinds = self._kind[1]
        found = [
            f"the {kinds} {' and '.join(map(repr, names))} differ in writing only, and are learned and "
            "judged as different ones; if they are not, write them alike."
            for names in self.alike[:SHOWN]
        ]
        if len(self.alike) > SHOWN:
            found.append(f"{len(self.alike) - SHOWN} more groups of {kinds} differ in writing only.")
        if self.joined:
            fitting = tasks_that(lambda task: task.has_label_sets)
            found.append(
                f"the class {self.joined[0]!r} consists of other classes' names"
                f"{f', as do {len(self.joined) - 1} more' if self.joined[1:] else ''}; each combination is a "
                f"class of its own; task: {fitting[0]} learns several labels per row."
            )
        return found

    def _absent(self) -> list[str]:
        """Classes that no test row has: no score says anything about them."""
        classes = self.classes or {}
        if not classes.get("test"):
            return []
        absent = [label for label in classes["train"] if label not in classes["test"]]
        if not absent:
            return []
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        subject = f"the {self._kind[len(absent) > 1]}"
        verb = "has" if len(absent) == 1 else "have"
        return [
            f"{subject} {', '.join(map(repr, absent[:SHOWN]))}{more} {verb} no test row, so no score says "
            f"anything about {'it' if len(absent) == 1 else 'them'}."
        ]

    def _shared(self) -> list[str]:
        """Rows of one input are not independent."""
        rows, inputs = self.rows.get("test", 0), self.inputs.get("test", 0)
        if rows - inputs <= SHARED * rows:
            return []
        return [
            f"the {rows:,} test rows have {inputs:,} different inputs: rows of one input are right or wrong "
            "together, so they tell as little as so many rows, not more."
        ]

    def _rare(self) -> list[str]:
        """Classes that can hardly be learned; of many the rarest, since there may be thousands."""
        counts, (kind, kinds) = (self.classes or {}).get("train", {}), self._kind
        rare = [(label, count) for label, count in counts.items() if count < FEW]
        shown = rare[-SHOWN:]
        found = [
            f"the {kind} {label!r} has {count} training row{'s' if count > 1 else ''} only."
            for label, count in shown
        ]
        if len(rare) > len(shown):
            found.append(f"{len(rare) - len(shown)} more {kinds} have fewer than {FEW} training rows each.")
        return found

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; of long lists the first few."""
        majority = self.majority
        return {
            "duplicates": [leak.as_dict() for leak in self.leaks],
            "repeated_training_rows": self.repeated,
            "classes": self.classes,
            "shifts": [shift.as_dict() for shift in self.shifts],
            "unlabelled": self.unlabelled,
            "inputs": self.inputs,
            "alike_classes": self.alike,
            "joined_classes": self.joined,
            "label_sets": self.label_sets and self.label_sets.as_dict(),
            "numbers": self.spreads and self.spreads.as_dict(),
            "majority": majority and {"label": majority[0], "accuracy": majority[1]},
            "contradictions": {
                "inputs": len(self.contradictions),
                "examples": [vars(one) for one in self.contradictions[:SHOWN]],
            },
        }


def check_rows(
    train: Sequence[Row],
    validation: Sequence[Row],
    test: Sequence[Row],
    *,
    labelled: bool = False,
    numbers: bool = False,
    label_sets: LabelSets | None = None,
    tagged: bool = False,
) -> DataCheck:
    """Look at all rows once; ten thousand short texts take seconds.

    Args:
        train: Rows to learn from.
        validation: Rows to choose by.
        test: Rows to judge by.
        labelled: Whether the task is to classify, so that targets are classes however few the rows are.
        numbers: Whether targets are numbers, so that they are no classes however few they are.
        label_sets: What was found out about targets that are sets of labels.
        tagged: Whether targets are tags of words, so that they are no classes of rows however few they are.

    Raises:
        DataError: An image is missing or broken.
    """
    parts = {"train": train, "validation": validation, "test": test}
    groups = {part: _by_input(rows) for part, rows in parts.items()}
    named = {
        part: Counter(
            name for row in rows for name in (labels_of(row.target) if label_sets else [row.target])
        )
        for part, rows in parts.items()
    }
    classes = None
    if labelled or (not numbers and not tagged and _are_classes(train)):
        classes = {part: dict(counts.most_common()) for part, counts in named.items()}
    return DataCheck(
        leaks=leaks(train, validation, test),
        repeated=len(train) - len(groups["train"]),
        classes=classes,
        contradictions=_contradictions(groups["train"].values()) if classes else [],
        # Dealing out thousands of classes ten thousand times takes long, and each has too few rows to tell.
        shifts=shifts(classes)
        if classes and not label_sets and len(classes["train"]) <= MOST_CLASSES
        else [],
        unlabelled={} if numbers or tagged else _unlabelled(named),
        inputs={part: len(inputs) for part, inputs in groups.items()},
        rows={part: len(rows) for part, rows in parts.items()},
        alike=_alike(classes["train"]) if classes else [],
        joined=_joined(classes["train"]) if classes and not label_sets else [],
        label_sets=label_sets,
        spreads=Spreads.of(parts) if numbers else None,
    )


def _by_input(rows: Sequence[Row]) -> dict[bytes, list[Row]]:
    """The rows of each input."""
    groups: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        content = row.input_bytes()
        # A digest of what is long: images and books need not be kept a second time.
        groups[content if len(content) < 64 else hashlib.sha256(content).digest()].append(row)
    return groups


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that are one but for case, blanks, composition of letters, or how a number or switch is put."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        plain = SWITCHES.get(plain, plain)
        with contextlib.suppress(ValueError, OverflowError):
            plain = repr(float(plain))
        groups[plain].append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _joined(names: Iterable[str]) -> list[str]:
    """Names that other names make, with a bar, a semicolon or a comma between them."""
    known = set(names)
    return [
        name
        for name in names
        if any(
            len(pieces) > 1 and known.issuperset(piece.strip() for piece in pieces)
            for pieces in (name.split(joint) for joint in JOINTS)
        )
    ]


def _unlabelled(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Of the rows of each target, by part, those that stand for none."""
    different: set[str] = set().union(*counts.values())
    missing = {target for target in different if target.strip().lower() in MISSING}
    # -1, 0 and 1 may be opinions; -1 beside three classes or more from 0 on is a mark.
    if (
        "-1" in different
        and {"0", "1", "2"} <= different
        and all(t == "-1" or t.isdecimal() for t in different)
    ):
        missing.add("-1")
    return {
        part: found
        for part, targets in counts.items()
        if (found := {target: targets[target] for target in sorted(missing) if targets.get(target)})
    }


def _are_classes(rows: Sequence[Row]) -> bool:
    """Whether the targets are a few labels, be it as class names or as texts to write."""
    different = {row.target for row in rows}
    return 1 < len(different) <= min(MOST_CLASSES, max(2, len(rows) // ROWS_A_CLASS))


def _contradictions(groups: Iterable[Sequence[Row]]) -> list[Contradiction]:
    return [
        Contradiction([row.id for row in rows], sorted({row.target for row in rows}), excerpt(rows[0]))
        for rows in groups
        if len({row.target for row in rows}) > 1
    ]


def truncation_warnings(report: EncodeReport, part: str = "training", tokens: str = "") -> list[str]:
    """Say how much of a part is cut off, if that is more than one row in a hundred.

    Args:
        report: Of the part's rows.
        part: Its name.
        tokens: Whose tokens count (` of t5-small`), where there are several models.
    """
    counts = {"inputs": report.truncated_inputs, "targets": report.truncated_targets}
    return [
        f"{count} of {report.rows} {part} {what} {verb} longer than data.max_{what[:-1]}_tokens{tokens} and "
        f"{verb} cut off ({count / report.rows:.0%}{_of_pairs(report) if what == 'inputs' else ''})."
        for what, count in counts.items()
        for verb in ("is" if count == 1 else "are",)
        if count > CUT * report.rows
    ]


def _of_pairs(report: EncodeReport) -> str:
    """Which text of pairs was cut, and how often."""
    if report.truncated_texts is None:
        return ""
    return "; the first text of {:,} rows, the second of {:,}".format(*report.truncated_texts)
