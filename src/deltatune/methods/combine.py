r"""Several trained low-rank deltas of one base made into one.

With D_i the whole update B_i A_i of one matrix (scale included) and w_i its weight:

    linear   sum_i w_i D_i
    ties     keep the largest entries of each w_i D_i, elect the sign of each entry by their sum, and average
             those that have it                          (Yadav et al. 2023, algorithm 1)
    dare     sum_i w_i (M_i * D_i) / density, M_i random masks of that density    (Yu et al. 2023, section 3)

All three are made of the D_i, never of the A_i and B_i one by one: (w_1 B_1 + w_2 B_2)(w_1 A_1 + w_2 A_2)
holds products of the B of one delta with the A of another, which no training has seen. The result is a LoRA
again: for `linear` an exact one, whose rank is the sum of the ranks; for the others, whose sum has full rank,
the nearest of the wanted rank (truncated singular value decomposition), and how near is said. Heads are
combined in the same way, as differences from the base's.

The paper of TIES trims the whole update at once, as a vector; here, as in peft, each matrix is trimmed on its
own.

Oracle: peft's add_weighted_adapter (cat, svd, ties_svd, and dare_linear_svd at density 1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Adapter
from deltatune.core.delta import ModuleCopy
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods.lora import LoraConfig, LoraEmbeddingDelta, LowRank

RULES = ("linear", "ties", "dare")


@dataclass(frozen=True)
class Combination:
    """What `combine` made."""

    adapter: Adapter
    rank: int
    error: float
    """Frobenius norm of what the rank cut off, as a share of the whole update's; 0 where nothing was."""


@torch.no_grad()
def combine(
    model: AdaptedModel,
    names: Sequence[str],
    into: str,
    *,
    rule: Literal["linear", "ties", "dare"] = "linear",
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    rank: int | None = None,
    seed: int = 0,
) -> Combination:
    """Attach one LoRA that acts like several attached low-rank deltas together, and make it the active one.

    Args:
        model: The model that all of them are attached to.
        names: The adapters, of any method whose update is a product of two matrices: lora and its relatives
            (not dora, whose update depends on the base), adalora, vera. A matrix that one of them does not
            act on is one that it leaves as it is.
        into: Name of the new adapter.
        rule: How the updates are put together.
        weights: A factor for each adapter; by default 1 / n, and 1 for ties, which averages by itself.
        density: Share of the entries that ties and dare keep of each update, in (0, 1].
        rank: Largest rank of the result; by default the sum of the ranks, at which linear is exact. With the
            width of the widest matrix all rules are.
        seed: Decides which entries dare keeps.

    Raises:
        AdapterError: A number is out of its range, or an adapter is something else than low-rank updates.
    """
    adapters = [model.adapter(name) for name in names]
    _require_numbers(len(names), rule, weights, density, rank)
    for name, adapter in zip(names, adapters, strict=True):
        _require_low_rank(name, adapter)
    shares = weights or [1.0 if rule == "ties" else 1 / len(names)] * len(names)
    together = _Rule(rule, tuple(shares), density, seed)
    sites: dict[str, dict[int, LowRank]] = {}
    for index, adapter in enumerate(adapters):
        for path, delta in adapter.deltas.items():
            if isinstance(delta, LowRank):
                sites.setdefault(path, {})[index] = delta
    rank = rank or max(sum(len(delta.factors()[0]) for delta in site.values()) for site in sites.values())
    made = {path: together.low_rank(path, site, rank) for path, site in sites.items()}
    rank = max(len(down) for down, *_ in made.values())
    heads = list(dict.fromkeys(path for adapter in adapters for path in adapter.heads()))
    # alpha = rank makes the scale 1: the factors contain every other one.
    config = LoraConfig(r=rank, alpha=rank, targets=tuple(sites))
    combined = model.attach(into, config, heads=heads)
    for path, (down, up, _, _) in made.items():
        missing = rank - len(down)  # where fewer adapters act than elsewhere
        of_embedding = isinstance(combined.deltas[path], LoraEmbeddingDelta)
        a, b = (
            ("lora_embedding_A", "lora_embedding_B") if of_embedding else ("lora_A.weight", "lora_B.weight")
        )
        combined.deltas[path].load_stored({a: F.pad(down, (0, 0, 0, missing)), b: F.pad(up, (0, missing))})
    for path in heads:
        together.head_(path, combined, adapters)
    whole, cut = sum(part[2] for part in made.values()), sum(part[3] for part in made.values())
    return Combination(combined, rank, math.sqrt(cut / whole) if whole else 0.0)


