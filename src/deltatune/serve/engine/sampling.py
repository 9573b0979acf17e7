"""How the next token is chosen: the likeliest one, or one that is drawn."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request says of it. By default the likeliest token is taken, as `predict` does."""

    temperature: float = 0.0
    """What logits are divided by; 0: the likeliest token is taken."""
    top_p: float = 1.0
    """Of the likeliest tokens, so many are left as have this probability together."""
    top_k: int = 0
    """So many of the likeliest tokens are left; 0: all."""
    seed: int | None = None
    """Of what is drawn: a request with the same one draws the same, whatever else is in its batch."""
    likeliest: int | None = None
    """Of so many tokens, besides the chosen one, the log-probability is told; None: of none."""


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and what it was chosen among."""

    token: int
    logprob: float | None = None
    """Its log-probability as the model gives it, without temperature; None where none is asked for."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log-probabilities."""


class Chooser:
    """Chooses the tokens of one row."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(seed)

    @property
    def greedy(self) -> bool:
        """Whether it takes the likeliest token."""
        return self._generator is None

    def choose(self, logits: Tensor, best: int) -> Chosen:
        """Choose the next token.

        Args:
            logits: Of the vocabulary, in float32.
            best: The likeliest token.
        """
        token = best if self._generator is None else self._drawn(logits)
        count = self.sampling.likeliest
        if count is None:
            return Chosen(token)
        scores = torch.log_softmax(logits.double(), dim=-1)
        top = scores.topk(min(count, len(scores)))
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return Chosen(token, float(scores[token]), tuple(likeliest))

    def _drawn(self, logits: Tensor) -> int:
        spec = self.sampling
        wide = logits.detach().cpu().double()
        scaled = (wide - wide.max()) / spec.temperature  # however small, the likeliest stays at 0
        places: Tensor | None = None
        if 0 < spec.top_k < len(scaled) or spec.top_p < 1:
            scaled, places = scaled.sort(descending=True, stable=True)
            if spec.top_k:
                scaled = scaled[: spec.top_k]
            chances = scaled.softmax(dim=-1)
            before = chances.cumsum(dim=-1) - chances
            chances = chances.masked_fill(before >= spec.top_p, 0.0)
        else:
            chances = scaled.softmax(dim=-1)
        drawn = int(torch.multinomial(chances, 1, generator=self._generator))
        return drawn if places is None else int(places[drawn])
