"""What saving and loading ask of the model that an adapter is attached to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView


class Holder(Protocol):
    """A base with adapters, such as `AdaptedModel`, which calls this package and so is not named in it."""

    @property
    def base(self) -> Any:
        """The model of Transformers."""

    @property
    def view(self) -> BaseView:
        """The base's sites."""

    @property
    def configs(self) -> Mapping[str, MethodConfig]:
        """The settings of each attached adapter."""

    @property
    def active(self) -> tuple[str, ...]:
        """The adapters that act at present."""

    def adapter(self, name: str) -> Adapter:
        """The adapter called `name`."""

    def attach(
        self, name: str, config: MethodConfig, *, seed: int = 0, heads: Sequence[str] | None = None
    ) -> Adapter:
        """Build an adapter, hang it on the base and make it the active one."""

    def detach(self, name: str) -> Adapter:
        """Take an adapter off."""

    def use(self, *names: str | Mapping[str, float]) -> None:
        """Let the named adapters act; without names the plain base answers."""

    def using(self, *names: str | Mapping[str, float]) -> AbstractContextManager[None]:
        """As `use`, within a block."""