@dataclass(frozen=True)
class _Rule:
    """How updates of one matrix are put together."""

    name: str
    shares: tuple[float, ...]
    density: float
    seed: int

    def __call__(self, path: str, updates: dict[int, Tensor]) -> Tensor:
        """Put the updates (adapter's index -> tensor, all of one shape) of the matrix at `path` together."""
        weighted = torch.stack([update * self.shares[index] for index, update in updates.items()])
        if self.name == "ties":
            return _agreed(torch.stack([_largest(update, self.density) for update in weighted]))
        if self.name == "dare":
            masks = [self._mask(update, f"{path} {index}") for index, update in updates.items()]
            weighted = weighted * torch.stack(masks) / self.density
        return weighted.sum(0)

    def low_rank(self, path: str, site: dict[int, LowRank], rank: int) -> tuple[Tensor, Tensor, float, float]:
        """The combination as (down [<= rank, d_in], up, its squared norm, that of what is cut)."""
        factors = {index: [part.float() for part in delta.factors()] for index, delta in site.items()}
        if self.name == "linear" and sum(len(down) for down, _ in factors.values()) <= rank:
            down = torch.cat([down for down, _ in factors.values()])
            up = torch.cat([up * self.shares[index] for index, (_, up) in factors.items()], dim=1)
            return down, up, float(((up.T @ up) * (down @ down.T)).sum()), 0.0
        whole = self(path, {index: up @ down for index, (down, up) in factors.items()})
        u, s, vt = torch.linalg.svd(whole, full_matrices=False)
        root = s[:rank].sqrt()
        cut = float(s[rank:].square().sum())
        return root[:, None] * vt[:rank], u[:, :rank] * root, float(s.square().sum()), cut

    def head_(self, path: str, combined: Adapter, adapters: list[Adapter]) -> None:
        """Put the heads at `path` together, as differences from the base's, which `combined` starts with."""
        start = _head(combined, path)
        held = {i: _head(adapter, path) for i, adapter in enumerate(adapters) if path in adapter.deltas}
        for name, parameter in start.named_parameters():
            differences = {i: head.get_parameter(name) - parameter for i, head in held.items()}
            parameter.add_(self(f"{path}.{name}", differences))

    def _mask(self, update: Tensor, what: str) -> Tensor:
        """Ones with probability `density`, drawn from the seed and the place alone."""
        digest = hashlib.blake2b(f"{self.seed} {what}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return (torch.rand(update.shape, generator=generator) < self.density).to(update)


def _largest(update: Tensor, density: float) -> Tensor:
    """`update` with all but the share `density` of its entries, the largest, set to zero."""
    kept = update.abs().flatten().topk(max(1, int(density * update.numel()))).indices
    return torch.zeros_like(update).flatten().scatter(0, kept, update.flatten()[kept]).view_as(update)


def _agreed(updates: Tensor) -> Tensor:
    """The mean over those of `updates` [n, ...] that have the sign of their sum, entry by entry."""
    agree = (updates.sign() == updates.sum(0).sign()) & (updates != 0)
    return (updates * agree).sum(0) / agree.sum(0).clamp(min=1)


def _head(adapter: Adapter, path: str) -> nn.Module:
    delta = adapter.deltas[path]
    assert isinstance(delta, ModuleCopy)
    return delta.copy


def _require_low_rank(name: str, adapter: Adapter) -> None:
    others = [d for d in adapter.deltas.values() if not isinstance(d, LowRank | ModuleCopy)]
    if others or adapter.keys_values or adapter.prompt is not None or adapter.own or not adapter.deltas:
        raise AdapterError(
            f"{name!r} does not consist of low-rank updates of weights.",
            field="names",
            remedy="Combine adapters of lora, its relatives except dora, adalora or vera.",
        )


def _require_numbers(
    n: int, rule: str, weights: Sequence[float] | None, density: float, rank: int | None
) -> None:
    rules = (
        (n > 0, "names", "there is none.", "Name the adapters to combine."),
        (rule in RULES, "rule", f"{rule!r} is none of {', '.join(RULES)}.", "Choose one of them."),
        (
            weights is None or len(weights) == n,
            "weights",
            f"there are {len(weights or ())} for {n} adapters.",
            "Give one for each.",
        ),
        (0 < density <= 1, "density", f"{density} is not in (0, 1].", "Give the share of entries to keep."),
        (rank is None or rank > 0, "rank", f"{rank} is not positive.", "Leave it out, or give 1 or more."),
    )
    for holds, field, what, remedy in rules:
        if not holds:
            raise AdapterError(what, field=field, remedy=remedy)
