"""Packages that had the name of a function of today, for one more version.

`deltatune.evaluate` is a function now; `from deltatune.evaluate import loss_on` still finds the package that
had this name, and says where it has gone.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {"compare": "comparison", "evaluate": "evaluation", "train": "training"}
FURTHER = {"training.run": "training.single.run"}
"""Modules that pages showed by the first name, and that have moved within their package since."""


class _Former(ModuleType):
    """A package under its former name, which can be called as the function that has the name now."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_now(self.__name__), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = getattr(importlib.import_module("deltatune.api"), self.__name__.rpartition(".")[2])
        return function(*arguments, **options)


class Finder(MetaPathFinder, Loader):
    """Finds the packages and their modules by the names that they had."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for what has moved."""
        package, *rest = name.split(".")[:2]
        if package != "deltatune" or not rest or rest[0] not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A stand-in for the module that is meant."""
        return _Former(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Say where it has gone, once for each place that imports it."""
        now = _now(module.__name__).__name__
        warnings.warn(f"{module.__name__} is {now} now.", DeprecationWarning, stacklevel=6)


def _now(name: str) -> ModuleType:
    package, old, *rest = name.split(".")
    path = ".".join([MOVED[old], *rest])
    return importlib.import_module(f"{package}.{FURTHER.get(path, path)}")


def install() -> None:
    """Let the former names be found; twice does no more than once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
