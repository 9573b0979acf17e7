"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltatune.errors import DeltatuneError


def make_folder(
    path: Path, *, field: str = "--out", remedy: str = "Choose a folder that you may write to."
) -> Path:
    """Create `path` (and parents) and check that files can be written there.

    Raises:
        DeltatuneError: The folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DeltatuneError(
            f"cannot write to the folder '{path}' ({error.strerror}).",
            field=field,
            remedy=remedy,
        ) from error
    return path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and renamed over it, on error removed.

    Raises:
        DeltatuneError: `path` is a folder or a device, which must not be replaced by a file.
    """
    if path.exists() and not path.is_file():
        raise DeltatuneError(
            f"cannot write the file '{path}': it is a {'folder' if path.is_dir() else 'device or a pipe'}.",
            remedy="Name a file.",
        )
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(permitted(0o666))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def permitted(mode: int) -> int:
    """A mode as the umask leaves it; temporary files, and those of safetensors, are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write values as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read_json(path: Path, *, remedy: str, error: type[DeltatuneError] = DeltatuneError) -> dict[str, Any]:
    """Read a JSON object that one of our commands wrote, and that may have been damaged since.

    Args:
        path: The file.
        remedy: What to do about a damaged one.
        error: The kind of error that it is.

    Raises:
        DeltatuneError: It is missing, truncated, no JSON in UTF-8, or holds something else than an object.
    """
    if path.exists() and not path.is_file():
        raise error(f"'{path}' is no file.", remedy=remedy)
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"'{path}' cannot be read as JSON ({cause}).", remedy=remedy) from cause
    if not isinstance(value, dict):
        raise error(f"'{path}' holds a JSON {type(value).__name__}, not an object.", remedy=remedy)
    return value


def _no_number(name: str) -> float:
    """JSON has no NaN and no infinities, though Python reads them."""
    raise ValueError(f"{name} is no number of JSON")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
