"""NumPy archives of images."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from deltatune.data.decode import LEAST_SHARE, eight_bits
from deltatune.data.files import missing_file
from deltatune.data.images import PART_NAMES
from deltatune.data.rows import Record, Table
from deltatune.errors import DataError

Array = NDArray[Any]

_KINDS = {"images": "images", "x": "images", "labels": "labels", "y": "labels"}


def read_npz(source: str) -> Table:
    """Read a NumPy archive of images.

    Keys: `images` and `labels`, or these behind the name of a part, as in `train_images`, `val_labels`; `x`
    and `y` mean the same. Images are [rows, height, width] or [rows, height, width, channels], of any type
    that `eight_bits` reads; whole numbers of more than 16 bits that all lie within 0..255, in every part, are
    such pixels in a wider type, and said to be. Labels are [rows] or [rows, 1]: whole numbers or texts.
    Pickled arrays are refused. Members of other names are not read, and named in a warning.
    """
    path = Path(source)
    with _explained(path), zipfile.ZipFile(path) as archive:
        chosen, others = _members(archive, source)
        arrays = {place: _read_array(archive, member) for place, member in chosen.items()}
    widened = [place for place, array in arrays.items() if place[0] == "images" and _is_wide(array)]
    is_8_bit = _within_8_bits([arrays[place] for place in widened])
    kinds = ", ".join(sorted({str(arrays[place].dtype) for place in widened}))
    if is_8_bit:
        arrays |= {place: arrays[place].astype(np.uint8) for place in widened}
    parts = {
        part: _array_records(source, part, images, arrays["labels", part])
        for (kind, part), images in arrays.items()
        if kind == "images"
    }
    notes = [f"{path.name}: not used: {', '.join(map(repr, others))}."] if others else []
    if is_8_bit:
        notes.append(f"{path.name}: its {kinds} pixels lie within 0..255 and are read as pixels of 8 bits.")
    return Table(parts, input="image", target="label", warnings=tuple(notes))


def _is_wide(images: Array) -> bool:
    """Whether pixels are whole numbers of a type that no camera has: NumPy's own, of more than 16 bits."""
    return images.dtype.kind in "iu" and images.dtype.itemsize > 2


def _within_8_bits(arrays: list[Array]) -> bool:
    """Whether whole numbers go from 0 to 255 and, as 8 bits, are not nearly all black (0 and 1 of a mask)."""
    lowest = min((int(array.min()) for array in arrays if array.size), default=-1)
    highest = max((int(array.max()) for array in arrays if array.size), default=-1)
    return lowest >= 0 and 255 * LEAST_SHARE <= highest <= 255


def _members(
    archive: zipfile.ZipFile, source: str
) -> tuple[dict[tuple[str, str], zipfile.ZipInfo], list[str]]:
    """The members that hold images or labels, by (kind, part), and the keys of the others."""
    chosen: dict[tuple[str, str], zipfile.ZipInfo] = {}
    others = []
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        head, _, tail = key.lower().rpartition("_")
        if tail in PART_NAMES:  # x_train as well as train_x
            head, tail = tail, head
        part = PART_NAMES.get(head, "all" if not head else None)
        if part is None or tail not in _KINDS:
            others.append(key)
            continue
        place = _KINDS[tail], part
        if place in chosen:
            raise DataError(
                f"has two arrays that mean the {tail} of {part}: {chosen[place].filename!r} and "
                f"{member.filename!r}.",
                field=source,
                remedy="Leave one out.",
            )
        chosen[place] = member
    image_parts, label_parts = ({part for kind, part in chosen if kind == k} for k in ("images", "labels"))
    if not image_parts or image_parts != label_parts:
        keys = [member.filename.removesuffix(".npy") for member in archive.infolist()]
        raise DataError(
            f"has the keys {', '.join(map(repr, keys[:20]))}, which are no pairs of images and labels.",
            field=source,
            remedy="Name them images and labels, or train_images, train_labels, val_images and so on.",
        )
    _require_room([member.file_size for member in chosen.values()], source)
    return chosen, others


def _require_room(sizes: list[int], source: str) -> None:
    """Refuse what does not fit into memory before any of it is unpacked: a small file may hold zeros only."""
    free = psutil.virtual_memory().available
    if sum(sizes) > free:
        raise DataError(
            f"unpacks to {sum(sizes) / 2**30:.1f} GB, and {free / 2**30:.1f} GB of memory are free.",
            field=source,
            remedy="Save fewer or smaller images, or single image files in class folders.",
        )


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read an array whose header tells the size that the member has; NumPy believes the header."""
    with archive.open(member) as handle:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        version = npy.read_magic(handle)
        if version not in readers:  # 3.0: of arrays with named fields
            raise ValueError(f"{member.filename} is of another kind")
        shape, _, dtype = readers[version](handle)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        if min(shape, default=0) < 0 or handle.tell() + dtype.itemsize * math.prod(shape) != member.file_size:
            raise ValueError(f"{member.filename} is not as large as its header says")
        handle.seek(0)
        array: Array = npy.read_array(handle, allow_pickle=False)
        return array


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    if not path.is_file():
        if path.exists():
            raise DataError("is no file.", field=str(path), remedy="Name a NumPy archive.")
        raise missing_file(path)
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"cannot be read ({error}).", field=str(path), remedy="Write the archive again."
        ) from error
    except Exception as error:  # damaged archives make zipfile, zlib and NumPy raise nearly anything
        raise DataError(
            f"is no archive of plain arrays ({error}).",
            field=str(path),
            remedy="Use numpy.savez with number or text arrays; pickled objects are never loaded.",
        ) from error


def _array_records(source: str, part: str, images: Array, labels: Array) -> list[Record]:
    name = f"{Path(source).name}, {part} images"
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 2, 3, 4)):
        raise DataError(
            f"are {list(images.shape)}, not [rows, height, width(, channels)] with 1 to 4 channels.",
            field=name,
            remedy="Save them in this order; channels are grey, RGB, or either with transparency.",
        )
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise DataError(
            f"are {len(images)}, but the labels are {list(labels.shape)}.",
            field=name,
            remedy="Give one label for each image.",
        )
    if labels.dtype.kind not in "iuUSb":
        raise DataError(
            f"have labels of type {labels.dtype}.", field=name, remedy="Labels are whole numbers or texts."
        )
    names = [item if isinstance(item, bytes) else str(item) for item in labels.ravel().tolist()]
    return [
        Record(f"{name}, row {number}", {"image": image, "label": label})
        for number, (image, label) in enumerate(zip(eight_bits(images, name), names, strict=True))
    ]
