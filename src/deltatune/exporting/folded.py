"""A run's model with its delta folded in, for programs that know no deltas."""

from __future__ import annotations

from transformers import PreTrainedModel

from deltatune.runs.loaded import LoadedRun
from deltatune.runs.merge import meanings


def folded(loaded: LoadedRun) -> tuple[PreTrainedModel, list[str]]:
    """The model, whose configuration says what its outputs mean; and what must be known of it.

    Raises:
        AdapterError: The run's method cannot be written into weights.
    """
    model = loaded.model.merged()
    assert isinstance(model, PreTrainedModel)
    model.config.update(meanings(loaded))
    if not loaded.had_few_bits:
        return model, []
    return model, [
        "The run trained on a quantized base. The delta is folded into plain weights, so outputs differ from "
        "the run's by what quantizing and its kernels do."
    ]
