"""The peak learning rate that `train.lr: auto` stands for: a method's own, raised in short runs.

    rate = default_lr * min(short_runs, LONG / steps)        not below default_lr

A run of LONG steps or more learns at the method's `default_lr`. A shorter one would come less far, so it
learns at a higher rate, by which it comes as far; but at no more than `short_runs` times its own, which it
would not bear. `short_runs` is each method's, 1 unless it was measured. What the constants rest on, and
what they lose on bases that had no part in them: docs/adr/0015-rates-for-short-runs.md, benchmarks/rates.py
and rates_law.py.

Where nothing was measured, or nothing was gained, a method keeps its `default_lr`: bases that read images,
or are wider than MEASURED, and training that goes on from a saved delta. Rank has no part in it. With a
fixed alpha, as by default, LoRA's best rate does not depend on the rank (Chen, Villar and Hayou 2026, arXiv
2602.06204; the same on every grid that was recorded here).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig

AUTO: Final = "auto"
"""What `train.lr` is unless a recipe says otherwise."""
LONG = 256
"""Steps from which on a run learns at its method's own rate."""
MEASURED = 1024
"""Bases that are wider keep that rate in short runs, too."""


class Course(NamedTuple):
    """What a rate depends on besides the method."""

    steps: int
    """Optimizer steps of the run."""
    reads: str
    """What the base reads: `text` or `images`."""
    width: int | None
    """Of the base's embedded input; None if it has no single one."""
    fresh: bool = True
    """Whether it starts from a new delta, not from a trained one."""


def auto_rate(method: type[MethodConfig] | MethodConfig, course: Course) -> float:
    """The rate of a method, to two digits, so that a table can say all of it."""
    return float(f"{method.default_lr * _raised(method, course):.2g}")


def why(method: type[MethodConfig] | MethodConfig, course: Course) -> str:
    """Where the rate comes from, in a few words."""
    own = f"{method.name}'s {method.default_lr:g}"
    if _raised(method, course) == 1.0:
        return own
    return f"{own}, raised for a run of {course.steps:,} steps"


def _raised(method: type[MethodConfig] | MethodConfig, course: Course) -> float:
    narrow = course.width is not None and course.width <= MEASURED
    if course.reads != "text" or not narrow or not course.fresh:
        return 1.0
    return max(1.0, min(method.short_runs, LONG / course.steps))
