"""Trainings that take turns in one process, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deltatune.core.observer import Silent


class Turns:
    """Lets several trainings, each in a thread, take turns of some steps; counts the seconds of each turn.

    Args:
        names: Who takes part, in the order of their turns.
        steps: Optimizer steps of a turn.
        last: The step that is everybody's last.
    """

    def __init__(self, names: Sequence[str], steps: int, last: int) -> None:
        self.names, self.steps, self.last = list(names), steps, last
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._condition = threading.Condition()
        self._waiting: set[str] = set()
        self._whose = ""
        self._started = 0.0
        self._done = dict.fromkeys(names, 0)
        # deltatune chooses the precision of float32 products for its runs; it must not act on others' turns.
        self._precision = dict.fromkeys(names, torch.get_float32_matmul_precision())

    def run(self, sides: Mapping[str, Callable[[], Any]]) -> None:
        """Run all sides to their ends; one after another prepares until it calls `begin`."""
        errors: list[BaseException] = []

        def guarded(side: Callable[[], Any]) -> None:
            try:
                side()
            except BaseException as error:
                errors.append(error)
                with self._condition:
                    self._whose = "broken"
                    self._condition.notify_all()

        threads = []
        for name in self.names:
            thread = threading.Thread(target=guarded, args=(sides[name],), daemon=True)
            thread.start()
            threads.append(thread)
            with self._condition:
                self._condition.wait_for(lambda name=name: name in self._waiting or bool(errors))
            torch.set_float32_matmul_precision("highest")
        self._give_to(self.names[0])
        for thread in threads:
            while thread.is_alive() and not errors:
                thread.join(0.2)
        if errors:
            raise errors[0]

    def begin(self, name: str) -> None:
        """Wait for the first turn, with all preparations done."""
        with self._condition:
            self._precision[name] = torch.get_float32_matmul_precision()
            self._waiting.add(name)
            self._condition.notify_all()
        self._wait(name)

    def step(self, name: str) -> None:
        """A step is done; after enough of them the next side goes on."""
        self._done[name] += 1
        if self._done[name] == self.last or self._done[name] % self.steps == 0:
            self.seconds[name].append(time.perf_counter() - self._started)
            self._precision[name] = torch.get_float32_matmul_precision()
            self._give_to(self.names[(self.names.index(name) + 1) % len(self.names)])
            if self._done[name] < self.last:
                self._wait(name)

    def _wait(self, name: str) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._whose in (name, "broken"))
            if self._whose == "broken":
                raise RuntimeError("another side failed")
            torch.set_float32_matmul_precision(self._precision[name])
            self._started = time.perf_counter()

    def _give_to(self, name: str) -> None:
        with self._condition:
            self._whose = name
            self._condition.notify_all()


class TurnTaking(Silent):
    """The observer through which a training of ours takes its turns."""

    def __init__(self, turns: Turns, name: str = "ours") -> None:
        self.turns, self.name = turns, name

    def start(self, task: str, total: int) -> None:
        """Wait before the first step."""
        if task == "Training":
            self.turns.begin(self.name)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Count a step."""
        if task == "Training" and amount:
            self.turns.step(self.name)
