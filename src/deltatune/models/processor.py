"""The tokenizer or image processor of a base, without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig

from deltatune.models.quiet import quiet
from deltatune.models.source import explained, locate, processor_of
from deltatune.models.tasks import check_task

if TYPE_CHECKING:
    from deltatune.recipe.sections import ModelSpec


def processor_name(task: str) -> str:
    """What turns the rows of a task into a model's input, in words."""
    return "image processor" if task == "image-classification" else "tokenizer"


def load_processor(spec: ModelSpec, task: str) -> tuple[Any, PreTrainedConfig]:
    """Load what turns rows into a model's input, and the model's config; seconds, where weights take minutes.

    Raises:
        ModelError: The model cannot be found or read, or is of no use for the task.
    """
    source = locate(spec)
    with quiet(), explained(source):
        config = AutoConfig.from_pretrained(source.path, **source.options)
    check_task(config, task, source.name)
    with quiet(), explained(source):
        return processor_of(source, task, spec.image_size), config
