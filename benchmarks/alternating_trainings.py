"""Trainings that take turns, each in a process of its own, so that what else the machine does hits all alike.

Threads would not do: the more threads of the host compute, the sooner OpenMP's workers go to sleep between
two operations, and waking them for each of the many small ones took half of a step's time again.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from torch import nn

from deltatune.observer import Silent

READY = "ready"


class Turn(NamedTuple):
    """A turn of a side: its seconds and its input tokens, if they were counted."""

    seconds: float
    tokens: int


@dataclass
class Turns:
    """A side's part in taking turns."""

    connection: Connection
    steps: int
    """Optimizer steps of a turn."""
    last: int
    """The step that is everybody's last."""
    done: int = 0
    tokens: int = 0
    """Input tokens of the turn, without padding."""
    started: float = 0.0

    def begin(self) -> None:
        """Wait for the first turn, with all preparations done."""
        self.connection.send(READY)
        self._wait()

    def step(self) -> None:
        """A step is done; after enough of them the next side goes on.

        Behind the last one as well: what a side does after its training, down to giving its memory back,
        would else fall into the last turns of the others.
        """
        self.done += 1
        if self.done == self.last or self.done % self.steps == 0:
            self.connection.send(Turn(time.perf_counter() - self.started, self.tokens))
            self._wait()

    def count(self, base: nn.Module) -> None:
        """Count the tokens of what goes through `base` from now on."""

        def add(_module: nn.Module, _args: Any, batch: dict[str, Any]) -> None:
            if self.started:  # what was predicted or tried before the first turn does not count
                self.tokens += int(batch["attention_mask"].sum())

        base.register_forward_pre_hook(add, with_kwargs=True)

    def _wait(self) -> None:
        self.connection.recv()
        self.tokens, self.started = 0, time.perf_counter()


Side = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of a module, which gets the `Turns` first, and its other arguments."""


def take_turns(sides: Mapping[str, Side], steps: int, last: int) -> dict[str, list[Turn]]:
    """Run all sides to their ends; one after another prepares until it calls `begin`.

    Args:
        sides: In the order of their turns.
        steps: Optimizer steps of a turn.
        last: The step that is everybody's last.

    Returns:
        Each side's turns.

    Raises:
        RuntimeError: A side failed; it has said why.
    """
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, list[Turn]] = {name: [] for name in sides}
    processes, connections = {}, {}
    try:
        for name, (function, arguments) in sides.items():
            connections[name], theirs = spawn.Pipe()
            turns = Turns(theirs, steps, last)
            processes[name] = spawn.Process(target=function, args=(turns, *arguments), daemon=True)
            processes[name].start()
            theirs.close()
            _said(connections[name], name)
        for _ in range(-(-last // steps)):
            for name, connection in connections.items():
                connection.send(None)
                found[name].append(_said(connection, name))
        for name, process in processes.items():
            connections[name].send(None)
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{name} failed after its training.")
    finally:
        for process in processes.values():
            process.kill()
    return found


def _said(connection: Connection, name: str) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"{name} failed.") from None


class TurnTaking(Silent):
    """The observer through which a training of ours takes its turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Wait before the first step."""
        if task == "Training":
            self.turns.begin()

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Count a step."""
        if task == "Training" and amount:
            self.turns.step()
