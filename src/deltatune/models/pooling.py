"""How a base makes one vector of a text, as its files for Sentence Transformers say."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from torch import nn
from transformers.utils import cached_file

from deltatune.errors import ModelError
from deltatune.models.source import Source
from deltatune.tasks import TASKS

_MODULES = "modules.json"
_OF_OTHERS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
"""What Sentence Transformers calls them."""


def pooling_of(source: Source, wanted: str | None, task: str) -> tuple[str, list[str]]:
    """How a base pools, and warnings: as the recipe says, else as its own files say, else by the mean.

    Args:
        source: The base.
        wanted: The recipe's `model.pooling`.
        task: The recipe's task; where it asks for no vectors, nothing is read.

    Raises:
        ModelError: Its files ask for something else than a mean, the first or the last token.
    """
    modules = _read(source, _MODULES) if TASKS.get(task).embeds else None
    if not isinstance(modules, list) or not all(isinstance(part, dict) for part in modules):
        return wanted or "mean", []
    kinds = {str(part.get("type", "")).rpartition(".")[2]: str(part.get("path", "")) for part in modules}
    strange = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    warnings = []
    if strange:
        warnings.append(
            f"'{source.name}' has {' and '.join(strange)} behind its pooling, which is left out: its vectors "
            "are others than those of Sentence Transformers."
        )
    if wanted is not None or "Pooling" not in kinds:
        return wanted or "mean", warnings
    content = _read(source, f"{kinds['Pooling']}/config.json")
    modes = _modes(content) if isinstance(content, dict) else []
    if len(modes) != 1 or modes[0] not in _NAMES.values():
        raise ModelError(
            f"'{source.name}' pools by {' and '.join(modes) or 'nothing that is known'}; deltatune has mean, "
            "cls and last.",
            field="model.pooling",
            remedy="Name one of them; its vectors then differ from those of Sentence Transformers.",
        )
    return modes[0], warnings


def take_off_pooler(model: nn.Module) -> None:
    """Take off BERT's pooler, which has no part in a vector of a text: nothing of it could be trained."""
    if isinstance(getattr(model, "pooler", None), nn.Module):
        setattr(model, "pooler", None)  # noqa: B010  (typed as a module)


def _modes(content: dict[str, Any]) -> list[str]:
    """What a file of pooling asks for, in our names where we have one."""
    if (mode := content.get("pooling_mode")) is not None:
        named = mode if isinstance(mode, list) else [mode]
        return [_NAMES.get(str(name), str(name)) for name in named]
    asked = [key for key, value in content.items() if key.startswith("pooling_mode_") and value is True]
    return [_OF_OTHERS.get(key, key.removeprefix("pooling_mode_")) for key in asked]


def _read(source: Source, name: str) -> Any:
    """The content of a file of the base; None if it has none, or one that is no JSON."""
    options = {key: source.options[key] for key in ("revision", "local_files_only") if key in source.options}
    if ".." in PurePath(name).parts or PurePath(name).is_absolute():  # anybody may have written it
        return None
    path = cached_file(
        source.path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as handle:
            return json.load(handle)
    except ValueError:
        return None
