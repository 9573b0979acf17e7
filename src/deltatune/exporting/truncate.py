r"""The nearest matrix of a low rank.

    U = sum_i s_i u_i v_i^T,  U_r = sum_{i <= r} s_i u_i v_i^T         (Eckart and Young 1936)

U_r is nearest to U among all matrices of rank r, and holds sum_{i <= r} s_i^2 of its energy ||U||^2 = sum_i
s_i^2. Decompositions are in float64. An update that is kept as a product is decomposed through the QR
decompositions of its factors, which is exact and costs what its own rank does. A matrix with both sides above
`EXACT_UP_TO`, of which a rank is asked for, gets a randomized decomposition (Halko et al. 2011): the energy
that is told is then that of what it found, which may be a little less than the best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.devices import own_random_states
from deltatune.exporting.changes import LowRankUpdate

EXACT_UP_TO = 2048
OVERSAMPLED, ITERATIONS = 16, 6
"""Of the randomized decomposition: directions beyond the rank, and subspace iterations."""
ZERO = 1e-6
"""Singular values below this share of the largest are rounding, of sums in float32."""


@dataclass(frozen=True)
class Truncated:
    """A product of low rank, and how much of the update it holds."""

    down: Tensor
    """[r, d_in]."""
    up: Tensor
    """[d_out, r]."""
    energy: float
    """Squared norm of the whole update."""
    kept: float
    """Share of it, from 0 to 1."""
    needed: int | None
    """Rank of the whole update; None where it was not computed."""
    how: str
    """`factors`, `svd` or `randomized svd`."""

    @property
    def exact(self) -> bool:
        """Whether nothing was cut."""
        return self.how == "factors" or (self.needed is not None and len(self.down) >= self.needed)


@torch.no_grad()
def truncate(update: LowRankUpdate | Tensor, rank: int | None, keep: float | None) -> Truncated:
    """Make an update low-rank.

    Args:
        update: A product, or a matrix [d_out, d_in].
        rank: The largest rank; None for as many as `keep` says, or for a product's own.
        keep: The share of the energy to hold, by the least rank that does.
    """
    if isinstance(update, LowRankUpdate):
        down, up = update.down.double(), update.up.double()
        if keep is None and (rank is None or len(down) <= rank):
            energy = float(((up.T @ up) * (down @ down.T)).sum())
            return Truncated(update.down, update.up, energy, 1.0, None, "factors")
        q_up, r_up = torch.linalg.qr(up)
        q_down, r_down = torch.linalg.qr(down.T)
        u, s, vt = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
        return _cut(q_up @ u, s, vt @ q_down.T, rank, keep)
    if keep is None and rank is not None and min(update.shape) > EXACT_UP_TO and 4 * rank < min(update.shape):
        return _randomized(update, rank)
    u, s, vt = torch.linalg.svd(update.double(), full_matrices=False)
    return _cut(u, s, vt, rank, keep)


def _cut(u: Tensor, s: Tensor, vt: Tensor, rank: int | None, keep: float | None) -> Truncated:
    """The first singular triplets: `rank` of them, or as few as hold the share `keep`."""
    energies = s.square()
    energy = float(energies.sum())
    needed = int((s > ZERO * s[0]).sum()) if energy else 0
    r = needed if rank is None else min(rank, needed)
    if keep is not None and energy:
        shares = energies.cumsum(0) / energy
        r = min(needed, int((shares < keep).sum()) + 1)
    root = s[:r].sqrt()
    kept = float(energies[:r].sum()) / energy if energy else 1.0
    return Truncated((root[:, None] * vt[:r]).float(), (u[:, :r] * root).float(), energy, kept, needed, "svd")


def _randomized(update: Tensor, rank: int) -> Truncated:
    with own_random_states():
        torch.manual_seed(0)
        u, _, _ = torch.svd_lowrank(update.float(), q=rank + OVERSAMPLED, niter=ITERATIONS)
    core, s, vt = torch.linalg.svd((u.T @ update.float()).double(), full_matrices=False)
    energy = float(update.double().square().sum())
    root = s[:rank].sqrt()
    up = (u.double() @ core[:, :rank]) * root
    kept = float(s[:rank].square().sum()) / energy if energy else 1.0
    down = root[:, None] * vt[:rank]
    return Truncated(down.float(), up.float(), energy, kept, None, "randomized svd")
