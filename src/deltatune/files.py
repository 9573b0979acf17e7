"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltatune.errors import DeltatuneError, StorageError

OURS = ".deltatune-"
"""How the names of all files begin that are only there while something is written."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK = (*NO_ROOM, errno.EROFS, errno.EIO)
"""Errors of a disk, whoever meets them; of the others only those that came while we wrote count."""
_SQLITE = {"SQLITE_FULL": errno.ENOSPC, "SQLITE_READONLY": errno.EROFS, "SQLITE_IOERR": errno.EIO}
_IN_TEXT = re.compile(r"\(os error (\d+)\)")
ROOM = "Make room and run the same command again (train: with --resume); what was done is kept."
RIGHT = "See that the folder can be written to and run the same command again (train: with --resume)."


def make_folder(
    path: Path, *, field: str = "--out", remedy: str = "Choose a folder that you may write to."
) -> Path:
    """Create `path` (and parents) and check that files can be written there.

    Raises:
        StorageError: The folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StorageError(
            f"cannot write to the folder '{path}' ({error.strerror}).",
            field=field,
            remedy=ROOM if error.errno in NO_ROOM else remedy,
        ) from error
    return path


def disk_error(error: BaseException) -> int | None:
    """The number (errno) of the disk's error that is at the bottom of `error`, or None.

    Libraries wrap it: safetensors has it in its text, SQLAlchemy holds SQLite's own.
    """
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        cause = queue.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        number = getattr(cause, "errno", None)
        if type(cause).__name__ == "SafetensorError" and (found := _IN_TEXT.search(str(cause))):
            number = int(found[1])
        if isinstance(cause, sqlite3.Error):
            name = getattr(cause, "sqlite_errorname", None) or ""
            number = next((value for key, value in _SQLITE.items() if name.startswith(key)), None)
        if number in DISK:
            return int(number)
        queue += [cause.__cause__, cause.__context__, getattr(cause, "orig", None)]
    return None


def require_disk(error: BaseException, path: Path) -> None:
    """Raise what `error` means if a disk is to blame for it; return if none is.

    Raises:
        StorageError: There is no room, the disk is read-only, or it is broken.
    """
    number = disk_error(error)
    if number is not None:
        raise storage_error(path, number) from error


def storage_error(path: Path, number: int) -> StorageError:
    """Say that `path` cannot be written, for the reason of this number (errno)."""
    remedy = ROOM if number in NO_ROOM else RIGHT
    return StorageError(f"cannot write '{path}' ({os.strerror(number)}).", remedy=remedy)


_guards: dict[object, tuple[Path, Callable[[], None]]] = {}


def guard(holder: object, folder: Path, check: Callable[[], None]) -> None:
    """Call `check`, which may raise, before anything is written into a folder, until `unguard`."""
    _guards[holder] = folder.absolute(), check


def unguard(holder: object) -> None:
    """Call it no more."""
    _guards.pop(holder, None)


def require_guarded(path: Path) -> None:
    """Let those who guard the folders of a file refuse that it is written, replaced or removed."""
    for folder, check in tuple(_guards.values()):
        if path.absolute().is_relative_to(folder):
            check()


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Within the block `path` is written; what the system refuses of that is an error to act on.

    Raises:
        StorageError: The system's error, in words.
        LostError: Another process has taken its folder over.
    """
    try:
        require_guarded(path)
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, with another meaning
            raise
        raise storage_error(path, error.errno) from error
    except Exception as error:
        require_disk(error, path)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot do this for folders; that says nothing of what they hold.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and renamed over it, on error removed.

    A link is replaced, and what it names is left alone: a stranger's folder may hold links to any file. Where
    a person names the file, `meant` says which one that is.

    Raises:
        DeltatuneError: `path` is a folder or a device, which must not be replaced by a file.
        StorageError: It cannot be written.
    """
    if path.exists() and not path.is_file():
        raise DeltatuneError(
            f"cannot write the file '{path}': it is a {'folder' if path.is_dir() else 'device or a pipe'}.",
            remedy="Name a file.",
        )
    with storing(path):
        temporary = _aside(path.parent, "tmp")
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            sync(temporary)
            require_guarded(path)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def meant(path: Path) -> Path:
    """The file that a person means who names `path`: of a link the one that it leads to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def new_folder(parent: Path, kind: str) -> Path:
    """Make a folder below `parent` with a name that only we give; its mode is what the umask leaves."""
    folder = _aside(parent, kind)
    folder.mkdir()
    return folder


def open_to_readers(folder: Path) -> None:
    """Give the files in a folder its own mode: those of safetensors are their owner's alone.

    The folder was made as the umask says. To ask the system for the umask is to change it for a moment, which
    two threads that do so at once may leave changed.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def remove_at_once(path: Path) -> None:
    """Remove a file or a folder; it loses its name first, so that no other process reads half of it."""
    aside = _aside(path.parent, "gone")
    path.rename(aside)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


def _aside(parent: Path, kind: str) -> Path:
    return parent / f"{OURS}{kind}.{secrets.token_hex(8)}"


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(text))


def encoded(text: str) -> bytes:
    r"""The text in UTF-8. Half of a character, which names of files may hold, becomes its escape `\udc80`.

    That is JSON's own escape, too: what is written as JSON reads as the same value.
    """
    return text.encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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


def text_sha256(text: str) -> str:
    """Hex digest of a text's bytes in UTF-8."""
    return hashlib.sha256(encoded(text)).hexdigest()


CHECKSUM = "checksum"


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The object with a checksum of itself."""
    return {**value, CHECKSUM: _digest(value)}


def is_intact(value: Mapping[str, Any]) -> bool | None:
    """Whether an object that was sealed is as it was; None for one that has no checksum."""
    if CHECKSUM not in value:
        return None
    return bool(value[CHECKSUM] == _digest({key: v for key, v in value.items() if key != CHECKSUM}))


def _digest(value: dict[str, Any]) -> str:
    return text_sha256(json.dumps(value, sort_keys=True))
