"""Folders that peft wrote: where the adapter lies, how its keys are spelled, and which modules it acts on.

peft finds its sites by patterns, counts and exclusions, and stores a tensor for each. So the tensors' own
keys say where a delta acts, whatever the configuration says of layers to transform or regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex
from torch import Tensor

from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import AdapterError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PATIENCE = 1
"""Seconds for a regular expression and a path."""
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+|(?<=\.)_orig_mod\.")
_COPIED, _ROWS = ".modules_to_save.", ".trainable_tokens_delta"
_LOW_RANK = re.compile(r"\.lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector)(?:\.|$)")
_NAMED = re.compile(r"(\.lora_(?:A|B|magnitude_vector))\.(?!weight$)[^.]+(?=\.weight$)")
_NAMED_BARE = re.compile(r"(\.lora_(?:embedding_A|embedding_B|E|magnitude_vector))\.(?!weight$)[^.]+$")


def adapter_folder(folder: Path) -> Path:
    """The folder that the adapter's files lie in: `folder`, its `adapter/`, or the only one in it.

    A trainer's output folder has `adapter/` beside checkpoints; peft names some by the adapter's name.

    Raises:
        AdapterError: There are several, or the tensors are in a format that could run code.
    """
    inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    inner = [folder / "adapter"] if folder / "adapter" in inner else inner
    if not (folder / CONFIG).exists() and inner:
        if len(inner) > 1:
            raise AdapterError(
                f"'{folder}' holds {len(inner)} adapters: {', '.join(path.name for path in inner)}.",
                remedy=f"Name one of them, such as '{inner[0]}'.",
            )
        [folder] = inner
    if (folder / "adapter_model.bin").exists() and not (folder / TENSORS).exists():
        raise AdapterError(
            f"'{folder}' keeps its tensors in adapter_model.bin, a pickle, which can run code when read.",
            remedy="Where you trust it, convert it once with peft: "
            "PeftModel.from_pretrained(base, folder).save_pretrained(new_folder).",
        )
    return folder


def plain_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the path of their module in the plain base.

    Without what torch.compile, data parallel training and peft put before a path, and without the adapter's
    name, which peft leaves out of its files and others do not. With `bias: all`, peft also stores the biases
    of modules that it trains a copy of: the base's own, and the copy's once more.
    """
    found, again = {}, {}
    for key, tensor in tensors.items():
        bare = _NAMED_BARE.sub(r"\1", _NAMED.sub(r"\1", _WRAPPERS.sub("", key)))
        bare = bare.replace(".base_layer.", ".")
        if _COPIED in bare:
            again[bare.replace(_COPIED, ".")] = tensor
        elif ".original_module." not in bare:
            found[bare] = tensor
    return again | found


def updates_convolutions(tensors: Mapping[str, Tensor]) -> bool:
    """Whether low-rank updates are of convolutions: their factors are."""
    return any(key.endswith(".lora_A.weight") and tensor.dim() > 2 for key, tensor in tensors.items())


