"""Rules about what columns mean: a row has the texts and the targets that its task has a use for."""

from __future__ import annotations

from collections.abc import Iterator

from deltatune.phrasing import listing
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.messages import Conflict
from deltatune.tasks import TASKS, tasks_that


def column_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """Check the columns against each other and against the task."""
    columns = recipe.data.columns
    if columns.input in columns.targets and columns.input != "auto":
        yield "data.columns", f"input and target are the same column ({columns.input!r})."
    yield from _pair(recipe)
    yield from _negative(recipe)
    yield from _several_targets(recipe)


def _pair(recipe: RecipeFields) -> Iterator[Conflict]:
    """A second text is for tasks that read pairs, and a column of its own."""
    columns, task = recipe.data.columns, TASKS.get(recipe.task)
    if columns.pair is None:
        return
    for name, others in (("input", (columns.input,)), ("target", columns.targets)):
        if columns.pair in others:
            yield "data.columns", f"pair and {name} are the same column ({columns.pair!r})."
    if not task.pairs:
        fitting = tasks_that(lambda task: task.pairs)
        remedy = "leave it out."
        if task.reads == "text" and not task.conversations:
            first = "input" if columns.input == "auto" else columns.input
            remedy = f"write both into one text, such as data.template: '{{{first}}} {{{columns.pair}}}'."
        yield (
            "data.columns.pair",
            f"({columns.pair}) is for {listing(fitting)}; {task.name} has no second text: {remedy}",
        )


def _several_targets(recipe: RecipeFields) -> Iterator[Conflict]:
    """Rows with several targets are for tasks that learn them."""
    data, task = recipe.data, TASKS.get(recipe.task)
    names = data.columns.target
    if isinstance(names, tuple):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            yield "data.columns.target", f"names {twice!r} twice."
        if not task.several_targets:
            fitting = tasks_that(lambda task: task.several_targets)
            yield (
                "data.columns.target",
                f"names {len(names)} columns, and {task.name} has one target; several are for "
                f"{listing(fitting, 'or')}.",
            )
    if data.separator is not None and not task.has_label_sets:
        fitting = tasks_that(lambda task: task.has_label_sets)
        yield "data.separator", f"({data.separator!r}) is for {listing(fitting, 'or')}; leave it out."
    if data.separator is not None and isinstance(names, tuple):
        yield "data.separator", f"({data.separator!r}) is of no use beside a column for each label."


def _negative(recipe: RecipeFields) -> Iterator[Conflict]:
    """Texts that are not to be found are for tasks that find texts, each in a column of its own."""
    columns, task = recipe.data.columns, TASKS.get(recipe.task)
    if columns.negative is not None and not task.finds_targets:
        fitting = tasks_that(lambda task: task.finds_targets)
        named = ", ".join(columns.negatives) or "[]"
        yield "data.columns.negative", f"({named}) is for the task {listing(fitting, 'or')}."
    for name, others in (("input", (columns.input,)), ("target", columns.targets)):
        for twice in {*columns.negatives} & {*others}:
            yield "data.columns", f"negative and {name} are the same column ({twice!r})."


def vector_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """Pooling is for tasks about vectors, and a loss among the rows of a step needs several of them."""
    task = TASKS.get(recipe.task)
    if not task.embeds:
        fitting = tasks_that(lambda task: task.embeds)
        for model in recipe.models:
            if model.pooling is not None:
                yield "model.pooling", f"({model.pooling}) is for the tasks {listing(fitting)}."
    if task.spans_rows:
        for index, entry in enumerate(recipe.methods):
            if entry.train.batch_size == 1:
                same = recipe.train.batch_size == 1
                where = "train" if same else f"methods.{index}.train"
                yield (
                    f"{where}.batch_size",
                    f"(1) leaves nothing to compare: {task.name} learns by the other rows of a step. Take as "
                    "many as you can; train.micro_batch_size keeps the memory small, with the same result.",
                )
