"""Saved deltas: peft's two files, and one of ours beside them.

    adapter_config.json        what peft reads; for methods that peft lacks it names a type of ours
    adapter_model.safetensors  the tensors, under peft's keys
    deltatune.json             method and settings, the base it belongs to, the checksum of the tensors

A folder that only has peft's files loads as well.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from deltatune import __version__, quant
from deltatune.checkpoint import foreign
from deltatune.checkpoint.folders import atomic_folder, read_tensors, reading, write_tensors
from deltatune.checkpoint.manifest import changed_files
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError
from deltatune.files import CHECKSUM, is_intact, read_json, sealed, sha256, write_json
from deltatune.methods import METHODS
from deltatune.models.bundled import public_name
from deltatune.results import Certificate

SCHEMA = 1
CONFIG, TENSORS, OURS = "adapter_config.json", "adapter_model.safetensors", "deltatune.json"
CERTIFICATE = "certificate.json"
_PROMPT_LEARNING = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_AT_ROOT = ("prompt_embeddings", "base_model.")  # keys that no module of the base comes before
_TASK_TYPES = (
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ("MTModel", "SEQ_2_SEQ_LM"),
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForSequenceClassification", "SEQ_CLS"),
)


def structure(base: nn.Module) -> str:
    """Hash of the names and shapes of a model's parameters: what a delta must find to be attached.

    A quantized base has the structure of the base that it was made from.
    """
    lines = sorted(f"{name} {list(shape)}" for name, shape in quant.parameter_shape(base).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def save_adapter(
    model: AdaptedModel, name: str, folder: Path, *, base_name: str = "", fingerprint: str | None = None
) -> None:
    """Write the adapter `name` to `folder`, all files at once.

    Args:
        model: The model that it is attached to.
        name: Which adapter.
        folder: Where to; what is there is replaced.
        base_name: Hub id or path of the base, for those who load it.
        fingerprint: Hash of the base's weights, checked when it is loaded.
    """
    adapter, config = model.adapter(name), model.configs[name]
    saved = config.for_inference(adapter)
    base_name = base_name or str(getattr(model.base.config, "_name_or_path", ""))
    exported = config.to_peft(adapter, model.view)
    peft_type = config.peft_type if exported else f"DELTATUNE_{config.name.upper()}"
    fields, tensors = exported or ({}, adapter.stored())
    task = next((t for end, t in _TASK_TYPES if type(model.base).__name__.endswith(end)), None)
    prefix = _prefix(peft_type)
    with atomic_folder(folder) as temporary:
        keys = {k if k.startswith(_AT_ROOT) else prefix + k: t for k, t in tensors.items()}
        write_tensors(temporary / TENSORS, keys)
        write_json(
            temporary / CONFIG,
            {
                "peft_type": peft_type,
                "task_type": task,
                "base_model_name_or_path": public_name(base_name),
                "inference_mode": True,
                "modules_to_save": adapter.heads() or None,
                **fields,
            },
        )
        write_json(
            temporary / OURS,
            sealed(
                {
                    "schema": SCHEMA,
                    "deltatune": __version__,
                    "method": saved.name,
                    "config": saved.model_dump(mode="json"),
                    "heads": adapter.heads(),
                    "base": {
                        "name": base_name,
                        "structure": structure(model.base),
                        "fingerprint": fingerprint,
                        "dtype": _precision(model),
                    },
                    "peft_compatible": exported is not None,
                    "parameters": sum(t.numel() for t in tensors.values()),
                    "sha256": sha256(temporary / TENSORS),
                    "files": {CONFIG: sha256(temporary / CONFIG)},
                }
            ),
        )


def _precision(model: AdaptedModel) -> str:
    """Type of the base's own weights, and the format of those that are quantized."""
    with model.using():  # else parameters that an adapter trains stand in their places
        dtype = str(next(model.base.parameters()).dtype)
    formats = quant.describe(model.base)
    return f"{dtype} {formats}" if formats else dtype


@dataclass(frozen=True)
class SavedAdapter:
    """A delta as it lies in its folder."""

    method: str
    config: MethodConfig
    peft: dict[str, Any]
    ours: dict[str, Any] | None
    tensors: dict[str, Tensor]
    """By the keys of the file."""


def read_adapter(folder: Path) -> SavedAdapter:
    """Read and check a saved delta without any base.

    Raises:
        AdapterError: A file is missing, damaged, of an unknown method or does not match its checksum.
    """
    with reading(folder):
        return _read(folder)