def whole_tables(
    peft: Mapping[str, Any], tensors: Mapping[str, Tensor], view: BaseView
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and tensors with whole tables in place of some rows of them, which peft stores alone.

    Rows of an embedding that shares its weight with others, such as the output head, stand in all of them.

    Raises:
        AdapterError: A row is none of the table's, or the base lacks the table.
    """
    left = {key: tensor for key, tensor in tensors.items() if not key.endswith(_ROWS)}
    tables: list[str] = list(peft.get("modules_to_save") or ())
    for key in tensors.keys() - left.keys():
        path = key.removesuffix(_ROWS).removesuffix(".token_adapter")
        rows, indices = tensors[key], _rows_at(peft.get("trainable_token_indices"), path)
        table = getattr(view.modules.get(path), "weight", None)
        if not isinstance(table, Tensor) or not _are_rows(rows, indices, table):
            raise AdapterError(
                f"the file has rows of {path!r} ({len(rows)}) that are none of this base's.",
                field="trainable_token_indices",
                remedy="Load it onto the model it was trained on, with the tokens that it was given.",
            )
        whole = table.detach().cpu().to(rows.dtype, copy=True)
        whole[indices] = rows
        for twin, module in view.modules.items():
            if getattr(module, "weight", None) is not table:
                continue
            left |= {f"{twin}.{name}": tensor.cpu() for name, tensor in module.state_dict().items()}
            left[f"{twin}.weight"] = whole
            tables.append(twin)
    return {**peft, "modules_to_save": tables or None}, left


def _rows_at(indices: Any, path: str) -> list[int]:
    """Which rows of the table at `path` peft trains: a list is of the input embedding."""
    if isinstance(indices, Mapping):
        return next((list(rows) for end, rows in indices.items() if _names([end], path)), [])
    return list(indices or ())


def _are_rows(rows: Tensor, indices: list[int], table: Tensor) -> bool:
    """Whether `rows` can stand at `indices` of a table."""
    return (
        len(indices) == len(rows)
        and rows.shape[1:] == table.shape[1:]
        and all(isinstance(index, int) and 0 <= index < len(table) for index in indices)
    )


def trained_biases(tensors: Mapping[str, Tensor]) -> set[str]:
    """Paths of the modules of which a file has the bias, and not the weight."""
    biased = {key.removesuffix(".bias") for key in tensors if key.endswith(".bias")}
    return {path for path in biased if f"{path}.weight" not in tensors}


def low_rank_sites(tensors: Mapping[str, Tensor]) -> set[str]:
    """Paths of the modules with a low-rank update."""
    return {key[: match.start()] for key in tensors if (match := _LOW_RANK.search(key))}


def at_their_sites(
    config: MethodConfig, peft: Mapping[str, Any], tensors: Mapping[str, Tensor], view: BaseView
) -> MethodConfig:
    """The method with whole paths as targets, and ranks and scales by path: what the file has tensors for.

    Raises:
        AdapterError: A path is none of the base's.
    """
    sites = low_rank_sites(tensors) | _added_at(tensors, view)
    field = next((name for name in config.selectors if name in type(config).model_fields), None)
    if not sites or field is None:
        return config
    unknown = sorted(sites - view.modules.keys())
    if unknown:
        raise AdapterError(
            f"the file has updates for {len(unknown)} modules that this base lacks (first: {unknown[0]}).",
            remedy="Load it onto the model it was trained on.",
        )
    changes: dict[str, Any] = {field: tuple(path for path in view.modules if path in sites)}
    if "biases" in type(config).model_fields:
        changes["biases"] = tuple(sorted(trained_biases(tensors) & view.modules.keys()))
    if "feedforward_modules" in peft:
        scaled = [path for path in changes["targets"] if _names(peft["feedforward_modules"] or [], path)]
        changes["feedforward"] = tuple(scaled)
        changes["targets"] = tuple(path for path in changes["targets"] if path not in scaled)
    for name in ("rank_pattern", "alpha_pattern"):
        if peft.get(name) and config.peft_type == "LORA":
            changes[name] = _by_path(peft[name], sites)
    return config.changed(changes)


def _added_at(tensors: Mapping[str, Tensor], view: BaseView) -> set[str]:
    """Paths of the base's modules that the file has something beside the module's own weights for."""
    sites = set()
    for key in tensors:
        path = key
        while path and path not in view.modules:
            path = path.rpartition(".")[0]
        if not path:
            continue
        leaf = key.removeprefix(f"{path}.").partition(".")[0]
        module = view.modules[path]
        if leaf not in module._parameters and leaf not in module._buffers:
            sites.add(path)
    return sites


def _names(pattern: str | list[str], path: str) -> bool:
    """Whether peft's pattern (a regular expression for the whole path, or ends of paths) names `path`."""
    if isinstance(pattern, str):
        return _fits(pattern, path)
    return any(path == end or path.endswith(f".{end}") for end in pattern)


def _fits(pattern: str, path: str) -> bool:
    """Whether a stranger's regular expression is that of a path, found out in seconds.

    Raises:
        AdapterError: It takes longer, as `(a+)+!` does, which tries all ways to cut a path.
    """
    try:
        return regex.fullmatch(pattern, path, timeout=PATIENCE) is not None
    except TimeoutError as error:
        raise AdapterError(
            f"the pattern {pattern[:80]!r} in {CONFIG} takes longer than {PATIENCE} s.",
            remedy="Name whole modules in its place.",
        ) from error


def _by_path(pattern: Mapping[str, Any], sites: set[str]) -> dict[str, Any]:
    """What peft's pattern gives for each site; the first key that fits the end of a path counts."""
    found = {}
    for site in sorted(sites):
        key = next((key for key in pattern if _fits(rf"(.*\.)?({key})", site)), None)
        if key is not None:
            found[site] = pattern[key]
    return found


def replaced_modules(tensors: Mapping[str, Tensor], view: BaseView, named: list[str]) -> list[str]:
    """Modules that the file has whole: those that peft was told to save, and others that it has tensors for.

    Args:
        tensors: By plain keys; what equals the base's own is left out.
        view: The base.
        named: Paths that are known already.

    Raises:
        AdapterError: One has another number of rows here, as if tokens had been added.
    """
    sites = low_rank_sites(tensors)
    if not sites:
        return named
    known = tuple(f"{path}." for path in named)
    found = list(named)
    for path, module in view.modules.items():
        parameters = dict(module.named_parameters(recurse=False))
        mine = {leaf: tensors[f"{path}.{leaf}"] for leaf in parameters if f"{path}.{leaf}" in tensors}
        if not mine or path in sites or (mine.keys() == {"bias"} and "weight" in parameters):
            continue
        for leaf, tensor in mine.items():
            if tensor.shape != parameters[leaf].shape:
                raise AdapterError(
                    f"{path}.{leaf} has the shape {list(tensor.shape)} in the file and "
                    f"{list(parameters[leaf].shape)} in this base.",
                    remedy="Where tokens were added before training, take the base with those tokens: "
                    "model.resize_token_embeddings(rows), with the tokenizer saved beside the adapter.",
                )
        if not f"{path}.".startswith(known):
            found.append(path)
    return found
