"""From a source to a recipe that `check` accepts: looked at, proposed, tried, and tried again if cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.errors import DataError, DeltatuneError, ModelError, RecipeError, SilentRowError, nearest
from deltatune.observer import Observer
from deltatune.printable import printable
from deltatune.recipe.load import is_remote, parse_recipe
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import Format
from deltatune.recipe.yaml_text import parse_yaml
from deltatune.starting.look import Look, is_id, look_at
from deltatune.starting.models import bases_for
from deltatune.starting.propose import LIKELY, Named, Proposal, fit, proposals, require_named
from deltatune.starting.settings import Settings, most_tokens, settings_for
from deltatune.starting.text import Content, recipe_text
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.results import DataPreview

AUTO = "auto"
_TRIES = 8
_SHOWN = 12
_UP = 2
"""Folders above a recipe's that a relative path still names clearly."""


@dataclass(frozen=True)
class Sketch:
    """A recipe that was tried."""

    text: str
    recipe: Recipe
    steps: int
    """Of a run."""
    methods: Sequence[str]
    warnings: Sequence[str]
    """Of the data, as `check` gives them."""
    untried: str | None = None
    """Why the rows were not put through a tokenizer, where they were not."""


def proposal_of(look: Look, task: str, named: Named, *, asking: bool = False) -> Proposal:
    """How a task that the user names reads the rows, or with `auto` the task that they are for.

    Args:
        look: The rows.
        task: Its name.
        named: Columns that the user names.
        asking: Whether the user is asked about the columns next, so that a guess will do.

    Raises:
        DeltatuneError: It cannot be told; the message names the flag that says it.
    """
    require_named(look, named)
    if task != AUTO:
        made = fit(TASKS.get(task, field="--task"), look, named)
        if made is None:
            raise DeltatuneError(
                f"the rows of '{look.source}' do not show what {task} needs ({TASKS.get(task).rows} "
                f"They have the columns {_columns(look)}.",
                field="--input",
                remedy="Name the columns with --input and --target.",
            )
        if made.unclear and not asking:
            raise DeltatuneError(
                f"several columns of '{look.source}' could be meant: {_columns(look)}.",
                field=made.unclear,
                remedy="Name the columns with --input and --target.",
            )
        return made
    found = proposals(look, named)
    best = [each for each in found if each.fit == found[0].fit]
    if not found or best[0].fit < LIKELY or len(best) > 1:
        options = " or ".join(f"--task {each.task} ({each.why})" for each in best) or "--task"
        raise DeltatuneError(
            f"the columns {_columns(look)} do not tell what is to be learned from '{look.source}'.",
            field="--task",
            remedy=f"Say it: {options}; and which columns, with --input and --target.",
        )
    return best[0]


def _columns(look: Look) -> str:
    names = [f"{printable(name)!r} ({column.kind})" for name, column in look.columns.items()]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def sketch(
    look: Look,
    proposal: Proposal,
    model: str | None,
    folder: Path,
    *,
    declared: Format = "auto",
    observer: Observer,
) -> Sketch:
    """Write a recipe and try it as `check` does, until nothing is cut that need not be.

    Args:
        look: The rows.
        proposal: The task, and how it reads them.
        model: The base; None: the likeliest.
        folder: Where the recipe will lie.
        declared: The format, where the user names it.
        observer: Is told of the progress.

    Raises:
        DeltatuneError: The rows cannot be used so; as of `check`.
    """
    from deltatune.core.devices import device_of, on_gpu

    task = TASKS.get(proposal.task)
    bases = bases_for(task)
    chosen = model or next(iter(bases.all), None)
    if chosen is None:
        raise RecipeError(
            f"no base is known for {task.name}.",
            field="--model",
            remedy="Name one: a folder, or an id of the Hub.",
        )
    chosen = _model_name(chosen, folder)
    settings = settings_for(task, look, proposal, on_gpu=on_gpu(device_of("auto")))
    rows = ", ".join(
        f"{count:,} rows" if part == "all" else f"{part} {count:,}" for part, count in look.rows.items()
    )
    content = Content(
        proposal=proposal,
        settings=settings,
        source=source_name(look.source, folder),
        format=None if declared == "auto" else declared,
        rows=rows,
        model=chosen,
        others=[name for name in bases.all if name != chosen],
        columns=_with_id(look, proposal),
        unread=_unread(look, proposal),
    )
    untried, warnings = None, list(look.table.warnings)
    for _ in range(_TRIES):
        recipe = _parsed(content, folder)
        try:
            found = _preview(recipe, observer)
        except ModelError as error:
            untried = error.what
            _require_data(recipe)
            break
        except SilentRowError as error:
            longer = content.settings.with_room(error.tokens or 0, most_tokens(task))
            if longer == content.settings:
                raise
            content = replace(content, settings=longer)
            continue
        except DataError as error:
            if error.field != "data.chat_template" or content.plain_chat:
                raise
            content = replace(content, plain_chat=error.what)
            continue
        warnings = list(found.warnings)
        better = _fitted(content.settings, found, most_tokens(task))
        same = (better.input_tokens, better.target_tokens) == (settings.input_tokens, settings.target_tokens)
        content, settings = replace(content, settings=better), better
        if same:
            break
    recipe = _parsed(content, folder)
    entries = [entry.name for entry in recipe.methods]
    steps = recipe.train.steps(content.settings.rows)
    return Sketch(recipe_text(content), recipe, steps, entries, warnings, untried)


