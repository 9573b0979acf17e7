"""Measuring the memory of one training step: the one with the first epoch's largest micro-batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from deltatune.core.adapter import Adapter
from deltatune.core.devices import forget_peak, peak_memory
from deltatune.core.model import AdaptedModel
from deltatune.memory.account import Accountant
from deltatune.memory.predict import vocabulary
from deltatune.memory.step import accounted


class StepMemory:
    """Accounts for the tensors of one step, and on CUDA asks the allocator as well.

    The first step is left out, since the optimizer's state comes into being in it. Which step is measured
    does not alter it: the mode only looks at what operations return.

    Args:
        rows: The micro-batch to wait for.
        model: The base with its delta.
        adapter: The delta.
        optimizer: Its optimizer.
    """

    def __init__(
        self, rows: list[int], model: AdaptedModel, adapter: Adapter, optimizer: torch.optim.Optimizer
    ) -> None:
        self._rows = set(rows)
        self._parts = (model, adapter, optimizer)
        self._accounts: Accountant | None = None
        self.earlier_peak = 0
        """What CUDA's allocator had given at most before its mark was reset for the measured step."""

    @contextlib.contextmanager
    def of_step(self, rows: list[int], numbers: dict[str, Any], *, first: bool) -> Iterator[bool]:
        """Within the block is one step on `rows`; if it is the one to measure, `numbers` is filled.

        Yields:
            Whether it is: then nothing else may happen in the block.
        """
        if first or numbers or not self._due(rows):
            yield False
            return
        model, adapter, optimizer = self._parts
        self.earlier_peak = peak_memory(model.device) or 0
        forget_peak(model.device)
        accountant = Accountant(vocabulary(model.base), resized=model.is_sharded)
        with accountant as accounts, accounted(accounts, model, adapter, optimizer):
            self._accounts = accounts
            try:
                yield True
            finally:
                self._accounts = None
        numbers |= accounts.memory().as_dict() | {"kind": "tensors"}
        if (peak := peak_memory(model.device)) is not None:
            numbers |= {"allocator": peak}

    def _due(self, rows: list[int]) -> bool:
        return self._rows.issubset(rows)

    def forward_done(self) -> None:
        """Tell the accounts, if there are any, that the forward pass of a micro-batch is over."""
        if self._accounts is not None:
            self._accounts.forward_done()
