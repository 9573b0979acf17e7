"""The tokenizer or image processor of a base, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from deltatune.models.quiet import quiet
from deltatune.models.source import Source, explained, locate, processor_of
from deltatune.models.tasks import check_task, has_token_types
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import ModelSpec


def processor_name(task: str) -> str:
    """What turns the rows of a task into a model's input, in words."""
    return "image processor" if TASKS.get(task).reads == "images" else "tokenizer"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files of a model say of what it reads, beside its tokenizer's or image processor's own."""

    config: Any = None
    end_ids: tuple[int, ...] = ()
    """Ids that end a text: of its generation config first, where chat models name the end of a turn."""
    vocabulary: int | None = None
    """Rows of the embedding table; None before the weights are loaded."""
    token_types: bool = True
    """Whether it tells by `token_type_ids` to which of two texts a token belongs."""


def model_facts(source: Source, config: PreTrainedConfig, task: str) -> ModelFacts:
    """Read them from a model's config and, if it has one, its generation config."""
    if TASKS.get(task).reads == "images":
        return ModelFacts(config)
    try:
        stored = GenerationConfig.from_pretrained(source.path, **source.options).eos_token_id
    except OSError:  # many models have none
        stored = None
    parts = (config, config.get_text_config())
    ends = [
        id_
        for ids in (stored, *(getattr(part, "eos_token_id", None) for part in parts))
        for id_ in _listed(ids)
    ]
    return ModelFacts(config, tuple(dict.fromkeys(ends)), token_types=has_token_types(config, task))


def _listed(ids: Any) -> list[int]:
    return list(ids) if isinstance(ids, list | tuple) else [] if ids is None else [ids]


def load_processor(spec: ModelSpec, task: str) -> tuple[Any, ModelFacts]:
    """Load what turns rows into a model's input; seconds, where weights take minutes.

    Returns:
        The tokenizer or image processor, and what the model's files say besides.

    Raises:
        ModelError: The model cannot be found or read, or is of no use for the task.
    """
    source = locate(spec)
    with quiet(), explained(source):
        config = AutoConfig.from_pretrained(source.path, **source.options)
    check_task(config, task, source.name)
    with quiet(), explained(source):
        return processor_of(source, task, spec.image_size), model_facts(source, config, task)
