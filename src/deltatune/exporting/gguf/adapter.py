"""Low-rank factors as a GGUF file that llama.cpp adds to a base (`--lora`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from deltatune.errors import ModelError
from deltatune.exporting.gguf.families import Stored, family_of, place
from deltatune.exporting.gguf.package import package
from deltatune.files import atomic_path

AdapterKind = Literal["f32", "f16"]
ADAPTER_KINDS: tuple[str, ...] = get_args(AdapterKind)
Factors = Mapping[str, tuple[Tensor, Tensor]]
"""A [rank, d_in] and B [d_out, rank] by the path of the module, with the update B A: scales are in B."""


def stored_factors(config: Any, class_name: str, factors: Factors) -> dict[str, Stored]:
    """How the factors of each module lie in a file, by its path.

    Args:
        config: Of the base.
        class_name: The base's class in Transformers.
        factors: The delta.

    Raises:
        ModelError: llama.cpp has no such model, or no place for the update of a module.
    """
    family, found = family_of(config.model_type, class_name), {}
    for path in factors:
        if config.tie_word_embeddings and path.endswith("lm_head"):
            raise ModelError(
                "the delta changes the output head, which the base shares with its embeddings: in llama.cpp "
                "there is one matrix for both.",
                field="--as",
                remedy="Export the merged model (--as gguf).",
            )
        stored = place(family, config, f"{path}.weight")
        if stored.name.startswith(("token_embd", "position_embd", "token_types")):
            raise ModelError(
                f"the delta changes {path}, a table of embeddings.",
                field="--as",
                remedy="Export the merged model (--as gguf).",
            )
        found[path] = stored
    return found


def write_adapter(
    config: Any,
    class_name: str,
    factors: Factors,
    path: Path,
    *,
    name: str,
    base: str | None = None,
    kind: AdapterKind = "f32",
) -> None:
    """Write a file for llama.cpp's `--lora`.

    Args:
        config: Of the base.
        class_name: The base's class in Transformers.
        factors: The delta; ranks may differ.
        path: The file.
        name: What it says it is called.
        base: The base's name.
        kind: Type of the factors.

    Raises:
        ModelError: As of `stored_factors`; or a factor is too large for `kind`.
        StorageError: The file cannot be written.
    """
    gguf = package()
    stored = stored_factors(config, class_name, factors)
    alpha = float(max(len(a) for a, _ in factors.values()))
    writer = gguf.GGUFWriter(None, family_of(config.model_type, class_name).architecture)
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    if base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
    with atomic_path(path) as temporary:
        for path_in_base, (a, b) in factors.items():
            tensor, rows = stored[path_in_base].name, stored[path_in_base].rows
            # llama.cpp scales each update by alpha / its own rank
            scaled = (b if rows is None else b[rows]).float() * (len(a) / alpha)
            for end, factor in (("lora_a", a.float()), ("lora_b", scaled)):
                values = factor.detach().cpu().contiguous().numpy()
                if kind == "f16":
                    if np.abs(values).max() > np.finfo(np.float16).max:
                        raise ModelError(
                            f"{tensor} is too large for f16.", field="--dtype", remedy="Write f32."
                        )
                    values = values.astype(np.float16)
                writer.add_tensor(f"{tensor}.{end}", values)
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_adapter(
    config: Any, class_name: str, factors: Factors, path: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of a file that `factors` were written to, rounded as they are there.

    Raises:
        ModelError: The file lacks some.
    """
    gguf = package()
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    found = {}
    for module, stored in stored_factors(config, class_name, factors).items():
        try:
            a, b = (torch.from_numpy(tensors[f"{stored.name}.{end}"]) for end in ("lora_a", "lora_b"))
        except KeyError as error:
            raise ModelError(f"'{path}' lacks {error}.", remedy="Export it again.") from error
        b = b if stored.rows is None else b[torch.argsort(stored.rows)]
        found[module] = a, b * (alpha / len(a))
    return found
