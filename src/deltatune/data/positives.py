"""Rows of texts that belong together, and of texts that do not: which columns they are in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text
from deltatune.data.rows import Record, Row, Table
from deltatune.errors import DataError
from deltatune.recipe.sections import ColumnsSpec, DataSpec
from deltatune.tasks import TASKS, tasks_that
from deltatune.tasks.vectors import OF_NEGATIVES

NAMES = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "answer"),
    ("premise", "entailment"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
)
"""Columns of an anchor and its positive in common data sets."""
SCORES = ("score", "scores", "similarity", "similarity_score", "label")
"""Columns of numbers that say how alike two texts are."""
_NEGATIVE = re.compile(r"(hard_)?negatives?(_?\d+)?")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()


def columns_of(records: Sequence[Record], table: Table, spec: ColumnsSpec) -> Columns:
    """The columns of a source, as the recipe says or as they are commonly named.

    Args:
        records: Its rows.
        table: What its format calls input and target.
        spec: What the recipe says.

    Raises:
        DataError: The rows are pairs with scores, which another task learns; or some lack a negative.
    """
    names = records[0].columns
    known = _known(names, table)
    anchor = spec.input if spec.input != "auto" else known[0]
    if isinstance(spec.target, str) and spec.target != "auto":
        positive = spec.target
    else:
        beside = [second for first, second in NAMES if first == anchor and second in names]
        positive = beside[0] if beside and anchor != table.input else known[1]
    if spec.negative is None:
        all_names = dict.fromkeys(name for record in records for name in record.columns)
        negatives = tuple(name for name in all_names if _NEGATIVE.fullmatch(name) and name != positive)
    else:
        negatives = spec.negatives
    score = next((name for name in SCORES if name in names), None)
    if spec.target == "auto" and score is not None and not negatives and known == (anchor, positive):
        fitting = tasks_that(lambda task: task.has_scores)
        raise DataError(
            f"has the column {score!r} beside {anchor!r} and {positive!r}: pairs with scores.",
            field=records[0].where,
            remedy=f"Set task: {fitting[0]}, which learns them; or name the columns of texts that belong "
            f"together: data.columns: {{input: {anchor}, target: {positive}}}.",
        )
    _require_negatives(records, negatives)
    return Columns(anchor, positive, negatives)


def told_columns(columns: Mapping[str, str], spec: ColumnsSpec, task: str) -> tuple[str, str] | None:
    """The columns of anchors and positives, by a row's own, for people; None of other tasks."""
    if not TASKS.get(task).finds_targets:
        return None
    known = _known(columns, Table({}))
    anchor = known[0] if spec.input == "auto" else spec.input
    positive = known[1] if spec.target == "auto" else spec.targets[0]
    return (anchor, positive) if {anchor, positive} <= set(columns) else None


def _known(names: Collection[str], table: Table) -> tuple[str, str]:
    """The format's own columns, where they are there; else those that are named as pairs commonly are."""
    if table.input in names and table.target in names:
        return table.input, table.target
    found = [pair for pair in NAMES if set(pair) <= set(names)]
    return found[0] if found else (table.input, table.target)


def asked_text(columns: Mapping[str, Any], spec: DataSpec, name: str) -> tuple[str, str]:
    """Of a row that is only asked about, the column of its text, and the template that is put around it.

    That is an anchor; or a text to be found, where the row has no other.

    Args:
        columns: The row's.
        spec: The recipe's data section.
        name: The column of anchors, as far as it is known.
    """
    if name in columns:
        return name, spec.template
    named = spec.columns.targets if spec.columns.target != "auto" else ("target",)
    anchors, positives = zip(*NAMES, strict=True)
    known = [(each, spec.template) for each in anchors] if spec.columns.input == "auto" else []
    found = [(each, spec.target_template) for each in (*named, *(positives if known else ()))]
    column, template = next((each for each in (*known, *found) if each[0] in columns), (name, spec.template))
    return column, (template or "{input}").replace("{target}", "{input}")


def text_columns(spec: DataSpec) -> tuple[str, ...]:
    """Columns of texts, as the recipe names them or as they are commonly named."""
    named = (spec.columns.input, *spec.columns.targets)
    common = [name for pair in NAMES for name in pair]
    return tuple(name for name in ("input", "target", *named, *common) if name != "auto")


def _require_negatives(records: Sequence[Record], names: Sequence[str]) -> None:
    """Refuse rows of which some lack a negative that others have."""
    for name in names:
        empty = [r for r in records if not as_text(r.columns.get(name)).strip()]
        if empty:
            raise DataError(
                f"has no text in the column {name!r}, as have {len(empty)} of {len(records)} rows: all rows "
                "need as many negatives.",
                field=empty[0].where,
                remedy="Fill it or remove the rows; or write data.columns.negative: [] to leave negatives "
                "out.",
            )


def require_like_negatives(parts: Mapping[str, Sequence[Row]]) -> None:
    """Refuse parts whose rows have other numbers of negatives: files may have columns of their own.

    Raises:
        DataError: A part has more or fewer than the training rows.
    """
    counts = {part: len(rows[0].negatives) for part, rows in parts.items() if rows}
    for part, count in counts.items():
        if count != counts["train"]:
            raise DataError(
                f"have {count} negatives each, and the training rows {counts['train']}: all need as many.",
                field=f"the {part} rows",
                remedy="Give all files the same columns; or write data.columns.negative: [] to leave "
                "negatives out.",
            )


def require_contrast(rows: Sequence[Row], task: str, primary: str) -> None:
    """Refuse training rows that leave nothing to tell apart, where a task learns by comparing them.

    Args:
        rows: The rows.
        task: The recipe's task.
        primary: The recipe's `evaluation.primary`.

    Raises:
        DataError: All have the same anchor, the same positive, or the same score; or there are no negatives,
            and the metric that decides is about them.
    """
    if primary == OF_NEGATIVES and not rows[0].negatives:
        raise DataError(
            f"({primary}) is about negatives, and the rows have none.",
            field="evaluation.primary",
            remedy="Name their column as data.columns.negative, or another metric.",
        )
    if TASKS.get(task).has_scores and len({float(row.target) for row in rows}) == 1:
        raise DataError(
            f"are all {rows[0].target}: there is no order to learn.",
            field=f"the scores of {len(rows)} training rows",
            remedy="Choose another data.columns.target, or add rows with other scores.",
        )
    if not TASKS.get(task).finds_targets:
        return
    for what, texts in (("anchor", {row.input for row in rows}), ("positive", {row.target for row in rows})):
        if len(texts) == 1:
            raise DataError(
                f"have one {what} ({str(min(map(str, texts)))[:40]!r}): there is nothing to tell apart.",
                field=f"the {len(rows)} training rows",
                remedy="Choose other data.columns, or add rows.",
            )
