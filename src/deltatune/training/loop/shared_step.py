"""A step that several processes make: each its share of the micro-batches, and one message for the sums.

No wrapper stands around the model for it, such as torch's DistributedDataParallel: the deltas are few
numbers, and what hangs on a wrapped base beside its own parameters would be left out of its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deltatune.core.ranks import ranks
from deltatune.errors import Stopped
from deltatune.training.loop.steps import Interruption, MicroBatch

Made = tuple[list[Tensor], list[MicroBatch], float]
"""Parts of a step's loss, all of its micro-batches, and what the loss is the mean over."""


class SharedSteps:
    """The steps of a run as all of its processes make them; one process by itself does without.

    Args:
        parameters: What is trained.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters, self._ranks = parameters, ranks()
        self._interrupted = Interruption()
        self._agreed = False

    def watch(self, interrupted: Interruption) -> None:
        """Know whether this process is asked to stop."""
        self._interrupted = interrupted

    @property
    def stopping(self) -> bool:
        """Whether to stop behind the latest step; all processes say the same."""
        return self._interrupted.is_set() if self._ranks.count == 1 else self._agreed

    def raise_if_asked(self) -> None:
        """Raise what says so if any of the processes was asked to stop.

        Raises:
            KeyboardInterrupt: One was.
        """
        for signum in self._ranks.gather(self._interrupted.signum):
            if signum is not None:
                raise Stopped(signum)

    def step(self, work: Callable[[], Made]) -> Made:
        """Let `work` do this process's share of a step; afterwards all have the gradients of the whole."""
        losses, micro, weight = work()
        if self._ranks.count == 1:
            return losses, micro, weight
        device = self._parameters[0].device
        missing = [parameter.grad is None for parameter in self._parameters]
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        stop = torch.tensor([float(self._interrupted.is_set())], device=device)
        loss = torch.stack(losses).sum().reshape(1) if losses else torch.zeros(1, device=device)
        none = torch.tensor(missing, dtype=torch.float32, device=device)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        sums = self._ranks.sum_up(gradients, [loss, stop, none])
        asked, *without = sums[1:].tolist()
        self._agreed = asked > 0
        for parameter, count in zip(self._parameters, without, strict=True):
            if count == self._ranks.count:  # no rank has one: the optimizer passes it over
                parameter.grad = None
        return [sums[0]], micro, weight
