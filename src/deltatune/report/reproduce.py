"""What it takes to make a comparison again: commands, versions, seeds, and hashes of data and models."""

from __future__ import annotations

import hashlib
from typing import Any

from deltatune.report.load import Comparison


def reproduce(comparison: Comparison) -> dict[str, Any]:
    """Gather it from the comparison's finished runs.

    Returns:
        `commands` (lines for a shell), `seeds`, `commit` (None if not one and clean), `versions`, `models`
        (name, revision, parameters and sha256 of the weights, of each), `data` and `recipe` (sha256 of rows,
        for each template, and of the file), and `signatures` of metrics. What no run wrote down is empty.
    """
    results = [run.result for method in comparison.ranked for run in method.runs if run.result]
    first: dict[str, Any] = results[0] if results else {}
    versions = dict(first.get("versions") or {})
    version = versions.get("deltatune")
    rows = comparison.methods
    hashes = dict.fromkeys(filter(None, ((one.get("data") or {}).get("fingerprint") for one in results)))
    return {
        "commands": [
            *([f"pip install deltatune=={version}"] if version else []),
            "deltatune compare recipe.yaml --out DIR",
            "deltatune report DIR --format html",
        ],
        "seeds": list(dict.fromkeys(seed for method in rows for seed in method.row.get("seeds") or [])),
        "commit": _commit(comparison),
        "versions": versions,
        "models": _models(comparison),
        "data": ", ".join(hashes) or None,
        "recipe": hashlib.sha256(comparison.recipe.encode()).hexdigest() if comparison.recipe else None,
        "signatures": dict(first.get("signatures") or {}),
    }


def _models(comparison: Comparison) -> list[dict[str, Any]]:
    """Each base once; quantized ones have a hash of their own."""
    models = [run.result.get("model") or {} for method in comparison.methods for run in method.runs]
    return list(
        {
            model["fingerprint"]: {
                "name": comparison.here.get(model["name"], model["name"]),
                **{field: model.get(field) for field in ("revision", "parameters", "fingerprint")},
            }
            for model in models
            if model.get("fingerprint")
        }.values()
    )


def _commit(comparison: Comparison) -> str | None:
    """The commit that all runs were made with, if there is one and nothing was changed on top of it."""
    results = [run.result for method in comparison.methods for run in method.runs if run.result]
    states = [result.get("git") or {} for result in results]
    commits = {state.get("commit") for state in states}
    if len(commits) != 1 or any(state.get("dirty") for state in states):
        return None
    return commits.pop()
