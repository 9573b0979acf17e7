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

from deltatune.errors import AdapterError, DeltatuneError
from deltatune.files import permitted


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes its place, on error it is removed.

    What a killed process leaves of this is put in order by `settle`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.new."))
    try:
        yield temporary
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(permitted(0o777 if path.is_dir() else 0o666))
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


def settle(parent: Path) -> None:
    """Put in order what processes that were killed while they wrote into `parent` left there.

    A folder that was moved aside and has no successor is put back; half-written files and folders are
    removed. Nobody else may be writing there.
    """
    for aside in parent.glob(".*.old.*"):
        folder = parent / aside.name[1:].rpartition(".old.")[0]
        if (aside / "folder").is_dir() and not folder.exists():
            (aside / "folder").replace(folder)
        shutil.rmtree(aside, ignore_errors=True)
    for unfinished in parent.glob(".*.new.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for file in parent.glob(".*.tmp"):
        file.unlink(missing_ok=True)


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
        if tensor.is_complex():
            raise AdapterError(f"{name} in '{path}' holds complex numbers.", remedy="Save it as float32.")
        # in float32, which deltas are trained in: 1e300 of float64 becomes infinite there
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise AdapterError(
                f"{name} in '{path}' is not finite in float32.", remedy="Train it again at a lower rate."
            )
    return tensors


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Within the block, files are read that anybody may have written: what they break is said of them.

    Raises:
        AdapterError: They do not hold what they should, in whatever way.
    """
    try:
        yield
    except (DeltatuneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise AdapterError(
            f"the delta in '{folder}' cannot be read ({type(error).__name__}: {text[:200]}).",
            remedy="Copy or train it again.",
        ) from error
