"""Whole folders of files, written at once or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltatune.errors import AdapterError


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes its place, on error it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    temporary.chmod(0o755)
    try:
        yield temporary
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            folder.replace(old / "folder")
            try:
                temporary.replace(folder)
            except BaseException:
                (old / "folder").replace(folder)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tensors that share memory are written one by one."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        AdapterError: It is missing, truncated or no safetensors file, or holds values that are not finite.
    """
    if not path.is_file():
        raise AdapterError(
            f"there is no file '{path}'.", remedy="Name the folder that holds the saved delta."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"'{path}' is damaged or is no safetensors file ({error}).", remedy="Copy or train it again."
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{name} in '{path}' is not finite.", remedy="Train it again at a lower rate.")
    return tensors
