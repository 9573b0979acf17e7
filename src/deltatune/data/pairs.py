"""Rows of two texts: which columns are a pair, by the recipe or by the names that they commonly have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deltatune.data.cells import as_text
from deltatune.data.rows import Record
from deltatune.errors import DataError
from deltatune.recipe.sections import DataSpec
from deltatune.recipe.templates import template_fields
from deltatune.tasks import TASKS

NAMES = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
"""Columns of pairs in common data sets: SNLI, MultiNLI, GLUE, STS."""
LABEL = "label"
"""The column of their targets."""


def named_pair(
    columns: Collection[str], spec: DataSpec, task: str, own: str = "input"
) -> tuple[str, str] | None:
    """The columns of the first and the second text of a row; None if it has one text.

    Args:
        columns: Names of the row's columns.
        spec: The recipe's data section.
        task: The recipe's task.
        own: The column that `input: auto` means. Where a row has none, names that pairs commonly have are
            known.
    """
    named = spec.columns
    if not TASKS.get(task).pairs:
        return None
    pair = None
    if named.input == "auto" and own not in columns:
        known = (each for each in NAMES if set(each) <= set(columns) and not {*named.targets} & {*each})
        pair = next((each for each in known if named.pair in (None, each[1])), None)
    if pair is None and named.pair is not None:
        pair = (own if named.input == "auto" else named.input, named.pair)
    return pair


def read_apart(
    columns: Collection[str], spec: DataSpec, task: str, own: str = "input"
) -> tuple[str, str] | None:
    """The columns of two texts that a model reads as two; None if a template writes both into one.

    Arguments as of `named_pair`.
    """
    pair = named_pair(columns, spec, task, own)
    return None if pair is None or pair[1] in template_fields(spec.template) else pair


def said_of_pairs(columns: Collection[str], spec: DataSpec, task: str) -> list[str]:
    """A warning of a column that looks like a second text and is not read."""
    first, named = spec.columns.input, spec.columns.pair
    others = [second for name, second in NAMES if name == first and second in columns]
    if not TASKS.get(task).pairs or named or not others or others[0] in template_fields(spec.template):
        return []
    return [
        f"the rows have a column {others[0]!r} beside {first!r}, as pairs of texts have, and it is not read; "
        f"if it shall be, set data.columns.pair: {others[0]}."
    ]


def require_both(records: Sequence[Record], pair: str) -> None:
    """Refuse rows whose second text is empty.

    Raises:
        DataError: There are such rows; it says how many.
    """
    empty = [r for r in records if pair in r.columns and not _filled(r.columns[pair])]
    if empty:
        others = f", as have {len(empty) - 1} more of {len(records)} rows" if empty[1:] else ""
        raise DataError(
            f"has an empty second text (column {pair!r}){others}.",
            field=empty[0].where,
            remedy="Fill or remove it; or write both columns into one text by data.template, and leave "
            "data.columns.pair out.",
        )


def _filled(value: object) -> bool:
    try:
        return bool(as_text(value).strip())
    except UnicodeDecodeError:
        return True  # it is no text, which is said elsewhere
