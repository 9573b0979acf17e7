"""How a record becomes a row: which column is what, and what stands in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.data.cells import as_text, column_of, columns_as_text, is_image
from deltatune.data.label_cells import LabelCells
from deltatune.data.pairs import require_both
from deltatune.data.references import is_list, references_of, with_references
from deltatune.data.rows import Input, Record, Row
from deltatune.errors import DataError
from deltatune.recipe.sections import CHAT
from deltatune.recipe.templates import fill_template, template_fields
from deltatune.tasks import tasks_that
from deltatune.tasks.label_sets import as_text as label_text
from deltatune.tasks.values import no_number, number_of, several_as_text


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Which column is what, with `auto` resolved for one source."""

    input: str
    target: str | None
    id: str | None
    template: str
    target_template: str | None
    images: bool
    labels: LabelCells | None = None
    """Where the labels are, of which a row may have any number; `target` is None then."""
    pair: str | None = None
    negatives: tuple[str, ...] = ()
    """Columns of texts that the input shall not be near to."""
    alike: bool = False
    """Whether the template is put around the second text as around the first."""
    numbers: tuple[str, ...] = ()
    """The columns of several numbers, each of which is a target; `target` is None then."""
    several: bool = False
    """Whether a list of texts in the target's column is references."""


def used_columns(mapping: ColumnMap) -> list[str]:
    """The columns that become text for a model to read or to write."""
    templates = [mapping.template if mapping.template != CHAT else None, mapping.target_template]
    named = [name for template in templates if template for name in template_fields(template)]
    whole = (mapping.input, mapping.pair, None if mapping.several else mapping.target, mapping.id)
    return [name for name in (*whole, *mapping.negatives, *mapping.numbers, *named) if name is not None]


def refuse_unlabelled(records: Sequence[Record], mapping: ColumnMap) -> None:
    """Rows that teach nothing and judge nothing; how many there are says what to do about them."""
    for name in mapping.numbers or ([] if mapping.target is None else [mapping.target]):
        empty = [r for r in records if name in r.columns and not as_text(r.columns[name]).strip()]
        if empty:
            others = f", as have {len(empty) - 1} more of {len(records)} rows" if empty[1:] else ""
            raise DataError(
                f"has an empty target (column {name!r}){others}.",
                field=empty[0].where,
                remedy="Fill or remove it.",
            )


def require_numbers(records: Sequence[Record], mapping: ColumnMap) -> None:
    """Refuse rows whose target says no number."""
    for name in mapping.numbers or ([] if mapping.target is None else [mapping.target]):
        for record in records:
            if name in record.columns and number_of(text := as_text(record.columns[name])) is None:
                raise no_number(text, f"{record.where}, column {name!r}")


def make_row(record: Record, mapping: ColumnMap, number: str) -> Row:
    """Make a row of a record, whose id is `number` unless a column names it.

    Raises:
        DataError: A column is missing, or what it holds is of no use.
    """
    value = column_of(record, mapping.input, "data.columns.input")
    columns = columns_as_text(record)
    texts = _targets(record, mapping)
    others = [columns[name] for name in mapping.negatives]
    if mapping.target_template is not None:
        texts, others = (
            [_fill(mapping.target_template, columns | {"target": text}, record) for text in part]
            for part in (texts, others)
        )
    row_id = as_text(column_of(record, mapping.id, "data.columns.id")) if mapping.id else number
    pair = None if mapping.pair is None else _second(record, mapping.pair, columns)
    if pair is not None and mapping.alike:
        pair = _fill(mapping.template, columns | {"input": pair}, record)
    text, negatives = _input(value, columns, record, mapping), tuple(others)
    row = Row(row_id, text, texts[0], columns, pair=pair, negatives=negatives)
    if (own := columns.get(mapping.input)) is not None and own != text:
        row = replace(row, source=own)
    return with_references(row, texts) if texts[1:] else row


def _targets(record: Record, mapping: ColumnMap) -> list[str]:
    """The text of the target, or the texts of a list of references; empty without a target."""
    if mapping.labels is not None:
        return [label_text(mapping.labels.of(record))]
    if mapping.numbers:
        cells = {name: as_text(column_of(record, name, "data.columns.target")) for name in mapping.numbers}
        return [several_as_text({name: float(text) for name, text in cells.items()})]
    if mapping.target is None:
        return [""]
    value = column_of(record, mapping.target, "data.columns.target")
    if mapping.several and is_list(value):
        return references_of(value, record, mapping.target)
    return [as_text(value)]


def _second(record: Record, name: str, columns: Mapping[str, str]) -> str:
    """The second text of a row."""
    if is_image(column_of(record, name, "data.columns.pair")):
        raise DataError("holds an image.", field=f"{record.where}, column {name}", remedy="Give a text.")
    require_both([record], name)
    return columns[name]


def _input(value: Any, columns: dict[str, str], record: Record, mapping: ColumnMap) -> Input:
    if mapping.images:
        if not isinstance(value, np.ndarray | Path):
            raise DataError(
                f"holds no image but {str(value)[:40]!r}.",
                field=f"{record.where}, column {mapping.input}",
                remedy="Use an image-folder, npz or Hub data set with images, or another task.",
            )
        return value
    if is_image(value):
        fitting = tasks_that(lambda task: task.reads == "images")
        raise DataError(
            "holds an image.",
            field=f"{record.where}, column {mapping.input}",
            remedy=f"Images need a task that reads images, such as {fitting[0]}.",
        )
    text = columns[mapping.input]
    if mapping.template != CHAT:
        text = _fill(mapping.template, columns | {"input": text}, record)
    if not text.strip():
        raise DataError("has an empty input.", field=record.where, remedy="Fill or remove it.")
    return text


def _fill(template: str, columns: Mapping[str, str], record: Record) -> str:
    for name in template_fields(template):
        if name not in columns:
            column_of(Record(record.where, dict(columns)), name, f"the template ({template!r})")
    return fill_template(template, columns)
