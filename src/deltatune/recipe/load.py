"""Reading a recipe: YAML, overrides, paths, validation."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deltatune.errors import RecipeError
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.grid import expand_grids
from deltatune.recipe.problems import as_recipe_error
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import BUNDLED_TEXT, PLAIN_CHAT
from deltatune.recipe.yaml_text import DEEPEST, parse_yaml

MOST = 2**63
"""Whole numbers in a recipe are below it."""
PATH_FIELDS = ("source", "train", "validation", "test")


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: The YAML file. Relative paths of data and of deltas to start from are meant from its folder, and
            so is a model `./NAME`.
        overrides: Dotted changes such as `train.lr=3e-4`, `methods.0.lora.r=16`, `data.limit.train=100`; the
            value is YAML. Relative paths in them are meant from the recipe's folder too.

    Raises:
        RecipeError: The file cannot be read, or breaks a rule; every wrong field is named.
    """
    path = Path(path)
    return parse_recipe(read_recipe(path), overrides, root=path.parent)


def read_recipe(path: Path) -> Any:
    """Read what a recipe file holds, before any rule but YAML's.

    Raises:
        RecipeError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot be read ({error.strerror}).", field=str(path), remedy="Name a recipe file, in YAML."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            "is not text in UTF-8.", field=str(path), remedy="Name a recipe file, in YAML."
        ) from error
    return parse_yaml(text, str(path))


def parse_recipe(content: Any, overrides: Iterable[str] = (), *, root: str | Path | None = None) -> Recipe:
    """Validate a recipe that was read already, or written in Python.

    Args:
        content: The mapping that a recipe file holds; it is not changed.
        overrides: As for `load_recipe`.
        root: The folder that relative paths are meant from. None leaves them as they are.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    if not isinstance(content, Mapping):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise RecipeError(f"A recipe is a mapping of fields such as task and model; this one is {found}.")
    for override in overrides:
        content = apply_override(content, override)
    content = _of_one_set(content)
    _require_countable(content, ())
    content, origins = expand_grids(content)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise as_recipe_error(error, content, origins) from error
    recipe = _with_chat_template(recipe, Path() if root is None else Path(root))
    return recipe if root is None else _resolve_paths(recipe, Path(root).resolve())


