"""Rules that span several fields of a recipe: combinations that cannot work, or would not be honest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deltatune.phrasing import listing
from deltatune.recipe.axes import section_of
from deltatune.recipe.base_rules import base_conflicts
from deltatune.recipe.choosing_rules import choosing_conflicts
from deltatune.recipe.column_rules import column_conflicts, vector_conflicts
from deltatune.recipe.curve_rules import curve_conflicts
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.formats import ONE_PART_FORMATS, TEXT_FORMATS, format_by_name
from deltatune.recipe.messages import Conflict
from deltatune.recipe.sections import CHAT, CONVERSATION_FORMS, IMAGE_FORMATS, DataSpec
from deltatune.recipe.spaces import ends, searched_axes
from deltatune.recipe.split_rules import split_conflicts
from deltatune.recipe.templates import template_fields
from deltatune.tasks import TASKS, tasks_that
from deltatune.tasks.task import AUTO

LONGEST_NAME = 200
"""Bytes; file systems allow 255, and a folder's name has a seed and what is tried in it too."""

SHOWN = 40
"""Characters of a value that a message shows."""
DEFAULT_TEMPLATE = "{input}"
OF_TARGETS = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")
"""Fields about targets and about what is written in their place."""


def find_conflicts(recipe: RecipeFields) -> list[Conflict]:
    """Check the whole recipe; every conflict is reported, not only the first."""
    conflicts = [
        *_sources(recipe.data),
        *_templates(recipe),
        *column_conflicts(recipe),
        *_without_effect(recipe),
        *_task(recipe),
        *_lists(recipe),
        *_training(recipe),
        *vector_conflicts(recipe),
        *choosing_conflicts(recipe),
        *curve_conflicts(recipe),
        *split_conflicts(recipe),
        *base_conflicts(recipe),
        *_starts(recipe),
    ]
    return list(dict.fromkeys(conflicts))


def _sources(data: DataSpec) -> Iterator[Conflict]:
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    given = [part for part, name in files.items() if name]
    if data.source and given:
        yield (
            "data.source",
            f"cannot stand beside data.{given[0]}: give one source, or one file for each part.",
        )
        return
    if not data.source and not data.train:
        yield "data", "names no training rows: give data.source, or data.train."
        return
    split = data.split
    if data.source:
        if split is None and format_by_name(data.source, data.format) in ONE_PART_FORMATS:
            yield "data.split", "is missing: one source needs a split, such as {validation: 0.1, test: 0.1}."
    else:
        for part in ("validation", "test"):
            if not files[part] and split is None:
                yield (
                    f"data.{part}",
                    f"is missing: name a file, or take a share of the training rows with "
                    f"data.split: {{{part}: 0.1}} (0 for none).",
                )
    if split is None:
        return
    for part, share in (("validation", split.validation), ("test", split.test)):
        if share and files[part]:
            yield f"data.split.{part}", f"({share}) cannot stand beside data.{part}, which names a file."
    if (split.validation or 0) + (split.test or 0) >= 1:
        yield (
            "data.split",
            "leaves no training rows: the shares of validation and test must add up to less than 1.",
        )


def _templates(recipe: RecipeFields) -> Iterator[Conflict]:
    target = recipe.data.target_template
    for field, template in _shown(recipe):
        yield from _template(field, template, recipe)
    if target == CHAT:
        yield "data.target_template", "cannot be 'chat': only the input is wrapped as a chat turn."
    elif target is not None:
        yield from _fields("data.target_template", target)[1]


def _shown(recipe: RecipeFields) -> Iterator[tuple[str, str]]:
    """Each template by which rows may be read, and where it is written."""
    yield "data.template", recipe.data.template
    for where, template in _own(recipe, "data", "template"):
        if isinstance(template, str):  # else its axis has said that it is none
            yield where, template


