"""What serving some runs would load, by their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.runs.foreign import is_without_run
from deltatune.serve.deltas.opening import Named
from deltatune.training.given.folder import finished_result

_BYTES = {"float32": 4.0, "bfloat16": 2.0}
_IN_FEW_BITS = 0.6
"""Bytes of a parameter of a quantized base, its embeddings included."""


def planned(runs: Sequence[Named], most: int) -> dict[str, Any]:
    """Base, deltas and their bytes; those of the base are None where no run tells its size.

    Args:
        runs: On one base.
        most: Deltas in memory at once.
    """
    sizes = sorted((run.bytes for run in runs), reverse=True)[:most]
    results = [finished_result(run.folder) for run in runs if not is_without_run(run.folder)]
    base = None
    if results and (used := results[0].model).parameters:
        share = _IN_FEW_BITS if used.quantization else _BYTES.get(used.dtype or "", 4.0)
        base = round(used.parameters * share)
    return {
        "base": runs[0].base,
        "base_bytes": base,
        "deltas": [{"name": run.name, "folder": str(run.folder), "bytes": run.bytes} for run in runs],
        "in_memory": len(sizes),
        "bytes": None if base is None else base + sum(sizes),
    }
