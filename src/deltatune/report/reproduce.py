"""What it takes to make a comparison again: commands, versions, seeds, and hashes of data and models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from deltatune.report.load import Comparison
from deltatune.results import RunResult


@dataclass(frozen=True)
class ModelUsed:
    """A base of a comparison."""

    name: str
    revision: str | None
    parameters: int | None
    fingerprint: str
    """SHA-256 of its weights."""


@dataclass(frozen=True)
class Reproduction:
    """What it takes; what no run wrote down is empty."""

    commands: list[str]
    """Lines for a shell."""
    seeds: list[int]
    commit: str | None
    """None if not one and clean."""
    versions: dict[str, str]
    models: list[ModelUsed]
    data: str | None
    """SHA-256 of the rows, for each template."""
    recipe: str | None
    """SHA-256 of the file."""
    signatures: dict[str, str]
    """Of metrics."""


def reproduce(comparison: Comparison) -> Reproduction:
    """Gather it from the comparison's finished runs."""
    results = [run.finished for method in comparison.ranked for run in method.runs if run.finished]
    versions = results[0].versions if results else {}
    version = versions.get("deltatune")
    return Reproduction(
        commands=[
            *([f"pip install deltatune=={version}"] if version else []),
            "deltatune compare recipe.yaml --out DIR",
            "deltatune report DIR --format html",
        ],
        seeds=list(dict.fromkeys(seed for method in comparison.methods for seed in method.row.seeds)),
        commit=_commit(comparison),
        versions=versions,
        models=_models(comparison),
        data=", ".join(dict.fromkeys(result.data.fingerprint for result in results)) or None,
        recipe=hashlib.sha256(comparison.recipe.encode()).hexdigest() if comparison.recipe else None,
        signatures=results[0].signatures if results else {},
    )


def _finished(comparison: Comparison) -> list[RunResult]:
    return [run.finished for method in comparison.methods for run in method.runs if run.finished]


def _models(comparison: Comparison) -> list[ModelUsed]:
    """Each base once; quantized ones have a hash of their own."""
    models = [result.model for result in _finished(comparison)]
    return list(
        {
            model.fingerprint: ModelUsed(
                comparison.here.get(model.name, model.name),
                model.revision,
                model.parameters,
                model.fingerprint,
            )
            for model in models
            if model.fingerprint
        }.values()
    )


def _commit(comparison: Comparison) -> str | None:
    """The commit that all runs were made with, if there is one and nothing was changed on top of it."""
    states = [result.git for result in _finished(comparison)]
    commits = {state.commit if state else None for state in states}
    if len(commits) != 1 or any(state and state.dirty for state in states):
        return None
    return commits.pop()
