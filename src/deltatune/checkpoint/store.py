"""Saving deltas, and attaching saved ones: peft's two files, and one of ours beside them (`saved.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltatune import quant
from deltatune.checkpoint import foreign
from deltatune.checkpoint.folders import atomic_folder, reading, write_tensors
from deltatune.checkpoint.holder import Holder
from deltatune.checkpoint.saved import CONFIG, OURS, SCHEMA, TENSORS, SavedAdapter, read_adapter
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import is_bare
from deltatune.core.whole import as_whole
from deltatune.errors import AdapterError
from deltatune.files import sealed, sha256, write_json
from deltatune.models.bundled import public_name
from deltatune.version import __version__

_PROMPT_LEARNING = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_AT_ROOT = ("prompt_embeddings", "base_model.")  # keys that no module of the base comes before
_TASK_TYPES = (
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ("MTModel", "SEQ_2_SEQ_LM"),
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
)


def structure(base: nn.Module) -> str:
    """Hash of the names and shapes of a model's parameters: what a delta must find to be attached.

    A quantized base has the structure of the base that it was made from.
    """
    lines = sorted(f"{name} {list(shape)}" for name, shape in quant.parameter_shape(base).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def save_adapter(
    model: Holder, name: str, folder: Path, *, base_name: str = "", fingerprint: str | None = None
) -> None:
    """Write the adapter `name` to `folder`, all files at once.

    Args:
        model: The model that it is attached to.
        name: Which adapter.
        folder: Where to; what is there is replaced.
        base_name: Hub id or path of the base, for those who load it.
        fingerprint: Hash of the base's weights, checked when it is loaded.
    """
    with atomic_folder(folder) as temporary:
        write_adapter(model, name, temporary, base_name=base_name, fingerprint=fingerprint)


def write_adapter(
    model: Holder, name: str, folder: Path, *, base_name: str = "", fingerprint: str | None = None
) -> None:
    """Write the adapter's files into a folder that is there; arguments as of `save_adapter`."""
    adapter, config = model.adapter(name), model.configs[name]
    saved = config.for_inference(adapter)
    base_name = base_name or str(getattr(model.base.config, "_name_or_path", ""))
    exported = config.to_peft(adapter, model.view)
    peft_type = config.peft_type if exported else f"DELTATUNE_{config.name.upper()}"
    fields, tensors = exported or ({}, adapter.stored())
    task = next((t for end, t in _TASK_TYPES if type(model.base).__name__.endswith(end)), None)
    if is_bare(model.base) and not (model.view.is_vision or model.view.is_encoder_decoder):
        task = "FEATURE_EXTRACTION"  # peft's model for it hands text alone to its base
    prefix = _prefix(peft_type)
    keys = {k if k.startswith(_AT_ROOT) else prefix + k: t for k, t in tensors.items()}
    write_tensors(folder / TENSORS, keys)
    write_json(
        folder / CONFIG,
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
        folder / OURS,
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
                "sha256": sha256(folder / TENSORS),
                "files": {CONFIG: sha256(folder / CONFIG)},
            }
        ),
    )


def _precision(model: Holder) -> str:
    """Type of the base's own weights, and the format of those that are quantized."""
    with model.using():  # else parameters that an adapter trains stand in their places
        dtype = str(next(model.base.parameters()).dtype)
    formats = quant.describe(model.base)
    return f"{dtype} {formats}" if formats else dtype


def load_adapter(
    model: Holder,
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


def _load(model: Holder, folder: Path, name: str, fingerprint: str | None, seed: int) -> None:
    saved = read_adapter(folder)
    _check_base(saved, model, fingerprint, folder)
    peft = saved.peft
    peft_type = peft["peft_type"]
    prefix = _prefix(peft_type)
    tensors = {key.removeprefix(prefix): tensor for key, tensor in saved.tensors.items()}
    config = saved.config
    if saved.ours is None:
        peft, tensors = foreign.whole_tables(saved.peft, tensors, model.view)
        tensors = _without_base(tensors, peft, model)
        config = foreign.at_their_sites(config, peft, tensors, model.view)
    if saved.ours is None or saved.ours["peft_compatible"]:
        tensors = _from_peft(config, tensors, model, folder)
    heads = saved.ours["heads"] if saved.ours else _peft_heads(peft, tensors, model)
    active = model.active
    adapter = model.attach(name, config, heads=heads, seed=seed)
    try:
        adapter.load_stored(tensors)
    except BaseException:
        model.detach(name)
        model.use(*active)
        raise


def _prefix(peft_type: str | None) -> str:
    return "base_model." if peft_type in _PROMPT_LEARNING else "base_model.model."


def _from_peft(
    config: MethodConfig, tensors: Mapping[str, Tensor], model: Holder, folder: Path
) -> dict[str, Tensor]:
    try:
        return config.from_peft_tensors(tensors, model.view)
    except (KeyError, RuntimeError) as error:
        raise AdapterError(
            f"the tensors in '{folder / TENSORS}' do not fit this base ({error}).",
            remedy="Load it onto the model it was trained on.",
        ) from error


def _check_base(saved: SavedAdapter, model: Holder, fingerprint: str | None, folder: Path) -> None:
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


def _without_base(tensors: Mapping[str, Tensor], peft: Mapping[str, Any], model: Holder) -> dict[str, Tensor]:
    """Leave out the base's own embedding tables, which peft may store beside the delta."""
    heads = tuple(f"{path}." for path in _named_heads(peft, tensors, model))
    own = dict(model.base.named_parameters(remove_duplicate=False))

    def belongs_to_base(key: str, tensor: Tensor) -> bool:
        parameter = own.get(key.replace(".base_layer.", "."))
        if parameter is None or key.startswith(heads):
            return False
        return parameter.shape == tensor.shape and torch.equal(
            as_whole(parameter.detach()).cpu().to(tensor.dtype), tensor
        )

    left = {key: tensor for key, tensor in tensors.items() if not belongs_to_base(key, tensor)}
    return {key.replace(".base_layer.", "."): tensor for key, tensor in left.items()}


def _peft_heads(peft: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Holder) -> list[str]:
    """Modules that a file of peft's has whole."""
    return foreign.replaced_modules(tensors, model.view, _named_heads(peft, tensors, model))


def _named_heads(peft: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Holder) -> list[str]:
    """Modules that peft was told to save and the file has; the end of a name counts, as in peft."""
    names = tuple(peft.get("modules_to_save") or ())
    paths = [path for path in model.view.modules if path and path.endswith(names)] if names else []
    held = [path for path in paths if any(key.startswith(f"{path}.") for key in tensors)]
    return [path for path in held if not any(path.startswith(f"{outer}.") for outer in held)]
