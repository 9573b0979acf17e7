"""The loss of a step's rows, where they go through the model in micro-batches.

The loss of most tasks is a sum over rows, so each micro-batch has a loss of its own. Where a row's loss
depends on the other rows of its step (`Task.spans_rows`), the gradient is that of the whole batch all the
same, by the gradient cache of Gao et al. (2021, arXiv 2101.06983): all rows go through the model without a
graph, the loss of them all is taken back to what the model gave, and each micro-batch goes through again,
with the same dropout, to take that gradient on. It costs a forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

from deltatune.core.delta import Clock
from deltatune.core.devices import random_states, set_random_states, to_device
from deltatune.core.loss import gradients_at, logits_for, loss_of, summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.core.ranks import ranks
from deltatune.tasks import TASKS
from deltatune.tasks.task import AUTO
from deltatune.training.loop.steps import MicroBatch

T = TypeVar("T")
Passing = Callable[[list[int]], AbstractContextManager[None]]
"""Within its block, one forward pass on these rows goes the ways that the run's do."""


class Losses:
    """Takes the losses of a run's steps.

    Args:
        model: The model, with the run's adapter in force and in training mode.
        clock: The adapter's, which says what dropout it draws.
        task: The recipe's task.
        weights: What a row of each class counts for, as of `loss_of`; no loss that spans rows has classes.
        autocast: As of `logits_for`.
        chosen: The recipe's `train.loss`, as of `loss_of`; a loss that spans rows has no other.
    """

    def __init__(  # noqa: PLR0917 - what decides a loss
        self,
        model: AdaptedModel,
        clock: Clock,
        task: str,
        weights: Tensor | None,
        autocast: bool,
        chosen: str = AUTO,
    ) -> None:
        self._model, self._clock, self._task, self._autocast = model, clock, task, autocast
        self._weights, self._chosen = weights, chosen
        self._spans_rows = TASKS.get(task).spans_rows

    def parts(
        self, micro: Sequence[MicroBatch], weight: float, passing: Passing
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through a step's micro-batches, each when it is asked for; of several ranks each takes its own.

        Args:
            micro: All of the step.
            weight: What the mean loss is over: all targets of the step, each with its class's weight.
            passing: Of the run.

        Yields:
            For each micro-batch, its share of the mean loss, which nobody has waited for yet, and a number
            whose gradient is that share's. Both are zero of a pass that only keeps others company.
        """
        if not self._spans_rows or len(micro) == 1:
            for place, counts in self._taken(micro):
                loss = self._summed(*micro[place], passing) / weight * counts
                yield loss.detach(), loss
            return
        before, tick = random_states(), self._clock.tick
        total, gradients = gradients_at(self._task, *self._outputs(micro, passing))
        set_random_states(before)
        self._clock.tick = tick
        for place, counts in self._taken(micro):
            rows, batch = micro[place]
            with passing(rows):
                outputs, _ = logits_for(self._model, self._on(batch), self._task, autocast=self._autocast)
            share = total / weight / len(micro) * counts
            yield share, (outputs.to(gradients[place].dtype) * gradients[place]).sum() / weight * counts

    @torch.no_grad()
    def total(self, micro: Sequence[MicroBatch], passing: Passing) -> float:
        """The loss of a step, summed over its targets, whichever ranks they are on."""
        if self._spans_rows:
            outputs, targets = self._outputs(micro, passing)
            return float(loss_of(self._task, torch.cat(outputs), torch.cat(targets)))
        losses = self._each(micro, lambda rows, batch: self._summed(rows, batch, passing).cpu())
        return float(torch.stack(losses).sum())

    def _taken(self, micro: Sequence[MicroBatch]) -> Iterator[tuple[int, bool]]:
        """This rank's micro-batches, as of `Ranks.shares`; each draws the dropout of its place."""
        first = self._clock.tick
        for place, counts in ranks().shares(len(micro), even=self._model.is_sharded):
            self._clock.tick = first + place
            yield place, counts
        self._clock.tick = first + len(micro)

    def _each(
        self, micro: Sequence[MicroBatch], work: Callable[[list[int], dict[str, Tensor]], T]
    ) -> list[T]:
        """What `work` makes of every micro-batch, whichever rank takes it."""
        made = [(place, counts, work(*micro[place])) for place, counts in self._taken(micro)]
        shares = ranks().gather({place: value for place, counts, value in made if counts})
        every = {place: value for share in shares for place, value in share.items()}
        return [every[place] for place in range(len(micro))]

    def _summed(self, rows: list[int], batch: dict[str, Tensor], passing: Passing) -> Tensor:
        """The loss of one micro-batch, summed over its targets."""
        on_device = self._on(batch)
        with passing(rows):
            return summed_loss(
                self._model,
                on_device,
                self._task,
                autocast=self._autocast,
                weights=self._weights,
                chosen=self._chosen,
            )

    @torch.no_grad()
    def _outputs(self, micro: Sequence[MicroBatch], passing: Passing) -> tuple[list[Tensor], list[Tensor]]:
        """What the model gives for each micro-batch, and its targets."""

        def outputs_of(rows: list[int], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            with passing(rows):
                return logits_for(self._model, self._on(batch), self._task, autocast=self._autocast)

        made = self._each(micro, outputs_of)
        return [outputs for outputs, _ in made], [targets for _, targets in made]

    def _on(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return to_device(batch, self._model.device)
