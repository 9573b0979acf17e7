"""Reading a pickled pandas DataFrame without letting the pickle run anything.

A pickle is a program that may call whatever it names. Here each name it may use is listed: NumPy's array
constructors, and small stand-ins for the pandas classes, which only keep what they are given. Any other name
is refused before anything is called. pandas itself is not needed.
"""

from __future__ import annotations

import io
import lzma
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.errors import DataError

MAX_BYTES = 256 << 20  # of the decompressed pickle


@dataclass(frozen=True)
class Table:
    """The columns of a data frame, without its index."""

    header: list[str]
    columns: list[Sequence[Any]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.columns[0]) if self.columns else 0


class _Index:
    """Stands in for pandas' Index: keeps the labels."""

    def __init__(self, data: Any = ()) -> None:
        self.labels = list(data)


class _RangeIndex(_Index):
    """Stands in for pandas' RangeIndex; row labels are not used."""


class _Manager:
    """Stands in for pandas' BlockManager: axes are [columns, rows], a block holds some of the columns."""

    def __init__(self, blocks: Sequence[tuple[Any, Any]], axes: Sequence[_Index]) -> None:
        self.blocks, self.axes = blocks, axes


class _Frame:
    """Stands in for pandas' DataFrame, whose state is a dict with its manager."""

    manager: _Manager | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.manager = state["_mgr"]


def _new_index(kind: type[_Index], state: dict[str, Any]) -> _Index:
    """Stands in for pandas' `_new_Index`, which makes either kind of index from its saved state."""
    if not isinstance(kind, type) or not issubclass(kind, _Index):
        raise pickle.UnpicklingError("_new_Index of something that is not an index")
    return _RangeIndex() if kind is _RangeIndex else _Index(state.get("data", ()))


def _unpickle_block(values: Any, placement: Any, ndim: int) -> tuple[Any, Any]:
    """Stands in for pandas' `_unpickle_block`: (values [columns of the block, rows], which columns)."""
    del ndim  # always 2 for a data frame; part of the pickled call
    return values, placement


# The functions that NumPy itself names in pickles. Their module is private and was renamed in NumPy 2: they
# are taken from where NumPy gives them: the first item of what an array says about its own pickling.
_reconstruct: Any = np.zeros(1).__reduce__()[0]
_frombuffer: Any = np.zeros(1).__reduce_ex__(5)[0]

_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "slice"): slice,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.indexes.base", "Index"): _Index,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.range", "RangeIndex"): _RangeIndex,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _unpickle_block,
}


class _FrameUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of `_ALLOWED` and no others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed") from None


def read_frame(path: Path) -> Table:
    """Read an xz-compressed pickle of a DataFrame as a table of columns.

    Raises:
        DataError: The file is damaged, too large, not a data frame, or names anything but the few
            constructors a data frame of numbers and text needs.
    """
    try:
        with lzma.open(path) as handle:
            content = handle.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(f"it holds more than {MAX_BYTES >> 20} MB.", field=str(path))
        frame = _FrameUnpickler(io.BytesIO(content)).load()
        return _table(frame)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f"it is not a plain pickled table: {error}.", field=str(path)) from error


def _table(frame: Any) -> Table:
    if not isinstance(frame, _Frame) or not isinstance(frame.manager, _Manager):
        raise pickle.UnpicklingError("it does not hold a data frame")
    header = [str(label) for label in frame.manager.axes[0].labels]
    columns: list[Sequence[Any]] = [()] * len(header)
    for values, placement in frame.manager.blocks:
        places = range(len(header))[placement] if isinstance(placement, slice) else placement
        for place, column in zip(places, values, strict=True):
            columns[int(place)] = column
    return Table(header, columns)