def _own(recipe: RecipeFields, section: str, name: str) -> Iterator[tuple[str, Any]]:
    """Where and how entries, and searches for them, differ from the recipe in a field of a section."""
    common = getattr(getattr(recipe, section), name)
    for index, entry in enumerate(recipe.methods):
        own = getattr(entry, section)
        if own is not None and getattr(own, name) != common:
            yield f"methods.{index}.{section}.{name}", getattr(own, name)
        for field, axis, where in searched_axes(recipe, entry, f"methods.{index}.space"):
            if field == f"{section}.{name}":
                yield from ((f"{where}.{field}", value) for value in ends(axis))


def _template(field: str, template: str, recipe: RecipeFields) -> Iterator[Conflict]:
    columns, task = recipe.data.columns, TASKS.get(recipe.task)
    if reason := task.senseless.get("data.template"):
        if template != DEFAULT_TEMPLATE:
            yield field, reason.format(task=task.name)
        return
    if template == CHAT:
        if not task.chat:
            fitting = tasks_that(lambda task: task.chat)
            yield field, f"'chat' is for the task {listing(fitting, 'or')} only."
        if columns.target is None:
            yield "data.columns.target", "is null, but a chat turn needs an answer as its target."
        return
    names, problems = _fields(field, template)
    yield from problems
    leaks = {name for name in ("target", *columns.targets) if name in names and name != columns.input}
    if leaks and columns.target is not None:
        yield field, f"shows the target ({{{min(leaks)}}}) to the model; take it out."


def _fields(field: str, template: str) -> tuple[list[str], list[Conflict]]:
    """The columns that a template names, and what is wrong with it."""
    try:
        names = template_fields(template)
    except ValueError as error:
        return [], [(field, f"is not a template: {error} Write {{{{ and }}}} for braces.")]
    if not names:
        return [], [(field, f"({template!r}) contains no {{column}}, so every row would be the same.")]
    return names, []


def _without_effect(recipe: RecipeFields) -> Iterator[Conflict]:
    """Entries that differ in what a task does not use would be the same, and rank as a tie."""
    unused = TASKS.get(recipe.task).without_effect if recipe.has_targets else OF_TARGETS
    for field in unused:
        for where, value in _own(recipe, *field.split(".")):
            what = recipe.task if recipe.has_targets else f"{recipe.task} without a target"
            yield where, f"({value}) has no effect on {what}: leave it out."


def _task(recipe: RecipeFields) -> Iterator[Conflict]:
    data, task = recipe.data, TASKS.get(recipe.task)
    names = {
        f"data.{part}": name
        for part in ("source", "train", "validation", "test")
        if (name := getattr(data, part))
    }
    formats = {field: format_by_name(name, data.format) for field, name in names.items()}
    yield from _text_files(data, set(formats.values()))
    for field, kind in formats.items():
        if task.formats and kind not in (*task.formats, "auto", "hub", "bundled"):
            yield (
                field,
                f"has format {kind}, which holds no {task.reads}; {task.name} reads "
                f"{', '.join(task.formats)} or hub.",
            )
        if task.reads == "text" and kind in IMAGE_FORMATS:
            fitting = tasks_that(lambda task: task.reads == "images")
            yield (
                field,
                f"has format {kind}, which holds images; they need the task {listing(fitting, 'or')}.",
            )
        yield from _tagged(field, kind, recipe)
    yield from _senseless(recipe)
    yield from _conversations(recipe)
    if recipe.evaluation.tasks and not task.continues:
        fitting = tasks_that(lambda task: task.continues)
        yield (
            "evaluation.tasks",
            f"is for the task {' or '.join(fitting)}; {task.name} does not go on with text.",
        )
    if recipe.evaluation.general and not task.writes_text:
        fitting = tasks_that(lambda task: task.writes_text)
        yield (
            "evaluation.general",
            f"is for the task {listing(fitting, 'or')}; a base for {task.name} has no head that predicts "
            "text, so it has no loss on any.",
        )
    if data.packing is True and not task.packs:
        fitting = tasks_that(lambda task: task.packs)
        yield "data.packing", f"(true) is for the task {listing(fitting, 'or')}; {task.name} pads its rows."
    if data.columns.target is None and not task.plain_text:
        fitting = tasks_that(lambda task: task.plain_text)
        yield (
            "data.columns.target",
            f"is null, but {task.name} needs a target; only {listing(fitting, 'or')} can learn plain text.",
        )
    yield from _metrics(recipe)
    yield from _shown_rows(recipe)


