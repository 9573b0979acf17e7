"""A plan as a chart: what the bytes of each entry's training step are for."""

from __future__ import annotations

from deltatune.report.display import model_name
from deltatune.report.stacked import Bar, standalone
from deltatune.results import Plan


def memory_chart(plan: Plan) -> str:
    """The entries that can be planned, as an SVG document."""
    bars = [Bar(entry.name, entry.memory.parts) for entry in plan.planned]
    return standalone([("", bars)], f"Memory of a training step: {model_name(plan.model)}")
