"""What a run proved about itself: certificate.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deltatune.results.record import SCHEMA, Record


class CertificateLine(Record):
    """One check."""

    check: str
    """Its name, such as `every tap fired`."""
    passed: bool
    """Whether it held."""
    detail: str = ""
    """What was found, in words."""
    values: dict[str, Any] = Field(default_factory=dict)
    """What was found, in numbers, by name."""
    remedy: str | None = None
    """What to do, of a check that failed."""


class DeltaHash(Record):
    """The delta that a certificate is about."""

    sha256: str
    """Of its tensors."""


class Certificate(Record):
    """The checks of a run, or of a merged model."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    name: str | None = None
    """The entry's, in the recipe."""
    method: str | None = None
    """Its method."""
    seed: int | None = None
    """Of the run."""
    delta: DeltaHash | None = None
    """What the lines are about; null if the run came to no delta."""
    merged_with: list[str] | None = None
    """Of a merged model: the other runs."""
    passed: bool
    """Whether all checks held."""
    lines: list[CertificateLine]
    """The checks in their order."""
