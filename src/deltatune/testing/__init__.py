"""The contract suite as a kit, for whoever has a method or a task of their own.

    from deltatune.testing import check_method, check_task

    check_method(MyConfig)
    check_task(MY_TASK, [{"input": "a text", "target": "its class"}, ...])

They raise an AssertionError that says which promise is broken. `method_checks` and `task_checks` give the
same checks one by one, so that each is a test:

    @pytest.mark.parametrize("check", method_checks(MyConfig), ids=str)
    def test_method(check):
        check()

Models are made on the spot, of configurations of Transformers, and are tiny; nothing is downloaded. pytest is
not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltatune.testing.case import Case
    from deltatune.testing.checks import Check
    from deltatune.testing.methods import check_method, method_checks
    from deltatune.testing.tasks import check_task, task_checks

__all__ = ["Case", "Check", "check_method", "check_task", "method_checks", "task_checks"]

_HOME = {
    "Case": "case",
    "Check": "checks",
    "check_method": "methods",
    "check_task": "tasks",
    "method_checks": "methods",
    "task_checks": "tasks",
}


def __getattr__(name: str) -> object:
    """Import what is asked for: whoever wants a tiny model needs nothing of the whole."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
