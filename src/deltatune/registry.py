"""Names to things, imported only when asked for."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from deltatune.errors import RecipeError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things whose modules are imported on first use.

    Entries are `"package.module:attribute"` strings, so that listing the names costs no import of torch,
    or the things themselves, which is how a user adds a method of their own.

    Args:
        kind: What the things are, for messages.
        entries: Those of this package.
        group: Entry points by which installed packages add others; they are looked for when a name is not
            among the entries, or all are listed. A name that is there already stays what it is.
    """

    def __init__(self, kind: str, entries: dict[str, str] | None = None, *, group: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, str | T] = dict(entries or {})
        self._own = frozenset(self._entries)
        self._group = group

    def add(self, name: str, entry: str | T) -> None:
        """Register `entry` under `name`.

        Raises:
            ValueError: The name is taken; two things under one name would make recipes ambiguous.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forget `name`; for tests and notebooks that register a thing twice."""
        del self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        self._discover()
        return list(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """Each name and its thing. What a package of others brings and cannot be imported is warned of."""
        for name in self.names():
            try:
                yield name, self.get(name)
            except RecipeError as error:
                warnings.warn(str(error), stacklevel=2)

    def loaded(self) -> list[T]:
        """The things that were asked for so far, or were registered as such."""
        return [entry for entry in self._entries.values() if not isinstance(entry, str)]

    def from_outside(self, name: str) -> bool:
        """Whether it was added to those of this package."""
        return name not in self._own and name in self

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.names()

    def get(self, name: str, *, field: str | None = None) -> T:
        """Return the thing called `name`.

        Raises:
            RecipeError: No such name; the message names the nearest one. Or its module cannot be imported.
        """
        if name not in self:
            raise RecipeError(
                f"{name!r} is not a known {self.kind}.", field=field, remedy=nearest(name, self._entries)
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            self._entries[name] = entry = self._imported(name, entry)
        return entry

    def _imported(self, name: str, entry: str) -> T:
        module, _, attribute = entry.partition(":")
        try:
            return cast(T, getattr(importlib.import_module(module), attribute))
        except Exception as error:  # a module may raise anything
            if module.partition(".")[0] == __package__:
                raise
            raise RecipeError(
                f"the {self.kind} {name!r} ({entry}) cannot be imported: {type(error).__name__}: {error}.",
                remedy="Mend the package that brings it, or take it away.",
            ) from error

    def _discover(self) -> None:
        if self._group is None:
            return
        for point in entry_points(group=self._group):
            self._entries.setdefault(point.name, point.value)
        self._group = None
