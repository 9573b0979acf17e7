"""Files of a user as bytes and as text: packed or not, in the encoding they are in, never without an end."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from deltatune.errors import DataError

MOST_UNPACKED = 1 << 30
"""Bytes that a packed file may always hold."""
MOST_RATIO = 100
"""Beyond them, a file may hold so many times its own size: text packs three- to twentyfold."""
_CHUNK = 1 << 20

_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document",
    b"SQLite format 3\0": "a database",
}
"""First bytes of what is no text, and what it is."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's mark, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, and the encoding that each tells."""


class _Stream(Protocol):
    """What unpacks as it is read."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def read_text(
    path: Path, encoding: str | None = None, otherwise: Sequence[str] = (), errors: str = "strict"
) -> str:
    """Read a text file; gzip, bzip2, xz and Zstandard are unpacked.

    Args:
        path: The file.
        encoding: Its encoding; None: what its byte order mark tells, else UTF-8.
        otherwise: Encodings to try where it is not text in UTF-8.
        errors: What becomes of bytes that are text in none of these; `surrogateescape` keeps them, as halves
            of characters, for those who say what is wrong line by line.

    Raises:
        DataError: The file is missing, is not text in these encodings, or is empty.
    """
    content = read_bytes(path)
    for start, what in _OTHERS.items():
        if content.startswith(start):
            raise DataError(
                f"is no text but {what}.",
                field=str(path),
                remedy="Save it as text, such as CSV in UTF-8, or set data.format.",
            )
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    encodings = [encoding or marked or "utf-8", *(() if encoding or marked else otherwise)]
    text = _decode(content, encodings, path, errors)
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DataError("is empty.", field=str(path), remedy="Give a file with rows.")
    if text[:1000].count("\0") > len(text[:1000]) // 4:
        raise DataError(
            "holds a zero byte beside each letter, as UTF-16 does, and no mark that says so.",
            field=str(path),
            remedy="Set data.encoding to utf-16-le or utf-16-be, or save the file as UTF-8.",
        )
    return text


def _decode(content: bytes, encodings: Sequence[str], path: Path, errors: str) -> str:
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeError as error:
            place = error.start if isinstance(error, UnicodeDecodeError) else 0
            reason = error
    if errors != "strict":
        with contextlib.suppress(UnicodeError):  # UTF-16 and its like cannot keep broken bytes
            return content.decode(encodings[0], errors)
    line = content[:place].count(b"\n") + 1
    byte = content[place : place + 1]
    western = byte.decode("cp1252", "replace")
    raise DataError(
        f"is not text in {encodings[0].upper()}: line {line} holds bytes of another encoding "
        f"(0x{byte.hex()}, in cp1252 {western!r}).",
        field=str(path),
        remedy="Set data.encoding, such as to cp1252 (Western Windows), or save the file as UTF-8.",
    ) from reason


def read_bytes(path: Path) -> bytes:
    """Read all of a file; gzip, bzip2, xz and Zstandard are told by their first bytes and unpacked.

    Raises:
        DataError: It is missing, is no plain file, is damaged, or unpacks to more than it may.
    """
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise missing_file(path, error) from error
    except MemoryError as error:
        raise DataError(
            "does not fit into memory.", field=str(path), remedy="Split it, or take fewer rows."
        ) from error
    opener = next((known for start, known in _PACKED.items() if content.startswith(start)), None)
    return content if opener is None else _unpack(content, opener, path)


def check_file(path: Path) -> None:
    """Make sure that there is a plain file: a pipe may never end, and a device neither.

    Raises:
        DataError: It is missing, a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise missing_file(path, error) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DataError(
            f"is {what}, not a file.",
            field=str(path),
            remedy="Name a file; write to one what a pipe would give.",
        )


def most_unpacked(packed: int) -> int:
    """How many bytes a file of `packed` bytes may hold; a few kilobytes can be made to hold terabytes."""
    return max(MOST_UNPACKED, MOST_RATIO * packed)


def too_large(path: Path, packed: int) -> DataError:
    """Say that a packed file holds more than it may."""
    return DataError(
        f"has {packed:,} bytes and unpacks to more than {most_unpacked(packed):,}.",
        field=str(path),
        remedy="If that is meant, unpack it yourself and name what comes out.",
    )


def _unpack(content: bytes, opener: Callable[[IO[bytes]], _Stream], path: Path) -> bytes:
    most = most_unpacked(len(content))
    unpacked = bytearray()
    try:
        with contextlib.closing(opener(io.BytesIO(content))) as stream:
            while chunk := stream.read(_CHUNK):
                unpacked += chunk
                if len(unpacked) > most:
                    raise too_large(path, len(content))
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise DataError(
            f"cannot be unpacked ({error or type(error).__name__}).",
            field=str(path),
            remedy="Pack or download it again.",
        ) from error
    return bytes(unpacked)


def _open_zstd(stream: IO[bytes]) -> _Stream:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            "needs pyarrow to unpack Zstandard, which cannot be imported.",
            field="a source that ends in .zst",
            remedy="Install it with: pip install 'deltatune[parquet]'; or unpack the file.",
        ) from error
    opened: _Stream = pyarrow.CompressedInputStream(stream, "zstd")
    return opened


_PACKED: dict[bytes, Callable[[IO[bytes]], _Stream]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}
"""First bytes of packed files, and what opens them."""


def missing_file(path: Path, error: Exception | None = None) -> DataError:
    """Say that a file or folder cannot be read, and what stands beside it."""
    reason = "no such file or directory"
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
    elif isinstance(error, ValueError):
        reason = "its name holds what no name can"
    beside: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        beside = sorted(os.listdir(path.parent))
    hint = (
        f" The folder holds: {', '.join(beside[:8])}{', ...' if len(beside) > 8 else ''}." if beside else ""
    )
    return DataError(
        f"cannot be read ({reason}).",
        field=str(path),
        remedy=f"Relative paths are meant from the recipe's folder.{hint}",
    )
