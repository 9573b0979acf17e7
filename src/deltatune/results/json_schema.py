"""The JSON Schema of the files, for programs in other languages."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from deltatune.results.across import Across
from deltatune.results.certificate import Certificate
from deltatune.results.curve import Curves
from deltatune.results.leaderboard import Leaderboard
from deltatune.results.prediction import PREDICTION
from deltatune.results.run import AnyResult

KINDS: dict[str, TypeAdapter[Any]] = {
    "result": TypeAdapter(AnyResult),
    "leaderboard": TypeAdapter(Leaderboard),
    "curve": TypeAdapter(Curves),
    "across": TypeAdapter(Across),
    "prediction": PREDICTION,
    "certificate": TypeAdapter(Certificate),
}
"""Name for the command line -> what is described."""


def results_schema(kind: str) -> dict[str, Any]:
    """Describe a file (of predictions: a line) in JSON Schema 2020-12.

    Args:
        kind: One of `KINDS`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].json_schema()}
