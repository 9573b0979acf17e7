"""What a training loop and its driver say to each other.

The loop of a run is a generator: it asks for gradients and is sent them, so that a driver may compute those
of one run, or of several in one pass (race/). Everything else of a step is the run's own code.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.errors import Stopped
from deltatune.training.given.energy import Spent

MicroBatch = tuple[list[int], dict[str, Tensor]]
"""Its rows, and what the encoder makes of them."""


@dataclass
class Progress:
    """Where a run stands; all of it goes into the resume state."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens that went through the model, padding not counted."""
    seconds: float = 0.0
    """Time spent in training steps; of a step that was made with others, the run's share."""
    joules: float | None = 0.0
    """Energy of the same time; None where it is not counted, or was not in a part of the run."""
    best: float | None = None
    """Best validation result so far."""
    best_step: int = 0
    best_validation: dict[str, float] = field(default_factory=dict)
    worse: int = 0
    """Evaluations since then."""
    stopped: bool = False
    """Whether early stopping ended the run."""
    log_lines: int = 0
    """Lines of metrics.jsonl that belong to this state."""
    evaluated: int = 0
    """Step of the latest validation."""
    memory: dict[str, Any] = field(default_factory=dict)
    """Bytes by part at the peak of the step that was measured."""
    micro_batch: int = 0
    """Rows that go through the model at once."""
    keeps_trunk: bool = True
    """Whether outputs of frozen layers may be kept: a run that began without them goes on so."""
    packs: bool = False
    """Whether the rows of a micro-batch are packed into one: states of version 0.1 are of padded rows."""
    raced: int = 1
    """Most runs that ever made a step together, this one included."""

    def spend(self, *spent: Spent) -> None:
        """Add what a step took."""
        for each in spent:
            self.seconds, self.joules = Spent(self.seconds, self.joules).plus(each)


@dataclass(frozen=True)
class Request:
    """What a run needs to go on: the gradients of its mean loss over some of its training rows."""

    rows: list[int]
    alone: bool = False
    """Whether its rows have to go through the model without those of others."""


@dataclass(frozen=True)
class Gradients:
    """The answer. The gradients themselves are in the parameters."""

    losses: list[Tensor]
    """The mean loss, without the method's penalty, in parts: their sum. On the model's device, so that nobody
    need wait for them before the step needs them."""
    batches: list[MicroBatch]
    """The micro-batches that it is of."""
    weight: float
    """What it is the mean over: labels, each with its class's weight."""
    spent: Spent
    """What it took; of a pass for several runs, the share of this one's tokens."""
    raced: int = 1
    """Runs that the pass was for."""
    processor_seconds: float = 0.0
    """Of a pass for several runs: the same share of what all processors worked on it."""


Steps = Generator[Request, Gradients, Progress]
"""The loop of a run."""


ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to stop: Ctrl-C, schedulers and `kill`, a terminal that is closed."""


class Interruption:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def is_set(self) -> bool:
        """Whether one has."""
        return self.signum is not None

    def error(self) -> Stopped:
        """What to raise once the state is saved."""
        return Stopped(self.signum or signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within the block, the first signal is noted, so that the step can end; the second breaks off.

    Signals that the process ignores, as below `nohup`, stay ignored.
    """
    asked = Interruption()
    before: dict[int, Any] = {}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def ask(signum: int, frame: Any) -> None:
        asked.signum = signum
        restore()

    if threading.current_thread() is threading.main_thread():
        handlers = {signum: signal.getsignal(signum) for signum in ASKING}
        before = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for signum in before:
        signal.signal(signum, ask)
    try:
        yield asked
    finally:
        restore()


@contextlib.contextmanager
def recomputing(model: AdaptedModel, enabled: bool) -> Iterator[None]:
    """Within the block, layers are computed again in the backward pass if `enabled`."""
    model.gradient_checkpointing(enabled)
    try:
        yield
    finally:
        model.gradient_checkpointing(False)
