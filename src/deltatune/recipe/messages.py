"""What is wrong with a part of a recipe, or a method's settings: the field, its value, the rule, the remedy.

It knows sections and settings by their classes alone, so that every other module of recipes may use it.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deltatune.errors import RecipeError
from deltatune.phrasing import rule, short
from deltatune.recipe.section import Section

Conflict = tuple[str, str]
"""(dotted path of the field, what is wrong and what to do)"""
Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

PEFT = {
    "rank": "r", "lora_rank": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora",
    "target_modules": "targets", "feedforward_modules": "feedforward", "num_virtual_tokens": "n_tokens",
    "prompt_tuning_init_text": "text", "oft_block_size": "block_size",
}  # fmt: skip
"""Settings as peft spells them, and as we do."""
PLAIN = {"missing": "is missing.", "too_short": "must have at least one item."}


def parse_section(kind: type[M], value: Any, where: str) -> M:
    """Validate one part of a recipe on its own.

    Raises:
        RecipeError: It breaks a rule; `where` is the part's place in the recipe.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = gathered(
            (dotted((where, *filter(written, detail["loc"]))), describe(detail, kind, detail["loc"]))
            for detail in of_fitting_branches(error.errors(include_url=False))
        )
        raise one_error(problems) from error


def settings_error(error: ValidationError, method: type[BaseModel]) -> RecipeError:
    """All problems of a method's settings that were written in Python."""
    return one_error(
        gathered(
            (dotted(detail["loc"]), describe(detail, method, detail["loc"]))
            for detail in of_fitting_branches(error.errors(include_url=False))
        )
    )


def gathered(pairs: Iterable[Conflict]) -> dict[str, str]:
    """What is wrong, by field; the rules of a union's branches become one sentence."""
    problems: dict[str, str] = {}
    for path, text in pairs:
        known = problems.get(path)  # a union reports each of its branches
        problems[path] = text if known in (None, text) else _either(known, text)
    return problems


def of_fitting_branches(details: Iterable[Any]) -> list[Any]:
    """Pydantic's findings, without what other branches of a union say of a value that one looked into."""
    found = list(details)
    paths = [tuple(filter(written, detail["loc"])) for detail in found]
    above = {path[:length] for path in paths for length in range(len(path))}
    return [
        detail
        for detail, path in zip(found, paths, strict=True)
        if path not in above or not detail["type"].endswith(("literal_error", "_type"))
    ]


def one_error(problems: dict[str, str]) -> RecipeError:
    """One error that names every problem."""
    if len(problems) == 1:
        [(path, text)] = problems.items()
        return RecipeError(text, field=path or None)
    lines = "".join(f"\n  {path}: {text}" if path else f"\n  {text}" for path, text in problems.items())
    return RecipeError(f"The recipe has {len(problems)} problems:{lines}")


def describe(detail: Any, owner: type[BaseModel], path: Path) -> str:
    """Say one of pydantic's findings: the value, the rule and the remedy.

    Args:
        detail: As `ValidationError.errors` lists it.
        owner: The class that was validated.
        path: The steps from there to what is wrong.
    """
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
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
    return owner.known_keys() if issubclass(owner, Section) else list(owner.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


def written(step: str | int) -> bool:
    """Tell a step of a path from the names that pydantic gives to branches of a union."""
    return isinstance(step, int) or step.isidentifier()


def dotted(path: Path) -> str:
    """A path as a recipe's reader writes it: `methods.0.lora.r`."""
    return ".".join(map(str, path))