def _of_one_set(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A list of one data set is that set (`data_sets.py` makes a recipe for each of several).

    Raises:
        RecipeError: There are several, or none.
    """
    sections = content.get("data")
    if not isinstance(sections, list):
        return content
    if len(sections) != 1:
        raise RecipeError(
            f"has {len(sections) or 'no'} data sets, and here is room for one.",
            field="data",
            remedy="`deltatune compare` compares on all of them, each in a folder sets/NAME with a "
            'recipe.yaml of its own: give that one, or one section by --set "data={source: FILE, ...}".'
            if sections
            else "Write one: data: FILE, or {source: FILE, ...}.",
        )
    section = sections[0]
    if isinstance(section, Mapping):
        section = {key: value for key, value in section.items() if key != "name"}
    return {**content, "data": section}


def _with_chat_template(recipe: Recipe, root: Path) -> Recipe:
    """Put the template's text in the place of its file, so that a run can be used without it.

    Raises:
        RecipeError: There is no such file.
    """
    given = recipe.data.chat_template
    if given in (None, PLAIN_CHAT) or any(mark in given for mark in ("{{", "{%")):
        return recipe
    path = root / given
    try:
        if not path.is_file():  # a device has no end
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise RecipeError(
            f"({given}) cannot be read as a file ({reason}).",
            field="data.chat_template",
            remedy="Name a file with a Jinja template, or write plain.",
        ) from error
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"chat_template": text})})


def _require_countable(value: Any, above: tuple[str, ...]) -> None:
    """Refuse whole numbers that no machine counts to: libraries below would end on them."""
    if isinstance(value, int) and abs(value) >= MOST:
        raise RecipeError("is a number of more than 63 bits.", field=".".join(above))
    items = value.items() if isinstance(value, Mapping) else enumerate(value if _is_list(value) else ())
    for key, item in items:
        _require_countable(item, (*above, str(key)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def apply_override(content: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Return a copy of a recipe's content with one dotted field set.

    A step is a key, or the number of an item in a list. Short forms are widened on the way: in
    `methods.0.lora.r=16` the entry may be written `lora`, and `model.revision=v2` works on a model's name.

    Raises:
        RecipeError: It is not `field=value`, or a step leads into a plain value or past a list's end.
    """
    field, equals, text = override.partition("=")
    steps = field.strip().split(".")
    if not equals or not all(steps) or len(steps) > DEEPEST:
        raise RecipeError(
            f"The override {override[:200]!r} is not of the form field=value, such as train.lr=3e-4."
        )
    changed = _set(dict(content), steps, parse_yaml(text, f"--set {field}"), ())
    assert isinstance(changed, dict)
    return changed


def _set(node: Any, steps: list[str], value: Any, above: tuple[str, ...]) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    here = (*above, step)
    node = _widen(node, above, step)
    if isinstance(node, Mapping):
        return {**node, step: _set(node.get(step), rest, value, here)}
    if isinstance(node, list):
        if not step.isdecimal() or int(step) >= len(node):
            raise RecipeError(
                f"{step!r} is not an item of the list, which has {len(node)}.",
                field=".".join(here),
                remedy="Items are numbered from 0.",
            )
        index = int(step)
        return [*node[:index], _set(node[index], rest, value, here), *node[index + 1 :]]
    raise RecipeError(f"cannot be set: {'.'.join(above)} is the plain value {node!r}.", field=".".join(here))


def _widen(node: Any, above: tuple[str, ...], step: str) -> Any:
    if node is None:
        return {}
    if isinstance(node, str) and above[:1] == ("methods",) and len(above) == 2:
        return {node: None}
    if isinstance(node, str) and (above == ("data",) or _is_item(above)):
        return {"source": node}
    path = above[2:] if above[:1] == ("methods",) else above
    if isinstance(node, str) and path[:1] == ("model",) and len(path) <= 2:  # the model, or one of a list
        return {"name": node}
    return node


def _is_item(above: tuple[str, ...]) -> bool:
    """Whether a place is that of one data set of several."""
    return above[:1] == ("data",) and len(above) == 2 and above[1].isdecimal()


def _resolve_paths(recipe: Recipe, root: Path) -> Recipe:
    data = recipe.data
    changes = {
        field: str(root / name)
        for field in PATH_FIELDS
        if (name := getattr(data, field)) and data.format not in ("hub", "bundled") and not is_remote(name)
    }
    entries = [
        entry.model_copy(
            update={
                "model": entry.model and _resolve_model(entry.model, root),
                "start": entry.start and str((root / entry.start).resolve()),
            }
        )
        for entry in recipe.methods
    ]
    tasks = recipe.evaluation.tasks
    tasks = tasks and [str((root / name).resolve()) for name in tasks]
    general = recipe.evaluation.general
    if general and general != BUNDLED_TEXT and not is_remote(general):
        general = str((root / general).resolve())
    sections = {
        "evaluation": recipe.evaluation.model_copy(update={"tasks": tasks, "general": general}),
        "data": data.model_copy(update=changes),
        "model": _resolve_model(recipe.model, root),
        "methods": entries,
    }
    return recipe.model_copy(update=sections)


def _resolve_model(model: ModelSpec, root: Path) -> ModelSpec:
    if not model.name.startswith(("./", "../")):
        return model
    return model.model_copy(update={"name": str((root / model.name).resolve())})


def is_remote(name: str) -> bool:
    """Tell whether a data source is no path: `hub:ID` or `bundled:NAME`."""
    return name.startswith(("hub:", "bundled:"))
