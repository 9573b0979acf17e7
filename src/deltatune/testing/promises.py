"""What every method promises on every architecture, each as a function of (case, architecture)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deltatune.testing import alone, computing, several, tiny
from deltatune.testing.case import Case
from deltatune.testing.expecting import broken


@dataclass(frozen=True)
class Promise:
    """One promise; its name and its words are those of the function that checks it."""

    check: Callable[[Case, str], None]
    """Raises an AssertionError, if a method does not keep it on an architecture."""
    architectures: tuple[str, ...] = tiny.ARCHITECTURES
    """Those that it is about."""
    applies: Callable[[Case], bool] = lambda case: True
    """Whether it is about a case."""

    @property
    def name(self) -> str:
        """How a case's gaps call it."""
        return self.check.__name__

    def keep(self, case: Case, architecture: str) -> None:
        """Check it.

        Raises:
            AssertionError: It is broken; the message says which one it is, and what was found.
            Exception: What the method itself raised, with a note of the promise.
        """
        with broken(f"{case.label} on {architecture}", self.check):
            self.check(case, architecture)


PROMISES = (
    Promise(alone.identity_at_start),
    Promise(alone.acts),
    Promise(alone.base_unchanged_by_training),
    Promise(alone.gradients_only_in_the_adapter),
    Promise(alone.every_tap_fires),
    Promise(alone.detach_leaves_nothing),
    Promise(several.switching_is_exact),
    Promise(several.stacking),
    Promise(several.folding),
    Promise(several.joint_equals_solo),
    Promise(several.unrouted_rows_are_plain),
    Promise(computing.checkpointing_equals_plain),
    Promise(alone.parameter_count, applies=lambda case: case.count is not None),
    Promise(computing.bf16_base),
    Promise(alone.save_load_save),
    Promise(several.joint_equals_solo_for_two_shapes, applies=lambda case: case.other is not None),
    Promise(several.joint_equals_solo_with_checkpointing, applies=lambda case: case.routable),
    Promise(computing.base_dropout_is_off_unless_wanted),
    Promise(computing.labelled_logits_are_exact, tiny.GENERATING),
    Promise(computing.generation, tiny.GENERATING),
    Promise(computing.generation_with_eager_attention, tiny.CORE_GENERATING),
    Promise(computing.eager_attention_gives_the_same),
)
"""All of them, in the order of the tests."""
