"""What `inspect` finds in a folder, and what `merge` did."""

from __future__ import annotations

from typing import Any

from deltatune.results.certificate import Certificate
from deltatune.results.record import Record


class MergedModel(Record):
    """A model that a delta was folded into."""

    folder: str
    """Where it is."""
    parameters: int
    """How many it has."""
    dtype: str
    """Type of its weights: `fp32`, `bf16` or `fp16`."""
    compared_on: str
    """The rows on which it was compared with base and delta side by side, in words."""
    max_abs_logit_difference: float
    """The largest difference of a logit between the two."""
    max_abs_logit_effect: float
    """The largest difference that the delta makes to the base's logits, to judge that by."""
    logit_scale: float
    """Standard deviation of the logits, to judge that by."""
    max_abs_difference_to_quantized: float | None
    """The largest difference to the quantized base that the delta was trained on; null if there was none."""


class StoredTensor(Record):
    """A tensor of a saved delta."""

    shape: list[int]
    """Its sizes."""
    dtype: str
    """Its type, such as `float32`."""


class Wants(Record):
    """What using a run would load, read and run on this machine."""

    model: str
    """As the recipe names it."""
    loaded_from: str
    """Where that leads, in words."""
    revision: str | None
    """Of the Hub."""
    runs_code: bool
    """Whether Python code that comes with the model shall run."""
    reads: list[str]
    """Data that `evaluate` and `merge` read."""


class RefusedWants(Record):
    """A run whose recipe is refused."""

    refused: str
    """Why."""


class Fit(Record):
    """What an adapter without a run is on a base."""

    base: str
    """The base's name."""
    architecture: str
    """Its class in Transformers."""
    task: str
    """The task that it is used for."""
    classes: list[str] | None
    """Its classes; null for texts."""
    parameters: int
    """How many the base has."""


class DeltaBase(Record):
    """The base that a delta was trained on."""

    name: str | None
    """As the recipe had it, or peft's file."""
    structure: str | None = None
    """SHA-256 of the names and shapes of its tensors."""
    fingerprint: str | None = None
    """SHA-256 of its weights."""
    dtype: str | None = None
    """What it computed in."""


class SavedDelta(Record):
    """A saved delta."""

    method: str
    """Its method."""
    title: str
    """The method's idea, in a line."""
    config: dict[str, Any]
    """Its settings, with every default."""
    base: DeltaBase
    """The base that it was trained on."""
    peft_type: str | None
    """peft's name of the method."""
    loads_in_peft: bool
    """Whether peft reads it."""
    heads: list[str] | None
    """Modules that are saved whole."""
    parameters: int
    """Numbers in its tensors."""
    file_bytes: int
    """Size of the file of its tensors."""
    sha256: str
    """Of that file."""
    checksum: str
    """Whether that is what it was when it was written, in words."""
    files: str
    """Whether the run's files are what they were when they were written, in words."""
    certificate: Certificate | None
    """What its run proved of it."""
    certified: bool | None
    """Whether the certificate is of these very tensors; null if there is none."""
    tensors: dict[str, StoredTensor]
    """By key."""
    wants: Wants | RefusedWants | None = None
    """Of a run: what using it asks for."""
    fits: Fit | None = None
    """Of a base that was named: what it is there."""


class CertifiedFolder(Record):
    """A folder without a delta that has a certificate: a run that failed, or a merged model."""

    files: str
    """Whether its files are what they were when they were written, in words."""
    certificate: Certificate
    """What was proved."""
    wants: Wants | RefusedWants | None = None
    """Of a run: what using it asks for."""
    fits: Fit | None = None
    """Of a base that was named: what it is there."""
