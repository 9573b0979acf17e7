"""Rows of texts that belong together, and of texts that do not: which columns they are in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text
from deltatune.data.rows import Record, Row, Table
from deltatune.errors import DataError
from deltatune.recipe.sections import ColumnsSpec
from deltatune.tasks import TASKS, tasks_that

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
        negatives = tuple(name for name in names if _NEGATIVE.fullmatch(name) and name != positive)
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


def _known(names: Collection[str], table: Table) -> tuple[str, str]:
    """The format's own columns, where they are there; else those that are named as pairs commonly are."""
    if table.input in names and table.target in names:
        return table.input, table.target
    found = [pair for pair in NAMES if set(pair) <= set(names)]
    return found[0] if found else (table.input, table.target)


def asked_column(columns: Mapping[str, Any]) -> str | None:
    """The column of a row that is only asked about: that of an anchor, as it is commonly named."""
    return next((first for first, _ in NAMES if first in columns), None)


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


def require_contrast(rows: Sequence[Row], task: str) -> None:
    """Refuse training rows that leave nothing to tell apart, where a task learns by comparing them.

    Raises:
        DataError: All have the same anchor, the same positive, or the same score.
    """
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
