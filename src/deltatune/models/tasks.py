"""Which Transformers model class a task needs, and whether an architecture has it."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from deltatune.errors import ModelError, nearest

# task -> (the auto class, its table from configuration class to model class)
AUTO: dict[str, tuple[Any, Any]] = {
    "text-to-text": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING),
    "causal-lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "text-classification": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "image-classification": (AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
}
CLASSIFICATION = frozenset({"text-classification", "image-classification"})


def _supports(config: PreTrainedConfig, task: str) -> bool:
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    known = type(config) in AUTO[task][1]
    if task == "text-to-text":
        return known and encoder_decoder
    if task == "causal-lm":
        # BERT and its kin have a language-model class of this kind, but they look at both sides of a token.
        bidirectional = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(
            config, "is_decoder", False
        )
        return known and not encoder_decoder and not bidirectional
    return known


def check_task(config: PreTrainedConfig, task: str, name: str) -> None:
    """Check that the architecture of `config` can do `task`.

    Raises:
        ModelError: It cannot; the message says which tasks it can do.
    """
    if task not in AUTO:
        raise ModelError(f"{task!r} is not a known task.", field="task", remedy=nearest(task, AUTO))
    model_type = config.model_type
    # Remote code registers itself in the auto classes under its own configuration class.
    if _supports(config, task) or hasattr(config, "auto_map"):
        return
    possible = [other for other in AUTO if _supports(config, other)]
    kind = {
        ("text-to-text", "causal-lm"): f"'{name}' ({model_type}) is a decoder-only model, and text-to-text "
        "needs an encoder-decoder.",
        (
            "causal-lm",
            "text-to-text",
        ): f"'{name}' ({model_type}) is an encoder-decoder, and causal-lm needs a decoder-only model.",
    }
    what = next(
        (text for (wanted, offered), text in kind.items() if wanted == task and offered in possible),
        f"'{name}' is of the architecture {model_type!r}, which cannot do the task {task}.",
    )
    remedy = (
        f"Set task: {' or '.join(possible)}, or take another model." if possible else "Take another model."
    )
    raise ModelError(what, field="task", remedy=remedy)
