"""The texts that are being written, in as few lanes as their deltas allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.lane import Lane
from deltatune.serve.engine.passes import Passes
from deltatune.serve.engine.work import Writing
from deltatune.serve.refusal import Refusal
from deltatune.tasks.tokens import padded


@dataclass(eq=False)
class Group:
    """A lane, and whose its rows are."""

    lane: Lane
    works: list[Writing]
    tokens: list[int]
    """The latest token of each row, which the lane has not read yet."""
    key: str | None
    """As of `Served.lane`."""
    joins: bool
    """Whether others may join its rows."""


class Lanes:
    """All rows that are being written.

    Args:
        model: The model.
        passes: Is told of each pass.
    """

    def __init__(self, model: AdaptedModel, passes: Passes) -> None:
        self._model, self._passes = model, passes
        self.groups: list[Group] = []
        generation = getattr(model.base, "generation_config", None)  # only of what writes
        forced = getattr(generation, "forced_bos_token_id", None)
        self._forced = int(forced) if forced is not None and model.view.is_encoder_decoder else None

    @property
    def works(self) -> list[Writing]:
        """Whose texts these are."""
        return [work for group in self.groups for work in group.works]

    @property
    def rows(self) -> int:
        """How many."""
        return sum(len(group.works) for group in self.groups)

    @property
    def served(self) -> set[Served]:
        """Whose deltas are in use."""
        return {work.served for work in self.works}

    @torch.inference_mode()
    def admit(self, works: Sequence[Writing]) -> None:
        """Read prompts in one pass, write their first tokens, and let them join those that are here."""
        started = time.monotonic()
        encoder = works[0].served.run.encoder
        prompts = [work.prompt for work in works]
        batch = padded(prompts, encoder, left=self._model.view.is_decoder_only)
        adapters = [work.served.run.adapter for work in works]
        lane = Lane(self._model, adapters, to_device(batch, self._model.device))
        joins = all(work.served.joins for work in works)
        group = Group(lane, list(works), [0] * len(works), works[0].served.lane, joins)
        self._choose(group, first=True)
        now = time.monotonic()
        self._passes.passed(len(works), now - started)
        for work in works:
            self._passes.begun(work, now - work.since)
        if not group.works:
            return
        host = next((g for g in self.groups if joins and g.joins and g.key == group.key), None)
        if host is None:
            self.groups.append(group)
            return
        host.lane.join(group.lane)
        host.works += group.works
        host.tokens += group.tokens

    @torch.inference_mode()
    def step(self, group: Group) -> None:
        """Write the next token of each row."""
        started = time.monotonic()
        rows = len(group.works)
        group.lane.step(group.tokens)
        self._choose(group)
        self._passes.passed(rows, time.monotonic() - started)
        if not group.works:
            self.groups.remove(group)

    @torch.inference_mode()
    def drop(self, unwanted: Callable[[Writing], bool]) -> None:
        """Let rows go."""
        for group in list(self.groups):
            staying = [row for row, work in enumerate(group.works) if not unwanted(work)]
            self._keep(group, staying)
            if not group.works:
                self.groups.remove(group)

    def fail(self, group: Group, refusal: Refusal) -> None:
        """Refuse the rows of one lane."""
        self.groups.remove(group)
        for work in group.works:
            work.finish(refusal)

    def _choose(self, group: Group, *, first: bool = False) -> None:
        """Choose a token for each row; rows that have ended leave."""
        logits = group.lane.logits
        best = logits.max(dim=-1)
        finite, likeliest = torch.isfinite(best.values).tolist(), best.indices.tolist()
        staying = []
        for row, work in enumerate(group.works):
            if not finite[row]:
                work.finish(Refusal("failed", "the model's answer is not a number."))
            elif self._take(work, logits[row], likeliest[row], first=first):
                staying.append(row)
            group.tokens[row] = work.latest
        self._keep(group, staying)

    def _take(self, work: Writing, logits: Tensor, best: int, *, first: bool) -> bool:
        if first and self._forced is not None:
            logits = torch.full_like(logits, -torch.inf)
            logits[self._forced], best = 0.0, self._forced
        return work.take(work.chooser.choose(logits, best))

    def _keep(self, group: Group, rows: Iterable[int]) -> None:
        rows = list(rows)
        if len(rows) == len(group.works):
            return
        group.works = [group.works[row] for row in rows]
        group.tokens = [group.tokens[row] for row in rows]
        if rows:
            group.lane.keep(rows)
