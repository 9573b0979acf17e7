"""Which bases to begin with: those that come as packages, where they are installed, and some of the Hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from deltatune.models.bundled import BUNDLED_MODELS, PREFIX
from deltatune.tasks import Task

_ENCODERS = (
    "minilm",
    ("google-bert/bert-base-uncased", "answerdotai/ModernBERT-base", "FacebookAI/xlm-roberta-base"),
)
_VECTORS = (
    "minilm",
    ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5", "intfloat/multilingual-e5-small"),
)
_DECODERS = (
    "smollm2-135m",
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B-Instruct"),
)
_BY_CLASS = {
    "AutoModelForSeq2SeqLM": (
        "t5-small",
        ("google-t5/t5-small", "google/flan-t5-base", "facebook/bart-base"),
    ),
    "AutoModelForCausalLM": _DECODERS,
    "AutoModelForImageClassification": (
        "dinov2-small",
        ("google/vit-base-patch16-224-in21k", "facebook/dinov2-small", "facebook/dinov2-base"),
    ),
    "AutoModelForSequenceClassification": _ENCODERS,
    "AutoModelForTokenClassification": _ENCODERS,
    "AutoModel": _VECTORS,
}
"""The bundled model of a class of Transformers, and models of the Hub: small, known, in several languages."""


@dataclass(frozen=True)
class Bases:
    """Bases for a task."""

    bundled: str | None
    """`bundled:NAME`, where its package is installed."""
    hub: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Those that can be chosen, the likeliest first."""
        return (*((self.bundled,) if self.bundled else ()), *self.hub)


def bases_for(task: Task) -> Bases:
    """Bases that a task can begin with; none of a task with a class of its own."""
    name, hub = _BY_CLASS.get(task.auto_class, (None, ()))
    installed = name is not None and importlib.util.find_spec(BUNDLED_MODELS.get(name).module) is not None
    return Bases(f"{PREFIX}{name}" if installed else None, hub)
