"""Plugin of pytest: what a run of the contract suite found, written to the file that ships with the package.

    pytest -p tests.matrix --matrix tests/contract      (`make matrix`)

A case and architecture that the run did not contain keep their former result, so that one method or one
architecture can be renewed alone (`-k lora`, `-k t5`; never select by check, which would lower the counts).
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
import torch
import transformers

from deltatune.files import atomic_path
from deltatune.methods.matrix import FILE

KEY = "contract"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help=f"Write the outcome to {FILE.name}.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--matrix") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(), "matrix-collector")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell the process that collects the reports what each test was about."""
    for item in items:
        params = getattr(item, "callspec", None)
        of_suite = item.path.parent.name == "contract"
        if not of_suite or params is None or "promise" not in params.params:
            continue
        case, promise = params.params["case"], params.params["promise"]
        about = case.label, case.method, params.params["architecture"], promise.name
        item.user_properties.append((KEY, about))


class Collector:
    """Gathers outcomes by case, in the process that hears of all of them."""

    def __init__(self) -> None:
        self.methods: dict[str, str] = {}
        self.passed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.failed: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.gaps: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get(KEY)
        if found is None or (report.when != "call" and report.passed):
            return
        label, method, architecture, check = found
        self.methods[label] = method
        if report.skipped and hasattr(report, "wasxfail"):
            self.gaps[label][architecture][check] = report.wasxfail.removeprefix("reason: ")
        elif report.passed:
            self.passed[label][architecture] += 1
        else:
            self.failed[label][architecture].append(check)

    def pytest_sessionfinish(self) -> None:
        from deltatune.testing import tiny
        from tests.contract.cases import CASES

        before = json.loads(FILE.read_text(encoding="utf-8"))["cases"] if FILE.exists() else {}
        labels = [case.label for case in CASES if case.label in before or case.label in self.methods]
        table = {
            "schema": 1,
            "made_with": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
            "architectures": {
                "encoder-decoder": tiny.SEQ2SEQ,
                "decoder": tiny.CAUSAL,
                "encoder": tiny.TEXT_CLASSIFIERS,
                "vision": tiny.VISION,
            },
            "cases": {label: self._case(label, before.get(label)) for label in labels},
        }
        with atomic_path(FILE) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")

    def _case(self, label: str, before: dict[str, Any] | None) -> dict[str, Any]:
        """The entry of a case: what was found now, and what was known of other architectures."""
        from deltatune.testing.tiny import ARCHITECTURES

        if label not in self.methods:
            assert before is not None
            return before
        passed, failed, gaps = self.passed[label], self.failed[label], self.gaps[label]
        seen = {*passed, *failed, *gaps}
        old = before or {"passed": {}, "gaps": []}
        for gap in old["gaps"]:
            for name in set(gap["architectures"]) - seen:
                gaps[name] |= dict.fromkeys(gap["checks"], gap["reason"])
        for name in set(old["passed"]) - seen:
            passed[name] = old["passed"][name]
        for name in set(old.get("failed", {})) - seen:
            failed[name] = old["failed"][name]
        found: dict[str, Any] = {
            "method": self.methods[label],
            "passed": {name: passed[name] for name in ARCHITECTURES if {name} & {*passed, *gaps}},
            "gaps": _grouped({name: gaps[name] for name in ARCHITECTURES if name in gaps}),
        }
        if failed:
            found["failed"] = {name: sorted(checks) for name, checks in sorted(failed.items())}
        return found


def _grouped(gaps: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Gaps of the same checks for the same reason as one entry."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for architecture, checks in gaps.items():
        for reason in dict.fromkeys(checks.values()):
            names = tuple(sorted(check for check, why in checks.items() if why == reason))
            groups[reason, names].append(architecture)
    return [
        {"reason": reason, "checks": list(names), "architectures": architectures}
        for (reason, names), architectures in groups.items()
    ]