def _shown_rows(recipe: RecipeFields) -> Iterator[Conflict]:
    """What shows rows before others is for tasks that can write them so, and rows have targets to show."""
    for index, entry in enumerate(recipe.methods):
        if not entry.build_config().shows_rows:
            continue
        if not TASKS.get(recipe.task).shows_rows:
            fitting = tasks_that(lambda task: task.shows_rows)
            yield (
                f"methods.{index}",
                f"({entry.name}) shows training rows before a text; that is for the task "
                f"{listing(fitting, 'or')}, and not for {recipe.task}: take it out.",
            )
        elif not recipe.has_targets:
            yield (
                f"methods.{index}",
                f"({entry.name}) shows rows with their targets, and data.columns.target is null: name a "
                "target column, or take it out.",
            )


def _tagged(field: str, kind: str, recipe: RecipeFields) -> Iterator[Conflict]:
    """Files with a word a line are for tasks about words."""
    task = TASKS.get(recipe.task)
    if kind == "conll" and not task.tags_words:
        fitting = tasks_that(lambda task: task.tags_words)
        yield (
            field,
            f"has format conll, which holds tagged words; they need the task {listing(fitting, 'or')}.",
        )
    if kind in ("sentence-label", "table-folder") and task.tags_words:
        yield (
            field,
            f"has format {kind}, which holds no tags; set data.format to conll if the file has a word and "
            "its tag in each line.",
        )


def _conversations(recipe: RecipeFields) -> Iterator[Conflict]:
    """What says how conversations are written and learned is for tasks about them."""
    data = recipe.data
    if TASKS.get(recipe.task).conversations:
        return
    given = {"data.train_on": data.train_on, "data.chat_template": data.chat_template}
    given |= {"data.format": data.format} if data.format in CONVERSATION_FORMS else {}
    fitting = tasks_that(lambda task: task.conversations)
    for field, value in given.items():
        if value is not None:
            shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
            yield field, f"({shown}) is for the task {listing(fitting, 'or')}; {recipe.task} reads none."


def _senseless(recipe: RecipeFields) -> Iterator[Conflict]:
    """Fields that the task has no use for, and that say something all the same."""
    task, defaults = TASKS.get(recipe.task), {"data.template": DEFAULT_TEMPLATE}
    for field, reason in task.senseless.items():
        section, name = field.split(".")
        places = {section: getattr(recipe, section)}
        places |= {
            f"methods.{index}.{section}": getattr(e, section) for index, e in enumerate(recipe.methods)
        }
        for where, given in places.items():
            if field not in defaults and given is not None and getattr(given, name, None) is not None:
                yield f"{where}.{name}", reason.format(task=task.name)


def _text_files(data: DataSpec, formats: set[str]) -> Iterator[Conflict]:
    """What says how text is written is of no use to other files."""
    if data.encoding is not None and not formats & {*TEXT_FORMATS, "auto"}:
        yield "data.encoding", f"is for text; {', '.join(sorted(formats))} has an encoding of its own."
    if data.delimiter is not None and not formats & {"csv", "tsv", "table-folder", "conll", "auto"}:
        yield "data.delimiter", f"is for csv, tsv, conll and tables; {', '.join(sorted(formats))} has none."


def _metrics(recipe: RecipeFields) -> Iterator[Conflict]:
    evaluation = recipe.evaluation
    named: list[tuple[str, str]] = [("primary", evaluation.primary), ("select_by", evaluation.select_by)]
    if evaluation.metrics != "auto":
        named += [("metrics", metric) for metric in evaluation.metrics]
    task = TASKS.get(recipe.task)
    if task.scored_as != "text":
        for field, metric in named:
            if metric not in ("auto", *task.metrics, *task.more_metrics):
                offered = ", ".join((*task.metrics, *task.more_metrics))
                yield f"evaluation.{field}", f"({metric}) is for other tasks; {task.name} has {offered}."


