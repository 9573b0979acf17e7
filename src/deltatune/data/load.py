"""From a recipe's data section to checked rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.data.cells import check_labels, check_values
from deltatune.data.checks import check_rows
from deltatune.data.conversations import asked_row, conversation_rows
from deltatune.data.dataset import Dataset
from deltatune.data.groups import with_groups
from deltatune.data.label_cells import LabelCells, find_label_cells
from deltatune.data.label_sets import LabelSets, label_names
from deltatune.data.making import ColumnMap, make_row, refuse_unlabelled, require_numbers, used_columns
from deltatune.data.pairs import LABEL, named_pair, read_apart, require_both, said_of_pairs
from deltatune.data.positives import (
    SCORES,
    asked_text,
    columns_of,
    require_contrast,
    require_like_negatives,
    text_columns,
)
from deltatune.data.readers import Writing, read_source
from deltatune.data.references import (
    counted,
    each_apart,
    items,
    put_together,
)
from deltatune.data.rows import Record, Row, Table, fingerprint
from deltatune.data.splits import limit_rows, split_groups, split_rows
from deltatune.data.subsets import narrowed
from deltatune.data.tag_set import tag_labels
from deltatune.data.tagged import asked_words, splitting_of_rows, tagged_rows, word_columns
from deltatune.errors import DataError, nearest
from deltatune.recipe.load import is_remote
from deltatune.recipe.sections import CHAT, PARTS, DataSpec
from deltatune.recipe.templates import template_fields
from deltatune.tasks import TASKS
from deltatune.tasks.classes import in_order
from deltatune.tasks.label_sets import labels_of
from deltatune.tasks.values import Scales, scale_of_targets

DEFAULT_SHARE = 0.1
_SHOWN = 40
"""Characters of an input in a message."""


def load_data(spec: DataSpec, task: str, root: str | Path = ".", *, primary: str = "auto") -> Dataset:
    """Read, split, limit and check the rows of a recipe.

    Labels are collected from all training rows, before `limit`. Labels that are all whole numbers are ordered
    as numbers, others as text. Numbers are standardised by the training rows that are used. In a
    classification, what is split off has the classes' shares of all rows.

    Args:
        spec: The recipe's data section.
        task: The recipe's task.
        root: The folder that relative paths are meant from.
        primary: The recipe's `evaluation.primary`, which warnings may advise to change.

    Raises:
        DataError: Anything is wrong; the message names the file, the row and the field, and what to do.
    """
    notes: list[str] = []
    parts, cells = _read_parts(spec, task, Path(root), notes)
    _check_ids(parts)
    if not parts["train"]:
        raise DataError(
            "leaves no training rows.", field="data.split", remedy="Lower the shares or add rows."
        )
    labels = None
    if cells is not None:
        labels = label_names(parts["train"], cells.columns if cells.flags else None)
    elif TASKS.get(task).tags_words:
        labels = tag_labels(parts, notes)
    elif TASKS.get(task).has_classes:
        labels = _labels(parts, notes, TASKS.get(task).reads)
    seed = spec.split.seed if spec.split else 0
    limited = {part: limit_rows(rows, getattr(spec.limit, part), seed) for part, rows in parts.items()}
    train, validation, test = (limited[part] for part in PARTS)
    scale = scale_of_targets([row.target for row in train]) if TASKS.get(task).has_values else None
    spread = scale.warnings(primary) if isinstance(scale, Scales) else []
    sets = LabelSets.of(limited, labels, cells.told) if cells is not None and labels is not None else None
    require_like_negatives(limited)
    require_contrast(train, task, primary)
    tagged = TASKS.get(task).tags_words
    check = check_rows(
        train,
        validation,
        test,
        labelled=labels is not None and not tagged,
        numbers=scale is not None or TASKS.get(task).has_scores,
        label_sets=sets,
        tagged=tagged,
    )
    dataset = Dataset(
        learned := each_apart(train),
        validation,
        test,
        labels=list(scale.targets) if isinstance(scale, Scales) else labels,
        scale=scale,
        pair=read_apart(train[0].columns, spec, task),
        references=counted(limited),
        fingerprint=fingerprint(learned, validation, test),
        warnings=[*dict.fromkeys(notes), *spread, *check.warnings(primary)],
        check=check,
        splitting=splitting_of_rows(train) if tagged else None,
    )
    subset = spec.limit.subset
    return dataset if subset is None else narrowed(dataset, subset, task)


def prompt_row(
    value: str | Path | Mapping[str, Any],
    spec: DataSpec,
    task: str,
    row_id: str = "0",
    splitting: str | None = None,
) -> Row:
    """Make a row without target from a user's input, as for prediction.

    Args:
        value: A text or an image file, for the input column; or all columns that the template names.
        spec: The recipe's data section, whose template is applied.
        task: The recipe's task.
        row_id: The row's name.
        splitting: How a text is split into words where these have tags, as of `Dataset`.

    Raises:
        DataError: The input is empty, or lacks a column that the template names.
    """
    if TASKS.get(task).conversations:
        return asked_row(value if isinstance(value, Mapping) else str(value), spec, row_id)
    if TASKS.get(task).tags_words:
        return asked_words(value if isinstance(value, Mapping) else str(value), spec, row_id, splitting)
    name = "input" if spec.columns.input == "auto" else spec.columns.input
    images = TASKS.get(task).reads == "images"
    if isinstance(value, Mapping):
        columns = dict(value)
        known = (name, "table", "sentence", "text", "image", *_fields(spec))
        name = next((key for key in known if key in columns), name)
    else:
        columns = {name: Path(value) if images else str(value)}
        if not images:
            columns |= {field: str(value) for field in _sole_field(spec)}
    name, pair = read_apart(columns, spec, task) or (name, None)
    template = spec.template
    if TASKS.get(task).finds_targets:
        name, template = asked_text(columns, spec, name)
    alike = TASKS.get(task).has_scores
    mapping = ColumnMap(name, None, None, template, None, images, pair=pair, alike=alike)
    return make_row(Record(f"input {row_id}", columns), mapping, row_id)


def asked_columns(spec: DataSpec, task: str) -> Sequence[str]:
    """Columns that a row to predict for may have in place of a text: words, or a text to be found."""
    if TASKS.get(task).tags_words:
        return word_columns(spec)
    return text_columns(spec) if TASKS.get(task).finds_targets else ()


def _sole_field(spec: DataSpec) -> list[str]:
    """With `columns.input: auto`, a template of one field can only mean the input by it."""
    fields = _fields(spec)
    return fields if spec.columns.input == "auto" and len(fields) == 1 else []


def _fields(spec: DataSpec) -> list[str]:
    """Columns that the template names, apart from the input."""
    return [] if spec.template == CHAT else sorted(set(template_fields(spec.template)) - {"input"})


def _read_parts(
    spec: DataSpec, task: str, root: Path, notes: list[str]
) -> tuple[dict[str, list[Row]], LabelCells | None]:
    """Read the parts that have a source, and note what a person should know about files and values."""
    tables = _read_tables(spec, root, notes)
    cells = None
    if TASKS.get(task).has_label_sets:
        records = [record for records, _ in tables.values() for record in records]
        cells = find_label_cells(records, spec, tables["train"][1].target, notes)
    parts = {part: _rows(*read, spec, task, notes, cells) for part, read in tables.items()}
    similar = bool(spec.split and spec.split.keep_similar)
    parts = with_groups(parts, spec.columns.group, similar=similar, notes=notes)
    return _complete(parts, spec, task), cells


def _read_tables(spec: DataSpec, root: Path, notes: list[str]) -> dict[str, tuple[list[Record], Table]]:
    """The records of each part that has a source, with what is known of this."""
    if spec.source is None:
        return {part: _read_part(part, spec, root, notes) for part in PARTS if getattr(spec, part)}
    table = _read(spec.source, spec, root)
    notes += table.warnings
    tables = {part: (records, table) for part, records in table.parts.items()}
    tables = {"train": tables["all"]} if "all" in tables else tables
    if "train" not in tables:
        raise DataError(
            f"has the parts {', '.join(tables)}, but no train.",
            field=spec.source,
            remedy="Name a file for each part: data.train, data.validation, data.test.",
        )
    return tables


def _read(source: str, spec: DataSpec, root: Path) -> Table:
    return read_source(_locate(source, spec, root), spec.format, Writing(spec.delimiter, spec.encoding))


def _read_part(part: str, spec: DataSpec, root: Path, notes: list[str]) -> tuple[list[Record], Table]:
    source = getattr(spec, part)
    table = _read(source, spec, root)
    notes += table.warnings
    names = [other for other in PARTS if other != part and getattr(spec, other)]
    twins = [
        other for other in names if _locate(getattr(spec, other), spec, root) == _locate(source, spec, root)
    ]
    if twins and "all" in table.parts:
        raise DataError(
            f"is the file of data.{twins[0]} too: rows that train or select a model cannot judge it.",
            field=f"data.{part}",
            remedy="Name another file, or take a share of the training rows with data.split.",
        )
    records = table.parts.get("all") or table.parts.get(part)
    if not records:
        raise DataError(
            f"has the parts {', '.join(table.parts)}, but no {part}.",
            field=source,
            remedy=f"Name another source as data.{part}.",
        )
    return records, table


def _complete(parts: dict[str, list[Row]], spec: DataSpec, task: str) -> dict[str, list[Row]]:
    """Take the parts that are missing out of the training rows."""
    shares: dict[str, float] = {"validation": 0.0, "test": 0.0}
    for part in shares:
        share = getattr(spec.split, part) if spec.split else None
        if part in parts and share:
            raise DataError(
                f"({share}) cannot hold: {spec.source or getattr(spec, part)} has {part} rows of its own.",
                field=f"data.split.{part}",
                remedy="Take it out of the recipe.",
            )
        if part not in parts:
            if spec.split is None:
                raise DataError(
                    f"has no {part} rows.",
                    field=str(spec.source or spec.train),
                    remedy=f"Take some of the training rows with data.split: {{{part}: 0.1}} (0 for none).",
                )
            shares[part] = DEFAULT_SHARE if share is None else share
    seed = spec.split.seed if spec.split else 0
    rows = parts["train"]
    classes = sets = None
    if TASKS.get(task).has_label_sets:
        sets = [labels_of(row.target) for row in rows]
    elif TASKS.get(task).has_classes and not TASKS.get(task).tags_words:
        classes = [row.target for row in rows]
    if rows and rows[0].group is not None:
        labels = sets or [[name] for name in classes or [""] * len(rows)]
        groups = [row.group for row in rows]
        split = split_groups(rows, groups, shares["validation"], shares["test"], seed, labels)
    else:
        split = split_rows(rows, shares["validation"], shares["test"], seed, classes, sets)
    train, validation, test = split
    taken = {"validation": validation, "test": test}
    for part, share in shares.items():
        if share and not taken[part] and rows:
            count = len({row.group for row in rows}) if rows[0].group is not None else None
            unit = "row" if count is None else "group"
            alone = f"{unit} of each class" if classes else f"{unit} of each label" if sets else unit
            similar = spec.split is not None and bool(spec.split.keep_similar)
            there = "" if count is None else f", and {len(rows)} rows are {count} group{'s' * (count > 1)}"
            raise DataError(
                f"({share}) leaves no {part} rows: a {alone} must stay for training{there}.",
                field=f"data.split.{part}",
                remedy=f"Lower the shares, add rows{there and ' of other groups'}, or give the part a file "
                f"of its own.{' keep_similar: false makes smaller groups.' if similar else ''}",
            )
    return {**taken, **parts, "train": train}


def _locate(source: str, spec: DataSpec, root: Path) -> str:
    if spec.format in ("hub", "bundled") or is_remote(source):
        return source
    return str(root / source)


def _rows(  # noqa: PLR0917 - what was read, how it is read, and what is said of it
    records: Sequence[Record],
    table: Table,
    spec: DataSpec,
    task: str,
    notes: list[str],
    cells: LabelCells | None,
) -> list[Row]:
    if not records:  # a part of a file, or of a data set of the Hub, may hold none
        return []
    if TASKS.get(task).conversations:
        return conversation_rows(records, spec)
    if TASKS.get(task).tags_words:
        return tagged_rows(records, table, spec, notes)
    columns, there = spec.columns, records[0].columns
    pair = named_pair(there, spec, task, table.input)
    apart = read_apart(there, spec, task, table.input)
    known = SCORES if TASKS.get(task).has_scores else (LABEL,)
    own = next((n for n in (table.target, *known) if pair and n in there), table.target)
    targets = cells.columns if cells else tuple(own if n == "auto" else n for n in columns.targets)
    found = columns_of(records, table, columns) if TASKS.get(task).finds_targets else None
    targets = (found.positive,) if found else targets
    numbers = targets if TASKS.get(task).has_values and len(targets) > 1 else ()
    target = targets[0] if targets and cells is None and not numbers else None
    named = table.input if columns.input == "auto" else columns.input
    mapping = ColumnMap(
        input=found.anchor if found else pair[0] if pair else named,
        target=target,
        id=columns.id,
        template=spec.template,
        target_template=spec.target_template,
        images=TASKS.get(task).reads == "images",
        labels=cells,
        pair=apart[1] if apart else None,
        numbers=numbers,
        several=TASKS.get(task).several_references,
        negatives=found.negatives if found else (),
        alike=TASKS.get(task).has_scores,
    )
    for name in template_fields(spec.template) if spec.template != CHAT else ():
        if name in targets and name != mapping.input:
            raise DataError(
                f"shows the target ({{{name}}}) to the model.", field="data.template", remedy="Take it out."
            )
    notes += check_values(records, used_columns(mapping), target if TASKS.get(task).has_classes else None)
    if mapping.several and target is not None:
        notes += check_values(list(items(records, target)), [target], None)
    notes += said_of_pairs(there, spec, task)
    refuse_unlabelled(records, mapping)
    if mapping.pair is not None:
        require_both(records, mapping.pair)
    if TASKS.get(task).has_values or TASKS.get(task).has_scores:
        require_numbers(records, mapping)
    rows = [make_row(record, mapping, str(number)) for number, record in enumerate(records)]
    return put_together(rows) if mapping.several and mapping.id is not None else rows


def _check_ids(parts: Mapping[str, Sequence[Row]]) -> None:
    for part, rows in parts.items():
        seen: dict[str, Row] = {}
        for row in rows:
            if row.id in seen:
                same = seen[row.id].input_bytes() == row.input_bytes()
                shown = " and ".join(repr(str(each.input)[:_SHOWN]) for each in (seen[row.id], row))
                inputs = "" if same else f", with different inputs: {shown}"
                raise DataError(
                    f"occurs twice among the {part} rows{inputs}.",
                    field=f"id {row.id!r}",
                    remedy="Ids must be unique, but for several references of one input: choose another "
                    "data.columns.id, or leave it out.",
                )
            seen[row.id] = row


def _labels(parts: Mapping[str, Sequence[Row]], notes: list[str], reads: str) -> list[str]:
    notes += check_labels([row.target for row in parts["train"]], reads)
    different = {row.target for row in parts["train"]}
    labels = in_order(different)
    if len(labels) < 2:
        raise DataError(
            f"is the only label of the {len(parts['train'])} training rows.",
            field=f"label {labels[0]!r}",
            remedy="A classification needs rows of at least two classes.",
        )
    for part in ("validation", "test"):
        for row in parts[part]:
            if row.target not in different:
                raise DataError(
                    f"has the label {row.target!r}, which no training row has.",
                    field=f"{part} row {row.id}",
                    remedy=f"{nearest(row.target, labels[:20])} Mend the label, or add training rows of it.",
                )
    return labels
