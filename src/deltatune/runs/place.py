"""The folder that something made of a run is written to: locked, and replaced only if it is ours."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltatune.checkpoint.folders import settle
from deltatune.checkpoint.lock import NAME as LOCK
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.checkpoint.manifest import checksums, read_manifest, vouch
from deltatune.errors import DeltatuneError
from deltatune.files import make_folder, text_sha256
from deltatune.recipe.base_sections import ModelSpec


@dataclass(frozen=True)
class Product:
    """What a command makes of runs, as the manifest of its folder names it."""

    kind: str
    """In the manifest: `merged model`."""
    command: str
    """That writes it: `merge`."""
    other: str
    """What to say of a folder that holds something else: `is not a model that was merged before`."""
    field: str = "--out"
    """How the command is told the folder."""

    def require_replaceable(self, out: Path) -> None:
        """Refuse to replace a folder with anything but this product: the whole folder is replaced.

        Raises:
            DeltatuneError: It is a file, or a folder with something that the command did not write.
        """
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
        known = read_manifest(out) if out.is_dir() else None
        if known is None or known.kind != self.kind:
            raise DeltatuneError(
                f"'{out}' {self.other}.",
                field=self.field,
                remedy="Choose another folder, or remove this one yourself.",
            )
        there = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
        others = {path.relative_to(out).as_posix() for path in there} - {MANIFEST, *known.files}
        if others:
            raise DeltatuneError(
                f"'{out}' holds {', '.join(sorted(others))}, which `{self.command}` did not write.",
                field=self.field,
                remedy="Choose another folder, or move that elsewhere.",
            )

    def vouch(self, folder: Path) -> None:
        """List the files of the folder, with their checksums."""
        vouch(folder, self.kind, checksums(folder, [path.name for path in folder.iterdir()]))


@contextlib.contextmanager
def locked_place(out: Path) -> Iterator[Path]:
    """Within the block this process alone writes the folder `out`; gives it, of a link the one it leads to.

    What a killed process left of replacing it is put in order first.

    Raises:
        InUseError: Another process is at it.
        StorageError: Nothing can be written beside it.
    """
    place = out.resolve()
    make_folder(place.parent)
    with Lock(place.parent, warnings.warn, name=f"{LOCK}.{text_sha256(place.name)[:8]}"):
        settle(place.parent, place.name)
        yield place


def require_apart(out: Path, spec: ModelSpec) -> None:
    """Refuse to put anything in the place of a run's base.

    Raises:
        DeltatuneError: `out` is the folder that the base was loaded from.
    """
    base = Path(spec.name).expanduser()
    if base.exists() and out in (base.resolve(), base.resolve().parent):  # the latter of a .gguf file
        raise DeltatuneError(
            f"'{out}' is the base of the run, or holds it.", field="--out", remedy="Choose another folder."
        )
