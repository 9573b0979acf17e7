"""The memory of a training step: what was measured in the runs, and beside it what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from deltatune.report.figures import Figure
from deltatune.report.load import Method
from deltatune.report.stacked import Bar, inline
from deltatune.results import StepMemory

MOST = 20
"""More methods than these are not drawn."""


def memory(methods: Sequence[Method]) -> list[Figure]:
    """A bar for each method's measured step, and one for its prediction; nothing if no run measured."""
    bars: list[Bar] = []
    errors: list[float] = []
    for method in methods:
        kept = (run.finished.memory for run in method.runs if run.finished and run.finished.memory)
        found = next(kept, StepMemory())
        measured, predicted = found.measured, found.predicted
        if not measured or len(bars) >= 2 * MOST:
            continue
        bars.append(Bar(method.shown, measured.parts))
        if predicted:
            bars.append(Bar("predicted", predicted.parts))
            errors.append(abs(predicted.total / measured.total - 1))
    if not bars:
        return []
    note = (
        "Bytes of tensors at the peak of the step with the first epoch's largest micro-batch; libraries and "
        "data are not in it."
    )
    if errors:
        note += f" Predictions are off by {max(errors):.2%} at most."
    title = "Memory of a training step"
    scroll = Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>')
    return [Figure(title, note, scroll.format(title, inline([("", bars)], title)))]
