"""The tokenizer or image processor of a base, without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig

from deltatune.models.load import _explained, _locate, _processor
from deltatune.models.quiet import quiet
from deltatune.models.tasks import check_task

if TYPE_CHECKING:
    from deltatune.recipe.sections import ModelSpec


def load_processor(spec: ModelSpec, task: str) -> tuple[Any, PreTrainedConfig]:
    """Load what turns rows into a model's input, and the model's config; seconds, where weights take minutes.

    Raises:
        ModelError: The model cannot be found or read, or is of no use for the task.
    """
    source = _locate(spec)
    with quiet(), _explained(source):
        config = AutoConfig.from_pretrained(source.path, **source.options)
    check_task(config, task, source.name)
    with quiet(), _explained(source):
        return _processor(source, task), config
