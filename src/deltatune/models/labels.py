"""Whether a base is a classifier of the data's classes already, and in which order it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from deltatune.tasks import TASKS

SHOWN = 4


def set_outputs(config: PreTrainedConfig, task: str, labels: Sequence[str] | None) -> None:
    """Give a base's head the outputs that the task's targets need: the classes by name, or numbers.

    Args:
        config: The base's.
        task: The recipe's task.
        labels: Names of the classes, or of several numbers; None: one number, or text.
    """
    if TASKS.get(task).has_values:
        config.num_labels = len(labels) if labels else 1
        config.problem_type = "regression"
        if labels:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
    elif labels:
        if TASKS.get(task).has_label_sets:
            config.problem_type = "multi_label_classification"
        elif config.problem_type is not None:  # of what the base was before
            config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}


def base_labels(config: PreTrainedConfig) -> list[str]:
    """Names of the classes that a checkpoint's head tells apart, in the order of its outputs."""
    stored: dict[Any, str] = dict(config.id2label or {})
    return [str(stored.get(index)) for index in range(len(stored))]


def in_base_order(config: PreTrainedConfig, labels: Sequence[str]) -> list[str] | None:
    """The data's classes in the order of the base's outputs, capitals and outer blanks aside.

    The base's head stays as it is then, and so do deltas on it in peft, which knows the base's order alone.

    Returns:
        The labels as the data spell them, or None if the base's classes are others.
    """
    spelled = {_plain(label): label for label in labels}
    known = [_plain(label) for label in base_labels(config)]
    if len(spelled) < len(labels) or len(known) != len(labels) or set(known) != set(spelled):
        return None
    return [spelled[label] for label in known]


def spelled_as(labels: Sequence[str], others: Sequence[str]) -> list[str]:
    """The labels in their order, each as one of `others` spells it, capitals and outer blanks aside."""
    spelled = {_plain(label): label for label in others}
    return [spelled.get(_plain(label), label) for label in labels]


def named(labels: Sequence[str]) -> str:
    """A few of the labels, for a message."""
    return ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")


def _plain(label: str) -> str:
    return label.strip().casefold()