def _lists(recipe: RecipeFields) -> Iterator[Conflict]:
    seen: dict[str, int] = {}
    for index, entry in enumerate(recipe.methods):
        if not entry.slug:
            yield f"methods.{index}.name", f"({entry.name!r}) has no letter or digit to name a folder by."
        elif len(entry.slug.encode(errors="replace")) > LONGEST_NAME:
            yield (
                f"methods.{index}.name",
                f"({entry.name[:40]!r}...) is too long to name a folder by ({LONGEST_NAME} bytes at most).",
            )
        elif entry.slug in seen:
            yield (
                f"methods.{index}",
                f"({entry.name!r}) has the label of methods.{seen[entry.slug]}; give it a label of its own "
                f"with name: (labels that make the same folder name {entry.slug!r} count as equal).",
            )
        seen.setdefault(entry.slug, index)
    if len(set(recipe.seeds)) < len(recipe.seeds):
        yield "seeds", f"({recipe.seeds}) has one twice; the same seed gives the same run."


def _starts(recipe: RecipeFields) -> Iterator[Conflict]:
    """A saved delta has its size and its settings, and something that was trained."""
    for index, entry in enumerate(recipe.methods):
        if entry.start is None:
            continue
        where = f"methods.{index}"
        if not entry.build_config().trains:
            yield f"{where}.from", f"has no effect on {entry.method}, which trains nothing: leave it out."
        if entry.budget is not None:
            yield (
                f"{where}.budget",
                f"({entry.budget}) cannot stand beside from: the saved delta has its size. Give the entry "
                "`budget: null`.",
            )
        for field, _, axis in searched_axes(recipe, entry, f"{where}.space"):
            if section_of(field) is None:
                yield f"{axis}.{field}", "cannot be searched beside from: the saved delta has its settings."


def _training(recipe: RecipeFields) -> Iterator[Conflict]:
    data = recipe.data
    if not TASKS.get(recipe.task).new_head:
        given = [("train.head_lr", recipe.train.head_lr), *_own(recipe, "train", "head_lr")]
        for field, rate in given:
            if rate is not None:
                yield (
                    field,
                    f"({rate}) is for new heads of classifiers; {recipe.task} has none: leave it out.",
                )
    yield from _of_classes(recipe)
    no_validation = not data.validation and data.split is not None and data.split.validation == 0
    if not no_validation:
        return
    for index, entry in enumerate(recipe.methods):
        if entry.train.early_stopping is not None:
            field = (
                "train"
                if entry.train.early_stopping == recipe.train.early_stopping
                else f"methods.{index}.train"
            )
            yield f"{field}.early_stopping", "needs validation rows, but data.split.validation is 0."


def _of_classes(recipe: RecipeFields) -> Iterator[Conflict]:
    """Weights are for cross-entropy of classes, a positive class and losses for the tasks that have them."""
    task, fitting = TASKS.get(recipe.task), tasks_that(lambda task: task.weighs_classes)
    weights = [("train.class_weights", recipe.train.class_weights), *_own(recipe, "train", "class_weights")]
    for field, value in weights:
        if value is not None and not task.weighs_classes:
            why = "has a loss of its own" if task.has_classes else "has no classes to weigh"
            yield field, f"({value}) is for {listing(fitting)}; {task.name} {why}: leave it out."
    for field, value in [("train.loss", recipe.train.loss), *_own(recipe, "train", "loss")]:
        if value not in (AUTO, *task.other_losses):
            yield (
                field,
                f"({value}) is no loss of {task.name}: write {listing([AUTO, *task.other_losses], 'or')}.",
            )
    positive = recipe.evaluation.positive
    if positive is not None and (not task.has_classes or task.has_label_sets or task.tags_words):
        yield (
            "evaluation.positive",
            f"({positive}) is for tasks that tell classes of rows apart, and {task.name} does not: leave it "
            "out.",
        )
