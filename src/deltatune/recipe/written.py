"""The recipe.yaml that a run or a comparison writes into its folder: with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deltatune.errors import RecipeError

NAME = "recipe.yaml"
_ALWAYS = ("task", "model", "data", "methods", "train", "evaluation")
"""Sections that are never left out."""
_BESIDE = ("result.json", "metrics.jsonl", "leaderboard.json")
"""Beside one of these it was written, and may be damaged."""


def as_written(content: Mapping[str, Any]) -> str:
    """The text of the file, of a recipe's dump."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def require_written(folder: Path) -> None:
    """Refuse a folder whose recipe.yaml a person wrote: it would be replaced, with its comments.

    Raises:
        RecipeError: It is not as a run or a comparison writes it.
    """
    path = folder / NAME
    if not path.exists() or any((folder / name).exists() for name in _BESIDE):
        return
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        written = set(_ALWAYS) <= set(content) and as_written(content) == text
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        written = False
    if not written:
        raise RecipeError(
            f"'{path}' was not written by deltatune, and a file of this name is.",
            field="--out",
            remedy="Choose another folder.",
        )
