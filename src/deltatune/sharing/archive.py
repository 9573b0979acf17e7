"""One file that holds a folder's files, with a checksum of each: written alike each time, and read with care.

It is a zip archive, so that anything opens it. A stranger may have made one: names that lead elsewhere,
links, names that meet, and archives that unpack to more than they may are refused before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.data.files import check_file, most_unpacked, too_large
from deltatune.errors import DataError, DeltatuneError
from deltatune.files import OURS, as_json, atomic_path, encoded, is_intact, meant, sealed
from deltatune.version import __version__

MANIFEST = "pack.json"
SCHEMA = 1
MOST_FILES = 50_000
LONGEST_NAME = 512
"""Bytes of a name within the archive."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: that of its writing is no part of what it holds."""
_MODE = (stat.S_IFREG | 0o644) << 16
_MOST_OF_MANIFEST = 32 << 20
_CHUNK = 1 << 20
_AT_TOP = ("leaderboard.json", "curve.json", "choosing.json", "report.html")
_OF_RUN = (
    "result.json", "certificate.json", "metrics.jsonl", "predictions.jsonl", "tasks.jsonl", "general.jsonl",
    "recipe.yaml", "manifest.json", "adapter/deltatune.json",
)  # fmt: skip
_PART = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+")
_AGAIN = "Have it packed and sent again; nothing was written."


@dataclass(frozen=True)
class Opened:
    """What was unpacked."""

    folder: Path
    kind: str
    """`comparison` or `run`."""


def is_archive(path: Path) -> bool:
    """Whether a path is meant as a packed file, and not as a folder."""
    return not path.is_dir() and (path.is_file() or path.suffix.lower() in (".dtz", ".zip"))


def is_allowed(name: str) -> bool:
    """Whether a file of a pack may have this name: it is one that a comparison or a run writes."""
    first, *rest = name.split("/")
    if not rest or first != "runs":
        return name in _AT_TOP or name in _OF_RUN
    folder, _, inner = name.removeprefix("runs/").partition("/")
    named = _PART.fullmatch(folder) is not None and folder.strip(" .") == folder
    return named and folder.isprintable() and inner in _OF_RUN


def write(folder: Path, out: Path, kind: str) -> int:
    """Pack all files of a folder, and return the archive's bytes. Equal files make equal archives.

    Raises:
        StorageError: It cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    contents = {name: (folder / name).read_bytes() for name in names}
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    manifest = {
        "schema": SCHEMA,
        "made_by": "deltatune",
        "version": __version__,
        "kind": kind,
        "files": files,
    }
    with atomic_path(meant(out)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in {MANIFEST: encoded(as_json(sealed(manifest))), **contents}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr, info.create_system = _MODE, 3
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    return meant(out).stat().st_size


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Opened]:
    """Unpack into a folder that is there within the block.

    Raises:
        DataError: It is no pack, it was changed or damaged, or what it holds may not be unpacked.
    """
    with tempfile.TemporaryDirectory(prefix=OURS) as temporary:
        yield unpack(path, Path(temporary))


def unpack(path: Path, place: Path) -> Opened:
    """Unpack into a folder within an empty one, that has the name of the file.

    Raises:
        DataError: As of `unpacked`.
    """
    if not path.exists():
        raise DataError("is not there.", field=str(path), remedy="Name a file that `deltatune pack` wrote.")
    check_file(path)
    folder = place / (path.name.partition(".")[0].strip() or "pack")
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            manifest = _manifest(archive, members, path)
            for name, wanted in manifest["files"].items():
                _write_member(archive, members[name], wanted, folder / name, path)
    except DeltatuneError:
        raise
    except Exception as error:  # damaged archives make zipfile and zlib raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"is no pack of deltatune, or is damaged ({reason}).",
            field=str(path),
            remedy="Name a file that `deltatune pack` wrote.",
        ) from error
    return Opened(folder, manifest["kind"])


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, all of which may be unpacked."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise _refused(path, f"holds {len(entries):,} files, and a pack {MOST_FILES:,} at most")
    members: dict[str, zipfile.ZipInfo] = {}
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.filename
        shown = f"{name[:80]!r}"
        if name != MANIFEST and (not is_allowed(name) or len(name.encode()) > LONGEST_NAME):
            raise _refused(path, f"holds {shown}, which is no file of a comparison or a run")
        alike = unicodedata.normalize("NFC", name).casefold()
        if alike in seen:
            raise _refused(
                path, f"holds {shown} and {seen[alike][:80]!r}, which are one file on some machines"
            )
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _refused(path, f"holds {shown} as a link or a device")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(path, f"holds {shown} encrypted, or packed as no pack is")
        seen[alike], members[name] = name, entry
    size, whole = path.stat().st_size, sum(entry.file_size for entry in entries)
    if whole > most_unpacked(size):
        raise too_large(path, size)
    if whole > shutil.disk_usage(tempfile.gettempdir()).free:
        raise _refused(path, f"unpacks to {whole:,} bytes, for which '{tempfile.gettempdir()}' has no room")
    return members


def _manifest(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path) -> dict[str, Any]:
    """What the pack says of itself: checked, and of exactly the files that are there."""
    if MANIFEST not in members:
        raise _refused(path, f"has no {MANIFEST}")
    if members[MANIFEST].file_size > _MOST_OF_MANIFEST:
        raise _refused(path, f"has a {MANIFEST} of {members[MANIFEST].file_size:,} bytes")
    content = json.loads(archive.read(MANIFEST))
    if not isinstance(content, dict) or content.get("made_by") != "deltatune":
        raise _refused(path, f"has a {MANIFEST} of another program")
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"has the schema {str(content.get('schema'))[:20]}, and this version reads {SCHEMA}.",
            field=str(path),
            remedy="Install the version of deltatune that packed it.",
        )
    if is_intact(content) is not True:
        raise _refused(path, f"has a {MANIFEST} that was changed: its checksum differs")
    files = content.get("files")
    if not isinstance(files, dict) or content.get("kind") not in ("comparison", "run"):
        raise _refused(path, f"has a damaged {MANIFEST}")
    if files.keys() != members.keys() - {MANIFEST}:
        odd = sorted(files.keys() ^ (members.keys() - {MANIFEST}))[0]
        raise _refused(path, f"and its {MANIFEST} differ in {odd[:80]!r}")
    return content


def _write_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, wanted: Any, place: Path, path: Path
) -> None:
    """Write a file that is as large as was said, and no more of it than that."""
    size, digest = (wanted.get("bytes"), wanted.get("sha256")) if isinstance(wanted, dict) else (None, None)
    if size != member.file_size:
        raise _refused(path, f"holds {member.filename!r} with another size than {MANIFEST} says")
    place.parent.mkdir(parents=True, exist_ok=True)
    summed, left = hashlib.sha256(), member.file_size
    with archive.open(member) as source, place.open("xb") as target:
        while left > 0 and (chunk := source.read(min(_CHUNK, left))):
            left -= len(chunk)
            summed.update(chunk)
            target.write(chunk)
        if left or source.read(1):
            raise _refused(path, f"holds {member.filename!r} with another size than it says")
    if summed.hexdigest() != digest:
        raise _refused(path, f"holds {member.filename!r} changed: its checksum differs")


def _refused(path: Path, what: str) -> DataError:
    return DataError(f"{what}.", field=str(path), remedy=_AGAIN)
