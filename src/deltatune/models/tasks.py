"""Which class of Transformers loads a base for a task, and whether an architecture has it."""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from transformers import PreTrainedConfig

from deltatune.errors import ModelError
from deltatune.phrasing import listing
from deltatune.tasks import TASKS

_RELATIVE = ("xlnet", "funnel")
"""Architectures that have no table of token types: attention tells whether two tokens are of one text."""


def model_class(task: str) -> Any:
    """The auto class of Transformers for a task."""
    return getattr(transformers, TASKS.get(task).auto_class)


def supports(config: PreTrainedConfig, task: str) -> bool:
    """Whether a base of this configuration can do a task."""
    return TASKS.get(task).supports(config, type(config) in model_class(task)._model_mapping)


def has_token_types(config: PreTrainedConfig, task: str) -> bool:
    """Whether a base of this configuration tells by `token_type_ids` to which of two texts a token belongs.

    RoBERTa has the argument and one type, DeBERTa-v3 none, and GPT-2 takes types for words.
    """
    if getattr(config, "type_vocab_size", 2 if config.model_type in _RELATIVE else 0) < 2:
        return False
    mapping = model_class(task)._model_mapping
    if type(config) not in mapping:
        return True
    return "token_type_ids" in inspect.signature(mapping[type(config)].forward).parameters


def possible_tasks(config: PreTrainedConfig) -> list[str]:
    """The tasks that a base of this configuration can do."""
    return [name for name, _ in TASKS.items() if supports(config, name)]


def check_task(config: PreTrainedConfig, task: str, name: str) -> None:
    """Check that the architecture of `config` can do `task`.

    Raises:
        ModelError: It cannot; the message says which tasks it can do.
    """
    wanted, model_type = TASKS.get(task, field="task"), config.model_type
    # Remote code registers itself in the auto classes under its own configuration class.
    if supports(config, task) or hasattr(config, "auto_map"):
        return
    possible = possible_tasks(config)
    kind = next((needs for each in possible if (needs := TASKS.get(each).needs)), "")
    what = f"'{name}' is of the architecture {model_type!r}, which cannot do the task {task}."
    if wanted.needs and kind:
        what = f"'{name}' ({model_type}) is {kind}, and {task} needs {wanted.needs}."
    remedy = (
        f"Set task: {listing(possible, 'or')}, or take another model." if possible else "Take another model."
    )
    raise ModelError(what, field="task", remedy=remedy)
