"""The weights of a base in mapped files: the kernel reads them when they are used, and may take them back.

What Transformers has loaded as it stands in a checkpoint is mapped from there. The rest (weights in another
type than the file's, new heads, what was dequantized) is written to a file without a name in the cache's
folder, which is gone when the process ends. Pages that have been used are given back after each layer, so
that a process has no more than a layer of them at a time.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from deltatune import units
from deltatune.cache import cache_root, make_cache_folder
from deltatune.core.offload import FIELD
from deltatune.errors import ModelError

_ALIGNED = 64
"""Bytes that the start of a written tensor is a multiple of, as torch's own are."""


@dataclass(frozen=True)
class _Region:
    """A part of this process's memory that is mapped from a file."""

    start: int
    end: int
    offset: int
    """Of its first byte in the file."""
    inode: int
    path: str
    written: bool
    """Whether a byte of it is no longer the file's."""


class MappedWeights:
    """The weights of a model in mapped files, from which alone they are read.

    Args:
        model: On the host. Its parameters get other storages.
        dtype: What the weights shall have; those in a narrower type are widened.

    Raises:
        ModelError: The disk has no room for what must be written.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._places: dict[int, tuple[mmap.mmap, int, int]] = {}
        """Address of a tensor -> its file, its first byte there, its bytes."""
        self._file: IO[bytes] | None = None
        self._regions = list(_mapped_regions())
        left = [p for p in model.parameters() if p.numel() and not self._map(p)]
        narrow = {torch.bfloat16, torch.float16} if dtype == torch.float32 else set()
        left += [p for p in model.parameters() if p.dtype in narrow and p.data_ptr() in self._places]
        if left:
            self._write(left, narrow, dtype)

    def forget(self, tensors: Sequence[Tensor]) -> None:
        """Give the pages of tensors back; whoever reads them next has the kernel read them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        for tensor in tensors:
            if (place := self._places.get(tensor.data_ptr())) is not None:
                mapped, start, size = place
                first = start - start % mmap.PAGESIZE
                mapped.madvise(mmap.MADV_DONTNEED, first, start + size - first)

    def _map(self, parameter: nn.Parameter) -> bool:
        """Map a parameter from the file that it is in; say whether there is one."""
        data = parameter.data
        region = next((r for r in self._regions if r.start <= data.data_ptr() < r.end), None)
        if region is None or not data.is_contiguous():
            return False
        offset = region.offset + data.data_ptr() - region.start
        if region.path not in self._maps:
            with open(region.path, "rb") as file:
                if os.fstat(file.fileno()).st_ino != region.inode:
                    return False
                self._maps[region.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped = self._maps[region.path]
        if offset % data.element_size() or offset + data.nbytes > len(mapped):
            return False
        view = _view(mapped, offset, data.shape, data.dtype)
        if region.written and not torch.equal(view, data):
            return False
        self._put(parameter, view, mapped, offset)
        return True

    def _put(self, parameter: nn.Parameter, view: Tensor, mapped: mmap.mmap, offset: int) -> None:
        parameter.data = view
        self._places[view.data_ptr()] = mapped, offset, view.nbytes

    def _write(self, parameters: list[nn.Parameter], narrow: set[torch.dtype], dtype: torch.dtype) -> None:
        """Write parameters to a file without a name, and map them from it."""
        folder = cache_root() / "offload"
        make_cache_folder(folder)
        types = [dtype if p.dtype in narrow else p.dtype for p in parameters]
        size = sum(p.numel() * t.itemsize + _ALIGNED for p, t in zip(parameters, types, strict=True))
        if (free := shutil.disk_usage(folder).free) < size:
            raise ModelError(
                f"writing the base's weights takes {units.size(size)}, and '{folder}' has "
                f"{units.size(free)}.",
                field=FIELD,
                remedy="Set DELTATUNE_CACHE to a folder with more room, or let train.precision be what the "
                "model's files hold, which are mapped as they are.",
            )
        offsets = []
        # Kept: on some systems a mapping does not outlive the file that it is of.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        for parameter, wanted in zip(parameters, types, strict=True):
            self._file.write(bytes(-self._file.tell() % _ALIGNED))
            offsets.append(self._file.tell())
            for piece in parameter.data.reshape(-1).split(1 << 22):
                self._file.write(piece.to(wanted).view(torch.uint8).numpy())
            self.forget([parameter.data])
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        for parameter, wanted, offset in zip(parameters, types, offsets, strict=True):
            self._put(parameter, _view(mapped, offset, parameter.shape, wanted), mapped, offset)


def _view(mapped: mmap.mmap, offset: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor whose numbers are those of a file; nobody may write into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(mapped, dtype=dtype, count=shape.numel(), offset=offset)
    return flat.view(shape)


def all_from_files(model: nn.Module) -> bool:
    """Whether every parameter is mapped from a file as it stands there."""
    regions = list(_mapped_regions())
    return all(any(r.start <= p.data_ptr() < r.end for r in regions) for p in model.parameters() if p.numel())


def _mapped_regions() -> Iterator[_Region]:
    """What of this process's memory is mapped from files of tensors, where the system tells it."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    head, written = None, 0
    for line in lines:
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            # Addresses, rights, offset, device, inode, and the file if there is one.
            head, written = words if len(words) == 6 and Path(words[5]).is_file() else None, 0
        elif head is not None and words[0] in ("Anonymous:", "Swap:"):
            written += int(words[1])
            if words[0] == "Swap:":
                start, end = (int(address, 16) for address in head[0].split("-"))
                yield _Region(start, end, int(head[2], 16), int(head[4]), head[5], written > 0)
