"""A check with a name, and how things of a user are known by their names while they are checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from deltatune.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One check of a kit, as a test of its own: `@pytest.mark.parametrize("check", checks, ids=str)`."""

    name: str
    """What is checked, and on what."""
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run it.

        Raises:
            AssertionError: A promise is broken; the message says which one.
        """
        self.run()

    def __str__(self) -> str:
        """Its name, for the ids of tests."""
        return self.name


@contextlib.contextmanager
def known(registry: Registry[T], name: str, thing: T) -> Iterator[None]:
    """Have `thing` registered under its name, as saving, loading and recipes need.

    Raises:
        AssertionError: The name is another thing's.
    """
    if name in registry:
        if registry.get(name) is not thing:
            raise AssertionError(
                f"the name {name!r} belongs to another {registry.kind}: {registry.get(name)}"
            )
        yield
        return
    registry.add(name, thing)
    try:
        yield
    finally:
        registry.remove(name)
