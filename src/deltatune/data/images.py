"""Images: folders of class sub-folders, NumPy archives, and decoding."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.data.rows import Image, Record, Table
from deltatune.data.tables import missing_file
from deltatune.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of sub-folders, archive keys and hub splits, and the part that each means."""


def read_image_folder(source: str) -> Table:
    """Read a folder with one sub-folder of images for each class, or train, val and test folders of such."""
    folder = Path(source)
    if not folder.is_dir():
        raise missing_file(folder)
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = {PART_NAMES[path.name.lower()]: path for path in subfolders if path.name.lower() in PART_NAMES}
    if parts and len(parts) != len(subfolders):
        raise DataError(
            f"mixes part folders ({', '.join(path.name for path in parts.values())}) with others.",
            field=source,
            remedy="Give class folders only, or train, val and test folders only.",
        )
    table = {part: _class_folders(path, folder) for part, path in parts.items()}
    return Table(table or {"all": _class_folders(folder, folder)}, input="image", target="label")


def _class_folders(folder: Path, root: Path) -> list[Record]:
    records = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(class_folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                columns = {
                    "image": path,
                    "label": class_folder.name,
                    "file": path.relative_to(root).as_posix(),
                }
                records.append(Record(str(path), columns))
    if not records:
        raise DataError(
            "holds no images in class sub-folders.",
            field=str(folder),
            remedy=f"Put the images of each class in a folder of its name; suffixes: {', '.join(SUFFIXES)}.",
        )
    return records


def read_npz(source: str) -> Table:
    """Read a NumPy archive of uint8 images.

    Keys: `images` and `labels`, or these behind the name of a part, as in `train_images`, `val_labels`; `x`
    and `y` mean the same. Images are [rows, height, width] or [rows, height, width, channels], labels [rows]
    or [rows, 1]: whole numbers or texts. Pickled arrays are refused.
    """
    arrays = _load_arrays(Path(source))
    images: dict[str, np.ndarray[Any, Any]] = {}
    labels: dict[str, np.ndarray[Any, Any]] = {}
    for key, array in arrays.items():
        head, _, tail = key.lower().rpartition("_")
        if tail in PART_NAMES:  # x_train as well as train_x
            head, tail = tail, head
        part = PART_NAMES.get(head, "all" if not head else None)
        kinds = {"images": images, "x": images, "labels": labels, "y": labels}
        if part and tail in kinds:
            kinds[tail][part] = array
    if not images or set(images) != set(labels):
        raise DataError(
            f"has the keys {', '.join(map(repr, arrays))}, which are no pairs of images and labels.",
            field=source,
            remedy="Name them images and labels, or train_images, train_labels, val_images and so on.",
        )
    parts = {part: _array_records(source, part, images[part], labels[part]) for part in images}
    return Table(parts, input="image", target="label")


def _load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    "holds one array, not an archive.", field=str(path), remedy="Use numpy.savez."
                )
            return {key: archive[key] for key in archive.files}
    except OSError as error:
        if not path.exists():
            raise missing_file(path, error) from error
        raise DataError(
            f"cannot be read ({error}).", field=str(path), remedy="Write the archive again."
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"is no archive of plain arrays ({error}).",
            field=str(path),
            remedy="Use numpy.savez with number or text arrays; pickled objects are never loaded.",
        ) from error


def _array_records(
    source: str, part: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> list[Record]:
    name = f"{Path(source).name}, {part} images"
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"are {images.dtype} {list(images.shape)}, not uint8 [rows, height, width(, channels)].",
            field=name,
            remedy="Scale pixels to 0..255 and save them as uint8.",
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
    names = [item.decode() if isinstance(item, bytes) else str(item) for item in labels.ravel().tolist()]
    return [
        Record(f"{name}, row {number}", {"image": image, "label": label})
        for number, (image, label) in enumerate(zip(images, names, strict=True))
    ]


def decode_image(image: Image | Path) -> Image:
    """Decode an image to RGB pixels, uint8 [height, width, 3]; grey images get three equal channels.

    Raises:
        DataError: The file is missing, broken or no image, or the array has another shape.
    """
    from PIL import Image as Pil  # an image task needs it, importing this module does not
    from PIL import ImageOps

    try:
        if isinstance(image, Path):
            with Pil.open(image) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        else:
            grey = image.ndim == 3 and image.shape[2] == 1
            picture = Pil.fromarray(image[:, :, 0] if grey else image).convert("RGB")
    except FileNotFoundError as error:
        raise missing_file(Path(image), error) from error  # type: ignore[arg-type]
    except (OSError, SyntaxError, ValueError, TypeError, Pil.DecompressionBombError) as error:
        what = str(image) if isinstance(image, Path) else f"array {list(image.shape)}"
        raise DataError(
            f"is broken or no image ({str(error).rstrip('.')}).", field=what, remedy="Replace or remove it."
        ) from error
    return np.asarray(picture, dtype=np.uint8)