def _read(folder: Path) -> SavedAdapter:
    folder = foreign.adapter_folder(folder)
    peft = _read_json(folder / CONFIG)
    ours = _read_json(folder / OURS) if (folder / OURS).exists() else None
    tensors = read_tensors(folder / TENSORS)
    if ours is None:
        tensors = foreign.plain_keys(tensors)
        if not foreign.trained_biases(tensors):
            peft = {**peft, "bias": "none"}  # asked for, and there were none to train
        method = _method_of_peft(peft, folder)
        with _settings_of(folder / CONFIG):
            return SavedAdapter(method, METHODS.get(method).from_peft(peft), peft, None, tensors)
    if ours.get("schema") != SCHEMA:
        raise AdapterError(
            f"'{folder / OURS}' has the schema {ours.get('schema')!r}; this version reads {SCHEMA}.",
            remedy="Install the version of deltatune that wrote it.",
        )
    _require(peft, ("peft_type",), folder / CONFIG)
    _require(ours, ("method", "config", "heads", "base", "peft_compatible", "sha256"), folder / OURS)
    _require(ours["base"], ("name", "structure", "fingerprint", "dtype"), folder / OURS)
    _require_as_saved(ours, folder)
    with _settings_of(folder / OURS):
        config = METHODS.get(ours["method"], field=str(folder / OURS))(**ours["config"])
    return SavedAdapter(ours["method"], config, peft, ours, tensors)


def _require_as_saved(ours: Mapping[str, Any], folder: Path) -> None:
    """Check all files by checksums, ours by its own; version 0.1 had one of the tensors alone.

    Raises:
        AdapterError: One differs.
    """
    files = {TENSORS: ours["sha256"], **ours.get("files", {})}
    if unknown := files.keys() - {TENSORS, CONFIG}:  # a stranger's may name any file of this machine
        raise AdapterError(
            f"'{folder / OURS}' has a checksum of {sorted(unknown)[0]!r}, which is no file of a delta.",
            remedy="Copy or train it again.",
        )
    changed = [name for name, digest in files.items() if sha256(folder / name) != digest]
    if is_intact(ours) is False or (CHECKSUM in ours) != ("files" in ours):
        changed.append(OURS)
    if changed:
        raise AdapterError(
            f"'{folder / changed[0]}' is not the file that was saved: its checksum differs.",
            remedy="Copy or train it again.",
        )


def load_adapter(
    model: AdaptedModel,
    folder: Path,
    name: str = "default",
    *,
    fingerprint: str | None = None,
    seed: int = 0,
) -> None:
    """Attach the delta saved in `folder` under `name`.

    Args:
        model: The model to attach it to.
        folder: Folder written by deltatune or peft.
        name: Name that it gets.
        fingerprint: Hash of the base's weights, if known; compared with the one saved.
        seed: Of all randomness, if it is trained on.

    Raises:
        AdapterError: It was made for another base, or a tensor is missing, left over or misshapen. Nothing
            stays attached then.
    """
    with reading(Path(folder)):
        _load(model, Path(folder), name, fingerprint, seed)


def _load(model: AdaptedModel, folder: Path, name: str, fingerprint: str | None, seed: int) -> None:
    saved = read_adapter(folder)
    _check_base(saved, model, fingerprint, folder)
    peft_type = saved.peft["peft_type"]
    prefix = _prefix(peft_type)
    tensors = {key.removeprefix(prefix): tensor for key, tensor in saved.tensors.items()}
    config = saved.config
    if saved.ours is None:
        tensors = _without_base(tensors, saved.peft, model)
        config = foreign.at_their_sites(config, saved.peft, tensors, model.view)
    if saved.ours is None or saved.ours["peft_compatible"]:
        tensors = _from_peft(config, tensors, model, folder)
    heads = saved.ours["heads"] if saved.ours else _peft_heads(saved.peft, tensors, model)
    active = model.active
    adapter = model.attach(name, config, heads=heads, seed=seed)
    try:
        adapter.load_stored(tensors)
    except BaseException:
        model.detach(name)
        model.use(*active)
        raise


def inspect(folder: Path) -> dict[str, Any]:
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


def _inspect(folder: Path) -> dict[str, Any]:
    proof = read_certificate(folder)
    changed = changed_files(folder)
    if not (folder / CONFIG).exists() and (folder / "adapter").is_dir():
        folder = folder / "adapter"
    if proof is None:
        folder = foreign.adapter_folder(folder)
    if proof is not None and not (folder / CONFIG).exists():
        return {"files": _told(changed), "certificate": proof.as_dict()}
    saved = read_adapter(folder)
    path = folder / TENSORS
    return {
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
        "certificate": proof and proof.as_dict(),
        "certified": proof and not changed and bool(proof.delta and proof.delta.sha256 == sha256(path)),
        "tensors": {
            key: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for key, t in saved.tensors.items()
        },
    }


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
    return Certificate.of(_read_json(path), f"'{path}'", remedy="Copy or train it again.", error=AdapterError)


