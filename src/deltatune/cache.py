"""The folder where converted models and prepared data sets are kept between runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deltatune.files import make_folder


def cache_root() -> Path:
    """`$DELTATUNE_CACHE`, else `$XDG_CACHE_HOME/deltatune`, else `~/.cache/deltatune`; it need not exist."""
    own = os.environ.get("DELTATUNE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "deltatune"


def make_cache_folder(path: Path) -> Path:
    """Create a folder of the cache.

    Raises:
        DeltatuneError: It cannot be created or written to.
    """
    return make_folder(
        path, field="cache folder", remedy="Set DELTATUNE_CACHE to a folder that you may write to."
    )


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; on success it becomes `path` in one rename, on error it vanishes.

    Two processes may do so at once: the first to finish wins, and the other's work is thrown away.
    """
    temporary = Path(tempfile.mkdtemp(dir=make_cache_folder(path.parent), prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors makes files that only their owner can read
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # a folder that is there came from a process that was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
