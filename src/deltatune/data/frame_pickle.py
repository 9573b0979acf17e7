"""Reading a pickled pandas DataFrame without letting the pickle run anything.

A pickle is a program that may call whatever it names. Here each name it may use is listed, and each stands
for a small class or function of this module that only keeps what it is given; any other name is refused
before anything is called. Neither pandas' nor NumPy's own classes are within reach: an array that a pickle
builds and sets up as it likes can hold addresses of its choice. Arrays are made here, of numbers or of plain
values.
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


class _Dtype:
    """Stands in for NumPy's dtype: a kind of number and its size, or `O8`, any plain values."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        del align, copy  # part of the pickled call
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not allowed")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a type has no byte order")
        self.order = state[1]

    def numbers(self) -> np.dtype[Any]:
        if self.code == _PLAIN:
            raise pickle.UnpicklingError("an array of values has a buffer of bytes")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for NumPy's ndarray, which is made when all is read."""

    made: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.made is not None:
            raise pickle.UnpicklingError("an array is set up twice")
        _, shape, dtype, fortran, content = state
        self.made = content, dtype, shape, "F" if fortran else "C"

    def array(self) -> np.ndarray[Any, Any]:
        """The array, once nothing more can change it."""
        if self.made is None:
            raise pickle.UnpicklingError("an array has no content")
        content, dtype, shape, order = self.made
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array has no type")
        if isinstance(content, list):
            values = _plain_values(content, dtype)
        elif isinstance(content, bytes | bytearray):
            values = np.frombuffer(content, dtype.numbers())
        else:
            raise pickle.UnpicklingError("an array is of something else")
        return values.reshape(shape, order=order)


def _plain_values(content: list[Any], dtype: _Dtype) -> np.ndarray[Any, Any]:
    if dtype.code != _PLAIN or not all(type(value) in _SCALARS for value in content):
        raise pickle.UnpicklingError("an array holds something else than text and numbers")
    values = np.empty(len(content), object)
    values[:] = content
    return values


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands in for NumPy's function: an array that is set up later."""
    del kind, shape, code
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands in for NumPy's function: an array of numbers, by the bytes of them."""
    array = _Array()
    array.made = content, dtype, shape, order
    return array


class _Index:
    """Stands in for pandas' Index: keeps the labels."""

    def __init__(self, data: Any = ()) -> None:
        self.data = data

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("an index is set up twice")

    def labels(self) -> list[str]:
        return [str(label) for label in _array(self.data)]


class _RangeIndex(_Index):
    """Stands in for pandas' RangeIndex; row labels are not used."""


class _Manager:
    """Stands in for pandas' BlockManager: axes are [columns, rows], a block holds some of the columns."""

    def __init__(self, blocks: Sequence[tuple[Any, Any]], axes: Sequence[_Index]) -> None:
        self.blocks, self.axes = blocks, axes

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a data frame is set up twice")


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


class _Function:
    """A function that a pickle may call, but not set up: functions have settable attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function is set up")


_PLAIN = "O8"
_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", _PLAIN)
_SCALARS = (str, int, float, bool, type(None))

_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "slice"): slice,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Function(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Function(_frombuffer),
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.indexes.base", "Index"): _Index,
    ("pandas.core.indexes.base", "_new_Index"): _Function(_new_index),
    ("pandas.core.indexes.range", "RangeIndex"): _RangeIndex,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _Function(_unpickle_block),
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


def _array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, _Array):
        raise pickle.UnpicklingError("it holds something else where an array belongs")
    return value.array()


def _table(frame: Any) -> Table:
    if not isinstance(frame, _Frame) or not isinstance(frame.manager, _Manager):
        raise pickle.UnpicklingError("it does not hold a data frame")
    header = frame.manager.axes[0].labels()
    columns: list[Sequence[Any]] = [()] * len(header)
    for values, placement in frame.manager.blocks:
        places = range(len(header))[placement] if isinstance(placement, slice) else _array(placement)
        for place, column in zip(places, _array(values), strict=True):
            columns[int(place)] = column
    if len({len(column) for column in columns}) > 1:
        raise pickle.UnpicklingError("its columns are not equally long")
    return Table(header, columns)
