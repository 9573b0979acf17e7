"""The recipe.yaml that a run or a comparison writes into its folder: with every default filled in.

It is written so that YAML 1.1 and 1.2 read the same: what either would take for a number or a switch is
quoted. It is read as recipes are; files of version 0.1, which quoted by the rules of 1.1 alone, by those.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deltatune.errors import RecipeError
from deltatune.recipe.load import parse_recipe
from deltatune.recipe.rates import AUTO
from deltatune.recipe.yaml_text import Loader
from deltatune.tasks import TASKS

NAME = "recipe.yaml"
_ALWAYS = ("task", "model", "data", "methods", "train", "evaluation")
"""Sections that are never left out."""
_HEADS_OF_THEN = "lr"
"""What `train.head_lr` would have been in recipes from before there was one."""
_OWN_RATE = None
"""What `train.lr` was by default, as recipes from before it was `auto` have it written down."""
_BREAKS = "\r\x85\u2028\u2029\ufeff"
"""What YAML takes for the end of a line or leaves out, unless it is escaped."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something else than a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write things out wherever they occur."""
        return True


_BOTH = (yaml.SafeDumper.yaml_implicit_resolvers, Loader.yaml_implicit_resolvers)
_Dumper.yaml_implicit_resolvers = {
    character: [rule for resolvers in _BOTH for rule in resolvers.get(character, [])]
    for character in {character for resolvers in _BOTH for character in resolvers}
}


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    escaped = any(character in _BREAKS for character in value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if escaped else None)


_Dumper.add_representer(str, _text)


def as_written(content: Mapping[str, Any]) -> str:
    """The text of the file, of a recipe's dump."""
    text: str = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def inline(value: Any) -> str:
    """A value in one line of YAML, as a person's recipe has it; what is no plain text is quoted."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=sys.maxsize
    )
    return text.removesuffix("...\n").rstrip("\n")


def is_written(path: Path) -> bool:
    """Whether a recipe is as a run or a comparison writes it; a person's is not, by its comments or order."""
    try:
        text = _read(path)
        for loader in (Loader, yaml.SafeLoader):
            content = yaml.load(text, Loader=loader)
            now, then = as_written(content), yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            if set(_ALWAYS) <= set(content) and text in (now, then):
                return True
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        pass
    return False


def _read(path: Path) -> str:
    """Raises OSError for what is no file: to read a pipe would never end."""
    if path.exists() and not path.is_file():
        raise OSError(f"it is {'a folder' if path.is_dir() else 'a pipe or a device'}")
    return path.read_text(encoding="utf-8")


def differences(path: Path, content: Mapping[str, Any], *, remedy: str) -> dict[str, Any]:
    """The sections in which a recipe differs, as they were written down, in either version of YAML.

    Fields that are not written there have their defaults; but a new head learned at its method's own rate
    before there was a field for it.

    Args:
        path: The file.
        content: The recipe's dump.
        remedy: What to do about a damaged file.

    Raises:
        RecipeError: It has been damaged since.
    """
    try:
        text = _read(path)
        stored = [yaml.load(text, Loader=loader) for loader in (Loader, yaml.SafeLoader)]
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())  # YAML's have several lines
        raise RecipeError(f"'{path}' cannot be read as YAML ({reason}).", remedy=remedy) from error
    if not all(isinstance(before, dict) for before in stored):
        raise RecipeError(f"'{path}' holds no recipe.", remedy=remedy)
    return min((_differing(before, content) for before in stored), key=len)


def _differing(before: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    before = _of_then(before)
    with contextlib.suppress(RecipeError):
        before = parse_recipe(before).dump()  # with the defaults of fields that it does not have
    then, now = _without_places(before), _without_places(content)
    keys = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    return {key: before.get(key) for key in keys}


def _without_places(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe without what only says where a base rests, which no number depends on."""
    train, methods = content.get("train"), content.get("methods")
    found = dict(content)
    if isinstance(train, Mapping):
        found["train"] = {key: value for key, value in train.items() if key != "offload"}
    if isinstance(methods, list):
        found["methods"] = [_without_places(m) if isinstance(m, Mapping) else m for m in methods]
    return found


def _of_then(before: Mapping[str, Any]) -> Mapping[str, Any]:
    task, train = before.get("task"), before.get("train")
    if task not in TASKS or not TASKS.get(str(task)).new_head or not isinstance(train, Mapping):
        return before
    return {**before, "train": {"head_lr": _HEADS_OF_THEN, **train}}


def rates_of_then(changed: Mapping[str, Any], content: Mapping[str, Any]) -> str | None:
    """What to do if recipes differ in nothing but default rates, since one of them is from before these.

    Args:
        changed: What `differences` gave.
        content: The recipe's dump.
    """
    before, now = changed.get("train"), content["train"]
    if list(changed) != ["train"] or not isinstance(before, Mapping):
        return None
    then: dict[str, Any] = {}
    if before.get("head_lr") == _HEADS_OF_THEN != now.get("head_lr"):
        then["head_lr"] = _HEADS_OF_THEN
    if before.get("lr", AUTO) is _OWN_RATE and now.get("lr") == AUTO:
        then["lr"] = _OWN_RATE
    if not then or {**now, **then} != before:
        return None
    own = {
        "head_lr": "a new head learned at its method's own rate",
        "lr": "short runs learned at the rate of long ones",
    }
    flags = " ".join(f"--set train.{name}={inline(value)}" for name, value in then.items())
    return (
        f"It was begun when {' and '.join(own[name] for name in then)}: go on so with {flags}, or start anew "
        "with --overwrite."
    )
