from __future__ import annotations

import gc
import weakref

import torch

from deltatune.training.given.machine import PeakMemory


class Run:
    """As a run that is over: it holds itself, and much besides."""

    def __init__(self) -> None:
        self.itself, self.states = self, torch.ones(32, 1024, 1024)


def test_a_run_has_no_memory_of_those_before_it():
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    gc.disable()  # among many objects Python collects seldom
    try:
        over = weakref.ref(Run())
        assert over() is not None
        memory.start()
        assert over() is None
    finally:
        gc.enable()
