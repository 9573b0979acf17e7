"""What a run came to: result.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deltatune.errors import DeltatuneError
from deltatune.phrasing import short
from deltatune.results.certificate import CertificateLine
from deltatune.results.harness import TaskScore
from deltatune.results.lost import Lost
from deltatune.results.parts import (
    BaseUsed,
    Budget,
    Cost,
    DataUsed,
    Failure,
    GitState,
    Metrics,
    Origin,
    Padding,
    PausedCost,
    PausedMetrics,
    PausedSelection,
    Rates,
    Selected,
    StepMemory,
)
from deltatune.results.record import SCHEMA, Number, Record
from deltatune.results.timeline import Phase


class _Run(Record):
    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    status: str
    """`done`, `paused` or `failed`."""
    error: Failure | None = None
    """What ended it, if it failed."""
    name: str = ""
    """The entry's label in the recipe."""
    method: str = ""
    """The entry's method."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The method's settings, with every default."""


class RunResult(_Run):
    """A finished run: its metrics, what it cost, and what it was made of."""

    status: Literal["done"]
    """It was trained to its end and evaluated."""
    name: str
    """The entry's label in the recipe."""
    budget: Budget | None = None
    """What the recipe's budget came to."""
    origin: Origin | None = Field(default=None, alias="from")
    """The saved delta that it started from."""
    seed: int
    """Of initial values, the order of rows and dropout."""
    task: str | None = None
    """The recipe's task."""
    model: BaseUsed
    """The base."""
    data: DataUsed
    """The rows."""
    metrics: Metrics
    """By part of the data."""
    tasks: list[TaskScore] = Field(default_factory=list)
    """Scores on tasks of lm-evaluation-harness, beside the base's; what each row adds is in tasks.jsonl."""
    lost: Lost | None = None
    """What is lost by the delta, where that was asked for; what each document adds is in general.jsonl."""
    signatures: dict[str, str] = Field(default_factory=dict)
    """What metrics were computed by, such as sacreBLEU's signature, by name."""
    cost: Cost
    """Parameters, memory, time, size."""
    padding: Padding | None = None
    """What padding came to; null of tasks that do not pack rows, and of runs of version 0.1."""
    memory: StepMemory | None = None
    """Of a training step."""
    selected: Selected
    """Which step's state was kept."""
    threshold: float | None = None
    """Where a row may have several labels, the probability from which on one is given, as the validation rows
    chose it (0.5 without any); null elsewhere."""
    rates: Rates | None = None
    """Peak learning rates; null if nothing is trained."""
    new_heads: list[str] = Field(default_factory=list)
    """Heads that the base did not bring, by module path."""
    one_answer: str | None = None
    """What is said of a model that has one answer for almost all rows."""
    method_result: dict[str, Number] = Field(default_factory=dict)
    """What the method's schedule ended at, such as AdaLoRA's ranks."""
    description: str | None = None
    """What the delta became, in words, of methods that can say it."""
    certificate: list[CertificateLine] = Field(default_factory=list)
    """What was proved of it."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of everything that the numbers depend on."""
    git: GitState | None = None
    """The repository in which the command was given; null outside of one."""
    started: str | None = None
    """ISO time, UTC."""
    finished: str | None = None
    """ISO time, UTC."""
    timeline: list[Phase] | None = None
    """What the process that ended the run spent on it, by phase, `other` last; null of runs of before."""


class PausedRun(_Run):
    """A run that is not at its end: how far it came. The test rows have not been looked at."""

    status: Literal["paused"]
    """It can go on."""
    seed: int | None = None
    """Of initial values, the order of rows and dropout."""
    metrics: PausedMetrics = Field(default_factory=PausedMetrics)
    """On validation rows."""
    cost: PausedCost
    """So far."""
    selected: PausedSelection
    """Which step was best so far."""
    started: str | None = None
    """ISO time, UTC."""
    finished: str | None = None
    """ISO time, UTC: when it paused."""


class FailedRun(_Run):
    """A run that failed, and why."""

    status: Literal["failed"]
    """It came to no result."""
    seed: int | None = None
    """Of the run."""
    certificate: list[CertificateLine] = Field(default_factory=list)
    """Of old files; later ones have it in certificate.json alone."""

    @property
    def message(self) -> str:
        """What went wrong."""
        return self.error.message if self.error else ""


AnyResult = Annotated[RunResult | PausedRun | FailedRun, Field(discriminator="status")]
"""What result.json may hold."""
_KINDS: dict[str, type[RunResult | PausedRun | FailedRun]] = {
    "done": RunResult,
    "paused": PausedRun,
    "failed": FailedRun,
}


def run_result(
    content: dict[str, Any], where: str, *, remedy: str, error: type[DeltatuneError] = DeltatuneError
) -> AnyResult:
    """Check what a result.json holds; arguments as of `Record.of`.

    Raises:
        DeltatuneError: It is no result of a run, or a field is missing or has another kind of value.
    """
    status = content.get("status")
    if not isinstance(status, str) or status not in _KINDS:
        raise error(
            f"{where} is no result of a run: its status is {short(status)}, not {', '.join(_KINDS)}.",
            remedy=remedy,
        )
    return _KINDS[status].of(content, where, remedy=remedy, error=error)
