"""Folders of images: class sub-folders to learn from, and any images to predict for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltatune.data.decode import decode_image, open_image
from deltatune.data.files import missing_file
from deltatune.data.rows import Record, Table
from deltatune.errors import DataError

__all__ = [
    "PART_NAMES",
    "SUFFIXES",
    "decode_image",
    "listed",
    "named",
    "prediction_images",
    "read_image_folder",
]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm"),
)
"""A file with one of them must be an image; files without are looked into."""
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
SHOWN = 3
"""Files that a message names; of the others it says how many there are."""

NOT_USED = "not used (hidden, in no class folder, or no image that can be read)"

_HIDDEN = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_OF_THE_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
_STILL = ("JPEG", "MPO")  # a phone's MPO holds the same picture again, for depth or preview


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is a program's own, such as .ipynb_checkpoints or __MACOSX."""
    return name.startswith(".") or name in _HIDDEN or name in _OF_THE_SYSTEM


@dataclass
class Listing:
    """What a walk through folders has met."""

    images: list[Path] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)
    """Files that are no images or lie in hidden folders; and what is no regular file."""
    transparent: list[Path] = field(default_factory=list)
    several: list[Path] = field(default_factory=list)
    """Images of several frames or pages."""
    empty: list[Path] = field(default_factory=list)
    """Folders of classes that hold no file at all."""

    def add(self, path: Path) -> None:
        """Sort a file in. What has an image's suffix and is none is left for decoding to complain of."""
        try:
            with open_image(path) as opened:
                if opened.has_transparency_data:
                    self.transparent.append(path)
                if getattr(opened, "is_animated", False) and opened.format not in _STILL:
                    self.several.append(path)
        except DataError:
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                self.unused.append(path)
                return
        self.images.append(path)

    def warnings(self, root: Path) -> list[str]:
        """What a person should know about the files below `root`."""
        kinds = [
            (self.unused, "file is", "files are", NOT_USED),
            (self.empty, "folder is", "folders are", "empty and no class"),
            (self.transparent, "image is", "images are", "put on white, having transparency"),
            (self.several, "image is", "images are", "read in the first of several frames or pages only"),
        ]
        return [
            f"{root}: {len(paths)} {plural if len(paths) > 1 else single} {what}: {named(paths, root)}."
            for paths, single, plural, what in kinds
            if paths
        ]


def named(paths: Sequence[Path], root: Path) -> str:
    """The first of some paths below `root`: `a/x.txt, a/y.txt, b/z.txt and 9 more`."""
    names = ", ".join(path.relative_to(root).as_posix() for path in paths[:SHOWN])
    return names + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")


def visible_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, in order: the visible ones, and those that are hidden or lie hidden.

    Links to folders count as files: what they lead to is not entered. What an operating system leaves in
    every folder (.DS_Store and such) is left out.

    Raises:
        DataError: A folder cannot be listed.
    """
    visible: list[Path] = []
    hidden: list[Path] = []
    for path in listed(folder):
        if path.is_dir() and not path.is_symlink():
            inner, inner_hidden = visible_files(path)
            (hidden if is_hidden(path.name) else visible).extend(inner)
            hidden.extend(inner_hidden)
        elif path.name not in _OF_THE_SYSTEM:
            (hidden if is_hidden(path.name) else visible).append(path)
    return visible, hidden


def listed(folder: Path) -> list[Path]:
    """What a folder holds, in the order of names.

    Raises:
        DataError: It is missing, no folder, or cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        raise missing_file(folder, error if isinstance(error, OSError) else None) from error


def read_image_folder(source: str) -> Table:
    """Read a folder with one sub-folder of images for each class, or train, val and test folders of such.

    Hidden folders are no classes. Files without an image's suffix are looked into.
    """
    folder = Path(source)
    subfolders = [path for path in listed(folder) if path.is_dir() and not is_hidden(path.name)]
    named = [(PART_NAMES[path.name.lower()], path) for path in subfolders if path.name.lower() in PART_NAMES]
    parts = dict(named)
    if named and len(parts) != len(subfolders):
        twice = [part for part, count in Counter(part for part, _ in named).items() if count > 1]
        raise DataError(
            f"has several folders of {twice[0]} rows."
            if twice
            else f"mixes part folders ({', '.join(path.name for path in parts.values())}) with others.",
            field=source,
            remedy="Give class folders only, or train, val and test folders only.",
        )
    _refuse_wrapped(subfolders)
    listing = Listing()
    if parts:
        table = {part: _class_folders(path, folder, listing) for part, path in parts.items()}
        _add_unused(folder, listing)
    else:
        table = {"all": _class_folders(folder, folder, listing)}
    return Table(table, input="image", target="label", warnings=tuple(listing.warnings(folder)))


def _refuse_wrapped(subfolders: Sequence[Path]) -> None:
    """Refuse a sole folder around the classes, as archives and cloud drives make: it would be the only class.

    Raises:
        DataError: There is one.
    """
    around = None
    while len(subfolders) == 1 and subfolders[0].name.lower() not in PART_NAMES:
        inner = [path for path in listed(subfolders[0]) if path.is_dir() and not is_hidden(path.name)]
        if not inner:
            break
        around, subfolders = subfolders[0], inner
    if around is not None:
        raise DataError(
            f"is the only folder, and would be the only class; it holds {named(subfolders, around)}.",
            field=str(around),
            remedy="Name it as the source; if it is a class, put its images into it directly.",
        )


def _add_unused(folder: Path, listing: Listing) -> None:
    """Note the files beside the sub-folders that are read."""
    for path in listed(folder):
        if path.is_dir() and is_hidden(path.name):
            listing.unused += [file for files in visible_files(path) for file in files]
        elif not path.is_dir() and path.name not in _OF_THE_SYSTEM:
            listing.unused.append(path)


def _class_folders(folder: Path, root: Path, listing: Listing) -> list[Record]:
    records = []
    for class_folder in [path for path in listed(folder) if path.is_dir() and not is_hidden(path.name)]:
        visible, hidden = visible_files(class_folder)
        before = len(listing.images)
        for path in visible:
            listing.add(path)
        listing.unused += hidden
        images = listing.images[before:]
        files = visible + hidden
        if not files:
            listing.empty.append(class_folder)
        elif not images:
            raise DataError(
                f"would be a class without images: none of its files is used: {named(files, root)}.",
                field=str(class_folder),
                remedy="Save its images as PNG or JPEG, or remove the folder.",
            )
        for path in images:
            columns = {"image": path, "label": class_folder.name, "file": path.relative_to(root).as_posix()}
            records.append(Record(str(path), columns))
    _add_unused(folder, listing)
    if not records:
        raise DataError(
            "holds no images in class sub-folders.",
            field=str(folder),
            remedy=f"Put the images of each class in a folder of its name; suffixes: {', '.join(SUFFIXES)}.",
        )
    return records


def prediction_images(path: Path) -> Iterator[tuple[str, Path]]:
    """The images to predict for: of a folder all its visible files, in order; otherwise the file itself.

    Nothing is opened: a file that is no image, or a broken one, is found by `decode_image` when its turn
    comes, and none is left out in silence.

    Yields:
        The file's path within the folder, with `/`, or the file's name; and its path.

    Raises:
        DataError: There is nothing of this name, or the folder holds no files.
    """
    if path.is_dir():
        visible, _ = visible_files(path)
        if not visible:
            raise DataError("holds no files.", field=str(path), remedy="Name a folder of images.")
        yield from ((file.relative_to(path).as_posix(), file) for file in visible)
    elif path.exists():
        yield path.name, path
    else:
        raise missing_file(path)
