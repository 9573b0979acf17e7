"""What is promised of a method with certain settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deltatune.core.method import MethodConfig
from deltatune.methods import METHODS
from deltatune.testing import tiny


@dataclass(frozen=True)
class Case:
    """A method, its settings, and what is promised of it.

    Args:
        label: Name in the ids of checks.
        method: Its config, or its name in the registry.
        config: Settings.
        count: Trained parameters by architecture, without a classifier's new head; None: not checked.
        counts_head: `count` has such a head in it.
        identity: The model is the base at step 0.
        foldable: It can be written into the weights.
        routable: It can act on some rows of a batch.
        other: Settings of a second adapter that differs in shape and shares a batch with the first.
        gaps: (check or "*", architecture, a set of them or "*") -> why it does not hold there. Where no
            check holds ("*"), the method must refuse the architecture by a TargetError.
    """

    label: str
    method: str | type[MethodConfig]
    config: Mapping[str, Any] = field(default_factory=dict)
    count: Callable[[str], int] | None = None
    counts_head: bool = False
    identity: bool = True
    foldable: bool = True
    routable: bool = True
    other: Mapping[str, Any] | None = None
    gaps: Mapping[tuple[str, str | frozenset[str]], str] = field(default_factory=dict)

    def settings(self, config: Mapping[str, Any] | None = None) -> MethodConfig:
        """The validated configuration."""
        kind = METHODS.get(self.method) if isinstance(self.method, str) else self.method
        return kind(**(self.config if config is None else config))

    def expected_count(self, architecture: str) -> int | None:
        """Trained parameters by the formula, if there is one."""
        if self.count is None:
            return None
        new_head = self.settings().trains and not self.counts_head
        return self.count(architecture) + (tiny.HEAD_PARAMETERS.get(architecture, 0) if new_head else 0)

    def gap(self, check: str, architecture: str) -> str | None:
        """Why `check` does not hold on `architecture`, if it does not."""
        for (gap, where), reason in self.gaps.items():
            here = architecture in where if isinstance(where, frozenset) else where in (architecture, "*")
            if here and gap in (check, "*"):
                return reason
        return None

    def refused(self, architecture: str) -> bool:
        """Whether no check holds on `architecture`."""
        return self.gap("", architecture) is not None
