"""Steps, what came of them, and which need no second try."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tools.release_trial import Failed, Unavailable, Work

STATE = "state.json"
"""File of the work folder: the steps that passed, and for which commit and version."""


@dataclass
class Outcome:
    """A line of the table."""

    step: str
    status: str
    """passed, FAILED, or not here."""
    seconds: float
    detail: str


class Checklist:
    """Runs steps, notes what came of them, and leaves out those that passed for this commit and version."""

    def __init__(self, work: Work, commit: str, version: str) -> None:
        self.work, self.path = work, work.folder / STATE
        self.outcomes: list[Outcome] = []
        self.subject = {"commit": commit, "version": version}
        known = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        same = all(known.get(key) == value for key, value in self.subject.items())
        self.passed = known.get("passed", {}) if same else {}

    def step(self, name: str, function: Callable[[], str], *, again: bool = False) -> bool:
        """Run a step, which says in a few words what it found; True if it passed.

        Args:
            name: The first column of the table.
            function: The step.
            again: Run it although it has passed: it looks at more than the commit, or what it made is gone.
        """
        started = time.monotonic()
        if name in self.passed and not again:
            self.outcomes.append(Outcome(**self.passed[name]))
            return True
        self.work.say(f"== {name}")
        try:
            status, detail = "passed", function()
        except Unavailable as error:
            status, detail = "not here", str(error)
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            status, detail = "FAILED", str(error)
        outcome = Outcome(name, status, round(time.monotonic() - started, 1), detail)
        self.outcomes.append(outcome)
        self.work.say(f"-- {name}: {status} in {outcome.seconds:.0f} s: {detail}")
        if status == "passed":
            self.passed[name] = asdict(outcome)
            text = json.dumps({**self.subject, "passed": self.passed}, indent=1)
            new = self.path.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.replace(self.path)
        return status == "passed"

    @property
    def failed(self) -> list[str]:
        """Names of the steps that failed."""
        return [outcome.step for outcome in self.outcomes if outcome.status == "FAILED"]

    def table(self) -> str:
        """All steps so far."""
        width = max(len(outcome.step) for outcome in self.outcomes)
        lines = [
            f"{each.step:<{width}}  {each.status:<8}  {each.seconds:6.0f} s  {each.detail}"
            for each in self.outcomes
        ]
        return "\n".join(lines)
