"""A part of the training rows, to learn how many are needed: a larger part holds a smaller one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

from deltatune.data.dataset import Dataset
from deltatune.data.rows import Row, fingerprint
from deltatune.data.splits import shuffled
from deltatune.recipe.sections import SubsetSpec
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import labels_of
from deltatune.tasks.task import Task
from deltatune.tasks.values import scale_of_targets


def narrowed(dataset: Dataset, subset: SubsetSpec, task: str) -> Dataset:
    """The data set with a part of its training rows; validation and test rows stay.

    Rows of one group, and the references of one input, stay together. So there are as many whole groups as
    fit, but one at least. What was found out about the data, and the labels, are those of all rows. Numbers
    are standardised by the rows that are left.

    Args:
        dataset: All rows.
        subset: How many training rows, and the seed by which they are drawn.
        task: The recipe's task.

    Raises:
        DataError: The targets of the rows that are left are all one number.
    """
    kind = TASKS.get(task)
    units = _together(dataset)
    order = nested_order(
        [_labels(kind, [dataset.train[place] for place in unit]) for unit in units], subset.seed
    )
    kept: list[int] = []
    count = 0
    for number in order:
        size = _inputs(dataset, units[number])
        if kept and count + size > subset.rows:
            break
        kept += units[number]
        count += size
    train = [dataset.train[place] for place in sorted(kept)]
    references = dataset.references
    return replace(
        dataset,
        train=train,
        scale=scale_of_targets([row.target for row in train]) if kind.has_values else None,
        references=references and {**references, "train": (count, len(train))},
        fingerprint=fingerprint(train, dataset.validation, dataset.test),
    )


def training_rows(dataset: Dataset) -> int:
    """How many training rows there are; the references of one input are one row."""
    return dataset.references["train"][0] if dataset.references else len(dataset.train)


def nested_order(labels: Sequence[frozenset[str]], seed: int) -> list[int]:
    """Places in an order whose every beginning holds about each label's share of all.

    In front is what it takes to have each label once. Behind it, those of the same labels are spread evenly.

    Args:
        labels: Of each place; none where there are none.
        seed: Of the shuffle.
    """
    order, chance = shuffled(len(labels), seed), random.Random(f"subset {seed}")
    seen: set[str] = set()
    first: dict[int, None] = {}
    for place in order:
        if not labels[place] <= seen:
            seen |= labels[place]
            first[place] = None
    there, dealt = Counter(labels), Counter[frozenset[str]]()
    share: dict[int, float] = {}
    for place in order:
        share[place] = (dealt[labels[place]] + chance.random()) / there[labels[place]]
        dealt[labels[place]] += 1
    return [*first, *sorted((place for place in order if place not in first), key=share.__getitem__)]


def _together(dataset: Dataset) -> list[list[int]]:
    """Places of training rows that must not be parted."""
    units: dict[Hashable, list[int]] = {}
    for place, row in enumerate(dataset.train):
        units.setdefault(_unit(dataset, row, place), []).append(place)
    return list(units.values())


def _unit(dataset: Dataset, row: Row, place: int) -> Hashable:
    if row.group is not None:
        return row.group
    # Rows that were made of one input's references share the columns that they were read from.
    return id(row.columns) if dataset.references else place


def _inputs(dataset: Dataset, unit: Sequence[int]) -> int:
    """How many rows a unit holds, references apart."""
    if not dataset.references:
        return len(unit)
    return len({id(dataset.train[place].columns) for place in unit})


def _labels(kind: Task, rows: Sequence[Row]) -> frozenset[str]:
    if kind.has_label_sets:
        return frozenset(label for row in rows for label in labels_of(row.target))
    if kind.has_classes:
        return frozenset(name for row in rows for name in row.class_names)
    return frozenset()
