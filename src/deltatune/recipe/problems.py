"""From pydantic's errors to one message that names every wrong field, its value, the rule and the remedy."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deltatune.errors import RecipeError
from deltatune.phrasing import rule, short
from deltatune.recipe.axes import BITS, SECTIONS, same_for_all
from deltatune.recipe.grid import Origin
from deltatune.recipe.schema import ENTRY_KEYS, MethodEntry, Recipe

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

PEFT = {
    "rank": "r", "lora_rank": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora",
    "target_modules": "targets", "feedforward_modules": "feedforward", "num_virtual_tokens": "n_tokens",
    "prompt_tuning_init_text": "text", "oft_block_size": "block_size",
}  # fmt: skip
"""Settings as peft spells them, and as we do."""
PLAIN = {"missing": "is missing.", "too_short": "must have at least one item."}


def as_recipe_error(error: ValidationError, content: Any, origins: Sequence[Origin] = ()) -> RecipeError:
    """Gather all problems of a validation into one error.

    Args:
        error: What pydantic raised for `Recipe`.
        content: The recipe's content with its grids expanded, to name a method entry's parts as written.
        origins: For each expanded entry where it came from; problems are named there.
    """
    problems = _gathered(
        pair for detail in error.errors(include_url=False) for pair in _unfold(detail, content)
    )
    problems = {path: text for path, text in problems.items() if not _repeats(path, problems)}
    return _one_error(_before_expansion(problems, origins))


def parse_section(kind: type[M], value: Any, where: str) -> M:
    """Validate one part of a recipe on its own.

    Raises:
        RecipeError: It breaks a rule; `where` is the part's place in the recipe.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = _gathered(
            (_dotted((where, *filter(_written, detail["loc"]))), _describe(detail, kind, detail["loc"]))
            for detail in error.errors(include_url=False)
        )
        raise _one_error(problems) from error


def settings_error(error: ValidationError, method: type[BaseModel]) -> RecipeError:
    """All problems of a method's settings that were written in Python."""
    return _one_error(
        _gathered(
            (_dotted(detail["loc"]), _describe(detail, method, detail["loc"]))
            for detail in error.errors(include_url=False)
        )
    )


def _gathered(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    problems: dict[str, str] = {}
    for path, text in found:
        known = problems.get(path)  # a union reports each of its branches
        problems[path] = text if known in (None, text) else _either(known, text)
    return problems


def _before_expansion(problems: dict[str, str], origins: Sequence[Origin]) -> dict[str, str]:
    """Name problems of expanded entries where the recipe has them: the first of each grid's field."""
    found: dict[str, str] = {}
    for path, text in problems.items():
        found.setdefault(_as_expanded_from(path, origins), _renumbered(text, origins))
    return found


def _as_expanded_from(path: str, origins: Sequence[Origin]) -> str:
    steps = path.split(".")
    if steps[0] != "methods" or len(steps) < 2 or not steps[1].isdecimal() or not origins:
        return path
    origin = origins[int(steps[1])]
    if steps[2:3] == ["model"] and origin.model:
        return ".".join([origin.model, *steps[3:]])
    section = steps[2] if len(steps) > 2 else ""
    axes = {BITS: steps[2:3]} | {name: steps[2:4] for name in SECTIONS}  # others are the method's
    field = ".".join(axes.get(section, steps[3:4]))
    if field in origin.shared:
        return f"grid.{field}"
    if field in origin.own:
        return f"methods.{origin.entry}.grid.{field}"
    return ".".join(["methods", str(origin.entry), *steps[2:]])


def _renumbered(text: str, origins: Sequence[Origin]) -> str:
    def number(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"methods.{origins[index].entry if index < len(origins) else index}"

    return re.sub(r"\bmethods\.(\d+)", number, text)


def _one_error(problems: dict[str, str]) -> RecipeError:
    if len(problems) == 1:
        [(path, text)] = problems.items()
        return RecipeError(text, field=path or None)
    lines = "".join(f"\n  {path}: {text}" if path else f"\n  {text}" for path, text in problems.items())
    return RecipeError(f"The recipe has {len(problems)} problems:{lines}")


def _unfold(detail: Any, content: Any) -> Iterable[tuple[str, str]]:
    path: Path = tuple(detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "conflicts":
        yield from context["list"]
    elif kind == "method_config":
        owner = _method_class(context["method"])
        for inner in context["errors"]:
            inner_path = (*path, context["method"], *inner["loc"])
            yield _dotted(inner_path), _describe(inner, owner, inner["loc"])
    else:
        yield _dotted(_as_written(path, content)), _describe(detail, Recipe, path)


def _describe(detail: Any, owner: type[BaseModel], path: Path) -> str:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        if path[0] == "methods" and (reason := same_for_all(str(path[-2]), str(path[-1]))):
            return reason
        known = _known(owner, path[:-1])
        ours = PEFT.get(str(path[-1]), "")
        close = [ours] if ours in known else difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        return f"is not a known key. {hint}Known here: {', '.join(known)}."
    if kind in PLAIN:
        return PLAIN[kind]
    if kind in ("value_error", "entry", "unknown_method"):
        return str(context.get("error", detail["msg"]))
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{short(value)} must be a mapping of settings."
    broken = rule(detail)
    if kind == "literal_error" and isinstance(value, str):
        options = [option.strip("'") for option in context["expected"].replace(" or ", ", ").split(", ")]
        close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
        broken += f". Did you mean {close[0]!r}?" if close else ""
    return f"{short(value)} {broken}" + ("" if broken.endswith("?") else ".")


def _either(first: str, second: str) -> str:
    """Join the rules of two branches of a union, of which the value fits neither."""
    return f"{first.rstrip('.')}, or {second.partition(' must ')[2] or second}"


def _known(owner: type[BaseModel], path: Path) -> list[str]:
    """List the keys that are allowed at `path` below the model `owner`."""
    for step in path:
        if isinstance(step, int) or step not in owner.model_fields:
            continue
        inner = _model_in(owner.model_fields[step].annotation)
        owner = inner or owner
    if owner is MethodEntry:
        from deltatune.methods import METHODS

        return [*METHODS.names(), *ENTRY_KEYS, "grid"]
    if owner is Recipe:
        return [*owner.model_fields, "grid", "sample"]
    return [field.alias or name for name, field in owner.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


def _method_class(name: str) -> type[BaseModel]:
    from deltatune.methods import METHODS

    return METHODS.get(name)


def _as_written(path: Path, content: Any) -> Path:
    """Replace `config` in a method entry's path by the method's name, and drop pydantic's branch names."""
    if len(path) > 2 and path[0] == "methods" and path[2] == "config":
        entry = content["methods"][path[1]]
        names = [key for key in entry if key not in ENTRY_KEYS] if isinstance(entry, dict) else [str(entry)]
        path = (*path[:2], names[0], *path[3:])
    return tuple(filter(_written, path))


def _written(step: str | int) -> bool:
    """Tell a step of a path from the names that pydantic gives to branches of a union."""
    return isinstance(step, int) or step.isidentifier()


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _repeats(path: str, problems: dict[str, str]) -> bool:
    """Tell whether a problem of an entry is that of the recipe's own section, which the entry inherits."""
    steps = path.split(".")
    inherited, shared = ".".join(steps[2:]), {*SECTIONS, BITS, "budget"}
    return (
        steps[0] == "methods" and bool(shared & {*steps[2:3]}) and problems.get(inherited) == problems[path]
    )