def _prefix(peft_type: str | None) -> str:
    return "base_model." if peft_type in _PROMPT_LEARNING else "base_model.model."


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise AdapterError(
            f"there is no '{path}'.", remedy="Name the folder of a saved delta (a run keeps it in adapter/)."
        )
    return read_json(path, remedy="Copy or train it again.", error=AdapterError)


def _require(found: Any, keys: tuple[str, ...], path: Path) -> None:
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise AdapterError(f"'{path}' lacks {', '.join(missing)}.", remedy="Copy or train it again.")


@contextlib.contextmanager
def _settings_of(path: Path) -> Iterator[None]:
    """Name the file and the setting if a method's settings cannot be read."""
    try:
        yield
    except KeyError as error:
        raise AdapterError(f"'{path}' lacks {error}.", remedy="Copy or train it again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise AdapterError(
            f"'{path}' has a bad setting {first['loc']}: {first['msg']}.", remedy="Save it again."
        ) from error
    except RecipeError as error:
        raise AdapterError(f"'{path}' has a bad setting {error}", remedy="Save it again.") from error


def _from_peft(
    config: MethodConfig, tensors: Mapping[str, Tensor], model: AdaptedModel, folder: Path
) -> dict[str, Tensor]:
    try:
        return config.from_peft_tensors(tensors, model.view)
    except (KeyError, RuntimeError) as error:
        raise AdapterError(
            f"the tensors in '{folder / TENSORS}' do not fit this base ({error}).",
            remedy="Load it onto the model it was trained on.",
        ) from error


def _method_of_peft(peft: Mapping[str, Any], folder: Path) -> str:
    for name in METHODS.names():
        if METHODS.get(name).reads_peft(peft):
            return name
    known = sorted({t for name in METHODS.names() if (t := METHODS.get(name).peft_type)})
    raise AdapterError(
        f"'{folder / CONFIG}' has the peft_type {peft.get('peft_type')!r}, which deltatune does not read.",
        remedy=f"It reads {', '.join(known)}.",
    )


def _check_base(saved: SavedAdapter, model: AdaptedModel, fingerprint: str | None, folder: Path) -> None:
    if saved.ours is None:
        return
    base = saved.ours["base"]
    dtype = _precision(model)
    same_weights = (
        fingerprint is None
        or base["fingerprint"] is None
        or base["dtype"] != dtype
        or base["fingerprint"] == fingerprint
    )
    if base["structure"] != structure(model.base) or not same_weights:
        raise AdapterError(
            f"the delta in '{folder}' was trained on {base['name'] or 'another model'}, and this base "
            f"({getattr(model.base.config, '_name_or_path', '') or model.view.model_type}) is another.",
            field="adapter",
            remedy="Load it onto the base it was trained on.",
        )


def _without_base(
    tensors: Mapping[str, Tensor], peft: Mapping[str, Any], model: AdaptedModel
) -> dict[str, Tensor]:
    """Leave out the base's own embedding tables, which peft may store beside the delta."""
    heads = tuple(f"{path}." for path in _named_heads(peft, tensors, model))
    own = dict(model.base.named_parameters())

    def belongs_to_base(key: str, tensor: Tensor) -> bool:
        parameter = own.get(key.replace(".base_layer.", "."))
        if parameter is None or key.startswith(heads):
            return False
        return parameter.shape == tensor.shape and torch.equal(parameter.cpu().to(tensor.dtype), tensor)

    left = {key: tensor for key, tensor in tensors.items() if not belongs_to_base(key, tensor)}
    return {key.replace(".base_layer.", "."): tensor for key, tensor in left.items()}


def _peft_heads(peft: Mapping[str, Any], tensors: Mapping[str, Tensor], model: AdaptedModel) -> list[str]:
    """Modules that a file of peft's has whole."""
    return foreign.replaced_modules(tensors, model.view, _named_heads(peft, tensors, model))


def _named_heads(peft: Mapping[str, Any], tensors: Mapping[str, Tensor], model: AdaptedModel) -> list[str]:
    """Modules that peft was told to save and the file has; the end of a name counts, as in peft."""
    names = tuple(peft.get("modules_to_save") or ())
    paths = [path for path in model.view.modules if path and path.endswith(names)] if names else []
    held = [path for path in paths if any(key.startswith(f"{path}.") for key in tensors)]
    return [path for path in held if not any(path.startswith(f"{outer}.") for outer in held)]
