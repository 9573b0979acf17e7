"""The table of the contract suite: one line for each method and variant. A new method adds one here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests import tiny
from tests.tiny import ARCHITECTURES, CLASSES, CLASSIFIERS, HEADS, KV_HEADS, D

from deltatune.core.method import MethodConfig
from deltatune.methods import METHODS

NO_PATCH_MASK = "patches have no attention mask to hide a missing prompt behind; refused by a TargetError"
ALL = frozenset(ARCHITECTURES)
TEXT = ALL - {"vit"}
WIDTH = D // HEADS
QUERY_VALUE: dict[str, tuple[tuple[int, int], ...]] = {
    "t5": ((D, D),) * 12,
    "bart": ((D, D),) * 12,
    "llama": ((D, D), (D, KV_HEADS * WIDTH)) * 2,
    "gpt2": ((D, 3 * D),) * 2,
    "bert": ((D, D),) * 4,
    "vit": ((D, D),) * 4,
}
"""(d_in, d_out) of the modules that are called query or value; GPT-2 has them in one."""
ATTENTION: dict[str, tuple[int, int]] = {
    "t5": (6, D),
    "bart": (6, D),
    "llama": (2, KV_HEADS * WIDTH),
    "gpt2": (2, D),
    "bert": (2, D),
    "vit": (2, D),
}
"""(attention modules, width of their keys)."""


@dataclass(frozen=True)
class Case:
    """What is promised of a method.

    Args:
        label: Name in the test ids.
        method: Name in the registry.
        config: Settings.
        count: Trained parameters without a classifier's head, by architecture.
        identity: The model is the base at step 0.
        foldable: It can be written into the weights.
        routable: It can act on some rows of a batch.
        other: Settings of a second adapter that differs in shape and shares a batch with the first.
        peft: Architectures on which the saved files load in peft.
        gaps: (check, architecture or "*") -> why it does not hold there.
    """

    label: str
    method: str
    config: Mapping[str, Any]
    count: Callable[[str], int]
    identity: bool = True
    foldable: bool = True
    routable: bool = True
    other: Mapping[str, Any] | None = None
    peft: frozenset[str] = ALL
    gaps: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def settings(self, config: Mapping[str, Any] | None = None) -> MethodConfig:
        """The validated configuration."""
        return METHODS.get(self.method)(**(self.config if config is None else config))

    def expected_count(self, architecture: str) -> int:
        """Trained parameters by the formula."""
        own_head = architecture in CLASSIFIERS and self.method not in ("untuned", "full")
        return self.count(architecture) + (D * CLASSES + CLASSES if own_head else 0)

    def gap(self, check: str, architecture: str) -> str | None:
        """Why `check` does not hold on `architecture`, if it does not."""
        return self.gaps.get((check, architecture)) or self.gaps.get((check, "*"))


def low_rank(r: int, extra: int = 0) -> Callable[[str], int]:
    """r (d_in + d_out) for each matrix, and `extra` values more."""
    return lambda architecture: sum(r * (i + o) + extra for i, o in QUERY_VALUE[architecture])


def prefix(n: int) -> Callable[[str], int]:
    """2 n d for each attention."""
    return lambda architecture: ATTENTION[architecture][0] * ATTENTION[architecture][1] * 2 * n


def projected_prefix(n: int, hidden: int) -> Callable[[str], int]:
    """The shared embedding and layer, and one output layer for each attention."""
    shared = n * D + D * hidden + hidden
    return lambda a: shared + ATTENTION[a][0] * (hidden + 1) * 2 * ATTENTION[a][1]


def everything(architecture: str) -> int:
    """All parameters."""
    return sum(p.numel() for p in tiny.model(architecture).parameters())


CASES = (
    Case("untuned", "untuned", {}, lambda a: 0, peft=frozenset()),
    Case("lora", "lora", {"r": 2, "alpha": 4}, low_rank(2), other={"r": 3, "alpha": 4, "targets": ["key"]}),
    Case("lora-dropout", "lora", {"r": 2, "dropout": 0.1}, low_rank(2), other={"r": 3, "dropout": 0.3}),
    Case("lora-rslora", "lora", {"r": 4, "alpha": 2, "rslora": True}, low_rank(4)),
    Case(
        "adalora", "adalora", {"init_r": 3, "target_r": 2}, low_rank(3, 3), other={"init_r": 2, "target_r": 1}
    ),
    Case(
        "prefix",
        "prefix",
        {"n_tokens": 3, "init_std": 0.5},
        prefix(3),
        identity=False,
        foldable=False,
        other={"n_tokens": 5, "init_std": 0.5},
        peft=frozenset(("llama", "gpt2")),
    ),
    Case(
        "prefix-projection",
        "prefix",
        {"n_tokens": 3, "projection": True, "projection_size": 6},
        projected_prefix(3, 6),
        identity=False,
        foldable=False,
        peft=frozenset(("llama", "gpt2")),
    ),
    Case(
        "prompt",
        "prompt",
        {"n_tokens": 3},
        lambda a: 3 * D,
        identity=False,
        foldable=False,
        other={"n_tokens": 5},
        peft=TEXT,
        gaps=dict.fromkeys(
            [("unrouted_rows_are_plain", "vit"), ("joint_of_two_shapes", "vit")], NO_PATCH_MASK
        ),
    ),
    Case("full", "full", {}, everything, routable=False, peft=frozenset()),
)
