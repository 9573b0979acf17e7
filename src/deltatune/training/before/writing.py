"""Whether there is room beside a step: for what an evaluation writes, and for a base at rest on the host."""

from __future__ import annotations

from collections.abc import Mapping

from deltatune import units
from deltatune.data.encode import Encoded
from deltatune.memory.fit import fits
from deltatune.memory.predict import Prediction, Setup
from deltatune.memory.writing import writing_bytes
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.training.before.longest_rows import new_tokens
from deltatune.training.given.machine import total_memory


def writing_too_much(
    recipe: Recipe, parts: Mapping[str, Encoded], setup: Setup, found: Prediction, limit: int
) -> list[str]:
    """A warning if what an evaluation writes does not fit, though a step may.

    Args:
        recipe: The recipe.
        parts: The rows by their part; none where they are not read.
        setup: Of the entry's step.
        found: What that takes.
        limit: Bytes to stay within.
    """
    written = new_tokens(recipe)
    if not written:
        return []
    spec, held = recipe.evaluation, found.memory.parts
    read = max((max(part.lengths) for part in parts.values()), default=recipe.data.max_input_tokens)
    size = 4 if setup.quantization is None and setup.dtype == "float32" else 2
    vocabulary = int(getattr(setup.config.get_text_config(), "vocab_size", 0))
    rows = spec.batch_size * spec.num_beams
    needs = writing_bytes(setup.config, rows, read, written, size, vocabulary)
    total = held["weights"] + held["delta"] + needs
    if fits(total, limit):
        return []
    return [
        f"generating texts for {spec.batch_size} rows at once ({spec.num_beams} beams, {written} tokens) "
        f"takes {units.size(total)}, and only {units.size(limit)} are free: lower evaluation.batch_size."
    ]


def resting_too_much(entry: MethodEntry, setup: Setup, found: Prediction) -> list[str]:
    """A warning if the machine's memory is smaller than a base that rests there beside a GPU."""
    needs = found.total_parameters * (4 if setup.dtype == "float32" else 2)
    if not setup.offload or entry.train.offload != "cpu" or needs <= total_memory():
        return []
    return [
        f"with train.offload: cpu the base takes {units.size(needs)} of the machine's memory, which has "
        f"{units.size(total_memory())}: `disk` leaves it in its files."
    ]
