"""What a saved delta is, and whether it is as it was written."""

from __future__ import annotations

from pathlib import Path

from deltatune.checkpoint import foreign
from deltatune.checkpoint.folders import reading
from deltatune.checkpoint.manifest import changed_files
from deltatune.checkpoint.saved import CONFIG, TENSORS, SavedAdapter, read_adapter, read_adapter_json
from deltatune.errors import AdapterError
from deltatune.files import sha256
from deltatune.results import Certificate, CertifiedFolder, SavedDelta

CERTIFICATE = "certificate.json"


def inspect(folder: Path) -> SavedDelta | CertifiedFolder:
    """Say what a saved delta is: method, settings, base, tensors, size, and whether it is intact.

    Its certificate is told too, and whether it is of these very tensors. A folder without a delta that has a
    certificate (a run that failed, a merged model) is described by that alone.

    Args:
        folder: Its folder, or that of a run, which keeps it in `adapter`.

    Raises:
        AdapterError: There is neither, or a file is damaged.
    """
    with reading(folder):
        return _inspect(folder)


def _inspect(folder: Path) -> SavedDelta | CertifiedFolder:
    proof = read_certificate(folder)
    changed = changed_files(folder)
    if not (folder / CONFIG).exists() and (folder / "adapter").is_dir():
        folder = folder / "adapter"
    if proof is None:
        folder = foreign.adapter_folder(folder)
    if proof is not None and not (folder / CONFIG).exists():
        return CertifiedFolder(files=_told(changed), certificate=proof)
    saved = read_adapter(folder)
    path = folder / TENSORS
    content = {
        "method": saved.method,
        "title": saved.config.title,
        "config": saved.config.model_dump(mode="json"),
        "base": saved.ours["base"] if saved.ours else {"name": saved.peft.get("base_model_name_or_path")},
        "peft_type": saved.peft["peft_type"],
        "loads_in_peft": saved.ours is None or bool(saved.ours["peft_compatible"]),
        "heads": saved.ours["heads"] if saved.ours else saved.peft.get("modules_to_save"),
        "parameters": sum(tensor.numel() for tensor in saved.tensors.values()),
        "file_bytes": path.stat().st_size,
        "sha256": sha256(path),
        "checksum": _covered(saved),
        "files": _told(changed),
        "certificate": proof,
        "certified": proof and not changed and bool(proof.delta and proof.delta.sha256 == sha256(path)),
        "tensors": {
            key: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for key, t in saved.tensors.items()
        },
    }
    return SavedDelta.of(content, f"'{folder}'", remedy="Copy or train it again.", error=AdapterError)


def _covered(saved: SavedAdapter) -> str:
    if saved.ours is None:
        return "none stored (written by peft)"
    return "matches" if "files" in saved.ours else "matches; settings are not covered (version 0.1)"


def _told(changed: list[str] | None) -> str:
    """What the checksums of a run's files, or of a merged model's, tell."""
    if changed is None:
        return "not covered: there are no checksums of them"
    return f"changed since they were written: {', '.join(changed)}" if changed else "as they were written"


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate.json in `folder`, or None if there is none.

    Raises:
        AdapterError: It cannot be read.
    """
    path = folder / CERTIFICATE
    if not path.exists():
        return None
    return Certificate.of(
        read_adapter_json(path), f"'{path}'", remedy="Copy or train it again.", error=AdapterError
    )
