"""What trains nothing answers with every seed as with the first: it is asked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from deltatune.training.single.parts import Run

T = TypeVar("T")


def asked_once(run: Run, what: str, work: Callable[[], T]) -> T:
    """Give what `work` gives, or what it gave for a run of another seed with the same saved delta.

    Drawn rows and random heads are in the delta, so that runs which have others are asked anew.

    Args:
        run: Its delta is saved.
        what: What is worked out; it is of nothing but the run's delta, base, rows and settings of evaluation.
        work: Works it out.
    """
    if run.config.trains or len(run.context.recipe.seeds) == 1:
        return work()
    settings = [each.model_dump_json() for each in (run.config, run.about_base, run.recipe.evaluation)]
    delta = run.certificate.about["delta"]["sha256"]
    rows = (run.inputs.rows, run.inputs.tokens, run.data.reading)
    key, known = (what, run.entry.method, delta, rows, *settings), run.base.answered
    if key not in known:
        known[key] = work()
    given: T = known[key]
    return given