def _with_id(look: Look, proposal: Proposal) -> dict[str, Any]:
    """The columns with that which names a row, where there is one."""
    names = [column.name for column in look.columns.values() if is_id(column, len(look.records))]
    return {**proposal.columns, **({"id": names[0]} if names else {})}


def _unread(look: Look, proposal: Proposal) -> list[str]:
    """The first columns that are left out; none are named where the format says what is read."""
    if "input" not in proposal.columns:
        return []
    used = {name for value in _with_id(look, proposal).values() for name in _listed(value)}
    used |= {name for name in look.columns if name.lower().startswith("negative")}
    names = [printable(column.name) for column in look.columns.values() if column.name not in used]
    return [*names[:_SHOWN], "..."] if len(names) > _SHOWN else names


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parsed(content: Content, folder: Path) -> Recipe:
    return parse_recipe(parse_yaml(recipe_text(content), "the recipe"), root=folder)


def _preview(recipe: Recipe, observer: Observer) -> DataPreview:
    from deltatune.training.before.preview import preview

    return preview(recipe, 0, observer)


def _require_data(recipe: Recipe) -> None:
    """Read the rows as training would, without a tokenizer."""
    from deltatune.data.load import load_data

    load_data(recipe.data, recipe.task)


def _fitted(settings: Settings, found: DataPreview, most: int) -> Settings:
    """Limits that suit what the tokenizer made of the training rows, and what it made of them in words."""
    counts = found.models[0].tokens.get("train")
    if counts is None:
        return settings
    rows = max(1, found.rows["train"])
    cut, target_cut = counts.truncated_inputs / rows, counts.truncated_targets / rows
    made = settings.with_lengths(cut, target_cut, most)
    if made != settings:
        return made
    told = f"the longest training row has {counts.longest:,} tokens, the median {counts.median_length:,g}"
    cut_off = f"; {counts.truncated_inputs:,} are cut" if counts.truncated_inputs else ""
    target_why = "targets are cut at this" if counts.truncated_targets else "no target is longer"
    return replace(settings, input_why=told + cut_off, target_why=target_why, rows=rows)


def source_name(source: str, folder: Path) -> str:
    """A source as a recipe in `folder` names it: relative where it lies near, so that both can be moved."""
    if is_remote(source):
        return source
    path = os.path.relpath(Path(source).resolve(), folder.resolve())
    return path if path.split(os.sep)[: _UP + 1].count("..") <= _UP else str(Path(source).resolve())


def _model_name(name: str, folder: Path) -> str:
    """A base as a recipe in `folder` names it: a folder must begin with ./ or be absolute.

    Raises:
        RecipeError: It is a bundled model that there is not.
    """
    from deltatune.models.bundled import BUNDLED_MODELS, PREFIX

    if name.startswith(PREFIX):
        if name.removeprefix(PREFIX) not in BUNDLED_MODELS:
            raise RecipeError(
                f"there is no {name!r}.",
                field="--model",
                remedy=nearest(name, [f"{PREFIX}{each}" for each in BUNDLED_MODELS.names()]),
            )
        return name
    path = Path(name).expanduser()
    if not path.exists() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return name
    if path.is_absolute():
        return str(path)
    near = os.path.relpath(path.resolve(), folder.resolve())
    return near if near.startswith("..") else f"./{near}"


def looked(source: str, declared: Format = "auto") -> Look:
    """Look at a source that the user names.

    Raises:
        DataError: It cannot be read.
    """
    name = source if is_remote(source) else str(Path(source).expanduser())
    return look_at(name, declared)
