"""Results as the commands get them, with what a test says of them."""

from __future__ import annotations

from typing import Any

from deltatune.results import Certificate, MergedModel, SavedDelta

SAVED: dict[str, Any] = {
    "method": "lora", "title": "A low-rank update.", "config": {"r": 8}, "base": {"name": "m"},
    "peft_type": "LORA", "loads_in_peft": True, "heads": [], "parameters": 1234, "file_bytes": 5000,
    "sha256": "0" * 64, "checksum": "matches", "files": "as they were written", "certificate": None,
    "certified": None, "tensors": {},
}  # fmt: skip
MERGED: dict[str, Any] = {
    "folder": "m", "parameters": 1234, "dtype": "fp32", "compared_on": "8 test rows",
    "max_abs_logit_difference": 1.5e-6, "max_abs_logit_effect": 0.5, "logit_scale": 1.0,
    "max_abs_difference_to_quantized": None,
}  # fmt: skip


def saved(certificate: dict[str, Any] | None = None, **changes: Any) -> SavedDelta:
    """A saved delta."""
    proof = certificate and Certificate.model_validate(certificate)
    return SavedDelta.model_validate(SAVED | {"certificate": proof} | changes)


def merged(**changes: Any) -> MergedModel:
    """A merged model."""
    return MergedModel.model_validate(MERGED | changes)
