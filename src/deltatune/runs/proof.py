"""The certificate of what is made of a run: it goes on with the run's own lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.runs.loaded import LoadedRun
from deltatune.training.proof.certificate import Proof


def about(loaded: LoadedRun) -> dict[str, Any]:
    """What a certificate says of the run that it is about."""
    result = loaded.result
    return {"name": loaded.name, "method": loaded.method, "seed": result.seed if result else None}


def proof_of(loaded: LoadedRun, path: Path) -> Proof:
    """The run's own certificate, to go on with at `path`."""
    proof = Proof(path, about(loaded))
    proof.take(loaded.result.certificate if loaded.result else [])
    return proof
