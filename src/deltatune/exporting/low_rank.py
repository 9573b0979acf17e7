"""A run's delta as plain LoRA: the factors of every site, attached to the run's model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.delta import ModuleCopy
from deltatune.core.model import AdaptedModel
from deltatune.exporting.changes import Changes, changes_of
from deltatune.exporting.target import Settings
from deltatune.exporting.truncate import truncate
from deltatune.methods.lora import BiasedDelta, LoraConfig, LoraEmbeddingDelta
from deltatune.observer import Observer
from deltatune.results import ExportedSite
from deltatune.runs.loaded import NAME

EXPORTED = "exported"
DEFAULT_RANK = 16
TASK = "Decomposing updates"


@dataclass(frozen=True)
class LowRank:
    """The low-rank form of a delta."""

    changes: Changes
    sites: list[ExportedSite]
    factors: dict[str, tuple[Tensor, Tensor]]
    """(down [r, d_in], up [d_out, r]) of each site that changes."""
    exact: bool
    """Whether it holds all of the delta."""

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max((len(down) for down, _ in self.factors.values()), default=1)


@torch.no_grad()
def low_rank(model: AdaptedModel, method: str, settings: Settings, observer: Observer) -> LowRank:
    """Decompose the update of every layer that the adapter of a run changes, one at a time.

    Without a rank or a share in `settings`, updates that the run keeps as products stay as they are, and
    others get rank 16.

    Raises:
        AdapterError: The run's method changes no weights.
    """
    sites, factors, exact = list[ExportedSite](), dict[str, tuple[Tensor, Tensor]](), True
    with model.using():
        changes = changes_of(model, NAME, method)
        observer.start(TASK, len(changes.sites))
        for path in changes.sites:
            update = changes.update(path)
            whole = isinstance(update, Tensor)
            rank = (
                DEFAULT_RANK if whole and settings.rank is None and settings.keep is None else settings.rank
            )
            cut = truncate(update, rank, settings.keep)
            sites.append(
                ExportedSite(
                    path=path,
                    shape=[len(cut.up), cut.down.shape[1]],
                    rank=len(cut.down),
                    needed=cut.needed,
                    energy=cut.energy,
                    kept=cut.kept,
                    how=cut.how,
                )
            )
            exact &= cut.exact
            if len(cut.down):
                factors[path] = (cut.down.cpu(), cut.up.cpu())
            observer.advance(TASK)
        observer.finish(TASK)
    return LowRank(changes, sites, factors, exact and not changes.left_out)


@torch.no_grad()
def attach(model: AdaptedModel, made: LowRank, *, one_rank: int | None = None) -> None:
    """Attach the low-rank form to the run's model, as an adapter called `EXPORTED`.

    Where no layer changes, one gets a product of zeros, since peft's LoRA needs a layer to hang biases and
    whole modules on.

    Args:
        model: The run's.
        made: Its low-rank form.
        one_rank: Fill all products with zeros up to this rank, so that all have the same.
    """
    changes, factors = made.changes, dict(made.factors)
    if not factors:
        path = next(iter(model.view.select(("all-linear",))))
        d_out, d_in = model.view.weight(path).shape
        factors[path] = (torch.zeros(1, d_in), torch.zeros(d_out, 1))
    if one_rank is not None:
        factors = {path: _filled(*pair, one_rank) for path, pair in factors.items()}
    rank = max(len(down) for down, _ in factors.values())
    ranks = {path: len(down) for path, (down, _) in factors.items() if len(down) != rank}
    config = LoraConfig(
        r=rank,
        alpha=rank,  # so that the scale is 1: the factors contain every other one
        targets=tuple(factors),
        rank_pattern=ranks,
        alpha_pattern={path: float(r) for path, r in ranks.items()},
        biases=tuple(changes.biases),
    )
    states = {path: changes.whole_state(path) for path in changes.whole}
    adapter = model.attach(EXPORTED, config, heads=changes.whole)
    for path, (down, up) in factors.items():
        delta = adapter.deltas[path]
        inner = delta.inner if isinstance(delta, BiasedDelta) else delta
        names = ("lora_embedding_A", "lora_embedding_B")
        names = names if isinstance(inner, LoraEmbeddingDelta) else ("lora_A.weight", "lora_B.weight")
        inner.load_stored(dict(zip(names, (down, up), strict=True)))
    for path, change in changes.biases.items():
        delta = adapter.deltas[path]
        (delta.change if isinstance(delta, BiasedDelta) else delta).load_stored({"bias": change})
    for path, state in states.items():
        copy = adapter.deltas[path]
        assert isinstance(copy, ModuleCopy)
        copy.load_stored(state)


def _filled(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - len(down)
    return F.pad(down, (0, 0, 0, missing)), F.pad(up, (0, missing))
