r"""Diff pruning: a change of the weights themselves of which only a few entries remain.

    h = (W_0 + z . w) x                                   (Guo, Rush and Kim 2021, section 3)
    z = min(1, max(0, (r - l) s + l)),   s = sigmoid(log u - log(1 - u) + alpha),   u ~ U(0, 1)
    penalty = lambda sum sigmoid(alpha - log(-l / r))     (the expected number of non-zero entries)

with l = -1.5 and r = 1.5, the hard-concrete gates of Louizos et al. 2018. `structured` multiplies each gate
by one that its whole matrix shares, z_g z_i, whose penalty is the product of both terms (section 3.3).
Without noise (evaluation) s = sigmoid(alpha).

In the first part of a run gates and changes are trained together. Then the largest entries of z . w over all
matrices are kept, exactly `density` of them (section 3.2), the gates are done with, and training goes on with
these entries alone (the paper's fixed mask). The schedule is laid out over the run's real steps, and a run
that ends with another number of entries fails. What is stored is the place of each entry and its value.

Initialisation: w = 0 and alpha = 5 (section 4.3), so that training starts at the base. Oracle: the formulas
above written out with the same noise; density and files are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter, Extent
from deltatune.core.delta import Delta, Noise
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import RecipeError, TrainingError
from deltatune.methods.lora import linear_shape

HEAD_LR = 10.0
"""Factor on the learning rate of a new head, which starts from nothing."""
LEFT, RIGHT = -1.5, 1.5
"""Ends of the stretched gate. They are symmetric, so log(-l / r) = 0 in the penalty."""


class SparseDelta(Delta):
    """A change of the weight at a few places, as it is stored.

    Args:
        shape: Of the site's weight, as the site keeps it.
        n: Number of places.
        transposed: The site keeps its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(self, shape: tuple[int, int], n: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.transposed = transposed
        self.diff_values = nn.Parameter(torch.zeros(n))
        self.register_buffer("diff_indices", torch.zeros(n, dtype=_index_type(shape)))

    def change(self) -> Tensor:
        """The change of the weight, dense."""
        flat = self.diff_values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_copy(0, self.get_buffer("diff_indices").long(), self.diff_values).view(self.shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + delta x; x [..., d_in], y [..., d_out]."""
        return _applied(self.change(), x, y, self.transposed)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + delta, bias), summed in float32."""
        return (weight.float() + self.change().float()).to(weight.dtype), bias


class GatedDelta(Delta):
    """A change of the weight with a gate for every entry, as it is trained; with a fixed mask at the end.

    Args:
        shape: Of the site's weight, as the site keeps it.
        alpha: Initial logit of the gates.
        structured: Whether the matrix has a gate of its own as well.
        transposed: The site keeps its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(
        self, shape: tuple[int, int], alpha: float, *, structured: bool = False, transposed: bool = False
    ) -> None:
        super().__init__()
        self.diff = nn.Parameter(torch.zeros(shape))
        self.gate = nn.Parameter(torch.full(shape, alpha))
        self.group_gate = nn.Parameter(torch.full((1,), alpha)) if structured else None
        self.noise = Noise()
        self.transposed = transposed
        self.mask: Tensor | None = None
        """Which entries are left, once that is decided."""

    def gates(self, *, noisy: bool) -> Tensor:
        """The gates z (times that of the group) in [0, 1], of the weight's shape."""
        size = self.gate.numel()
        logits = self.gate.new_zeros(size + 1)
        if noisy:
            logits = torch.logit(self.noise.uniform(size + 1, self.gate.device)).to(self.gate.dtype)
        z = _stretched(self.gate + logits[:size].view_as(self.gate))
        return z if self.group_gate is None else z * _stretched(self.group_gate + logits[size:])

    def change(self, *, noisy: bool) -> Tensor:
        """The change of the weight: z . w, or w at the places that are left."""
        return self.diff * (self.gates(noisy=noisy) if self.mask is None else self.mask)

    def expected_entries(self) -> Tensor:
        """Expected number of entries whose gate is open (the L0 norm), a scalar."""
        open_gates = torch.sigmoid(self.gate).sum()
        return open_gates if self.group_gate is None else open_gates * torch.sigmoid(self.group_gate[0])

    @torch.no_grad()
    def fix(self, mask: Tensor) -> None:
        """Keep the entries of `mask` as they are without noise, and no others."""
        self.diff.copy_(self.change(noisy=False) * mask)
        self.mask = mask

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + (z . w) x; x [..., d_in], y [..., d_out]."""
        return _applied(self.change(noisy=self.training), x, y, self.transposed)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + z . w, bias) without noise, summed in float32."""
        return (weight.float() + self.change(noisy=False).float()).to(weight.dtype), bias

    def stored(self) -> dict[str, Tensor]:
        """Places in the flattened weight and values: of the mask, or of all entries that are not zero."""
        change = self.change(noisy=False).detach().flatten()
        alive = change if self.mask is None else self.mask.flatten()
        places = alive.nonzero().flatten()
        kind = _index_type(tuple(self.diff.shape))
        return {"diff_values": change[places], "diff_indices": places.to(kind)}


class DiffPruningAdapter(Adapter):
    """The gated changes, and the schedule that leaves exactly the target number of entries."""

    def __init__(self, deltas: Mapping[str, GatedDelta], config: DiffPruningConfig) -> None:
        super().__init__(deltas)
        self.config = config
        self.gated = dict(deltas)
        self.size = sum(delta.diff.numel() for delta in deltas.values())
        self.target = max(1, round(config.density * self.size))
        """Number of entries that are left in the end."""
        self.gate_steps = 0

    def start(self, total_steps: int) -> None:
        """Place the projection: after `gates` of the steps."""
        share = self.config.gates
        self.gate_steps = round(share * total_steps) if share < 1 else int(share)
        if not 0 < self.gate_steps < total_steps:
            raise RecipeError(
                f"diff pruning would choose its entries after {self.gate_steps} of {total_steps} steps; it "
                "needs steps before and after.",
                field="diff_pruning.gates",
                remedy="Train longer, or set the steps with gates (a share below 1, or a count) to fit.",
            )

    @property
    def settled(self) -> bool:
        """Whether the entries have been chosen."""
        return all(delta.mask is not None for delta in self.gated.values())

    def penalty(self) -> Tensor | None:
        """l0 * the expected number of entries; None once they are chosen."""
        if self.settled or self.config.l0 == 0:
            return None
        return self.config.l0 * torch.stack([d.expected_entries() for d in self.gated.values()]).sum()

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        """Choose the entries when it is time; report the share that is left or expected to be."""
        if step >= self.gate_steps and not self.settled:
            self._project()
        if self.settled:
            return {"density": self.entries() / self.size}
        expected = torch.stack([delta.expected_entries() for delta in self.gated.values()]).sum()
        return {"density": float(expected) / self.size}

    def _project(self) -> None:
        """Keep exactly the `target` largest entries of all matrices together."""
        sizes = torch.cat([d.change(noisy=False).abs().flatten() for d in self.gated.values()])
        alive = torch.zeros(self.size, dtype=torch.bool, device=sizes.device)
        alive[sizes.topk(self.target).indices] = True
        parts = alive.split([delta.diff.numel() for delta in self.gated.values()])
        for delta, part in zip(self.gated.values(), parts, strict=True):
            delta.fix(part.view_as(delta.diff).clone())

    def entries(self) -> int:
        """Number of entries that would be stored now."""
        return sum(len(delta.stored()["diff_values"]) for delta in self.gated.values())

    def extent(self) -> Extent:
        """As many entries as the density says, spread over the matrices by their sizes."""
        rest = self.extent_besides(self.gated)
        dense = sum(
            delta.diff.numel() * (delta.diff.element_size() + _index_type(tuple(delta.diff.shape)).itemsize)
            for delta in self.gated.values()
        )
        return Extent(rest.numbers + 2 * self.target, rest.bytes + round(dense * self.target / self.size))

    def finish(self) -> dict[str, float]:
        """Check that exactly the target number of entries is left."""
        entries = self.entries()
        if not self.settled or entries != self.target:
            raise TrainingError(
                f"diff pruning ended with {entries} of {self.target} entries.",
                field="diff_pruning.density",
                remedy="The entries are chosen within the run; train all planned steps.",
            )
        return {"density": entries / self.size, "entries": float(entries)}

    def resume_state(self) -> dict[str, Any]:
        """The masks, once there are some."""
        masks = {path: delta.mask for path, delta in self.gated.items() if delta.mask is not None}
        return super().resume_state() | {"masks": masks}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """Take what `resume_state` gave."""
        super().load_resume_state(state)
        for path, delta in self.gated.items():
            delta.mask = state["masks"].get(path)

    def lr_factor(self, name: str) -> float:
        """Gates are logits and move in larger steps than weights do; few weights in larger ones than all."""
        parameter = self.get_parameter(name)
        if any(parameter is gate for delta in self.gated.values() for gate in (delta.gate, delta.group_gate)):
            return self.config.gate_lr
        if any(parameter is delta.diff for delta in self.gated.values()):
            return self.config.entry_lr if self.settled else 1.0
        return HEAD_LR


class DiffPruningConfig(MethodConfig):
    """Diff pruning. Changes half a percent of the weights themselves; costs as full training does."""

    name: ClassVar[str] = "diff_pruning"
    title: ClassVar[str] = "A change of the weights of which learned gates leave a given share of entries."
    formula: ClassVar[str] = "h = (W_0 + z . w) x, with hard-concrete gates z and exactly density non-zeros"
    when: ClassVar[str] = (
        "When a delta should change few weights, wherever they are, and cost nothing once merged. Training "
        "needs more memory than full fine-tuning, and many hundreds of steps: gates that are still open when "
        "entries are chosen lose what was learned."
    )
    cost: ClassVar[str] = (
        "2 d_in d_out parameters for each matrix while training, then density d_in d_out: 8 bytes for each "
        "entry in the file. Free once merged."
    )
    defaults: ClassVar[str] = (
        "0.5 %, gates in (-1.5, 1.5) from alpha 5 and l0 1.25e-7 as in the paper, which changes all "
        "parameters, not the linear layers alone. lr 1e-4 as for full fine-tuning here "
        "(the paper: 1e-5), with gates at 1,000 times that, the 0.1 of its code. Chosen here: half of the "
        "steps with gates, and the entries that are left at 30 times lr (the paper: 5 times)."
    )
    paper: ClassVar[str] = (
        "Guo, Rush and Kim 2021, Parameter-Efficient Transfer Learning with Diff Pruning (arXiv 2012.07463)."
    )
    default_lr: ClassVar[float] = 1e-4

    density: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Share of the entries of the chosen matrices, all together, that is changed in the end; kept exactly."""
    structured: bool = False
    """Give each matrix a gate of its own as well, so that whole matrices can be left alone."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("all-linear",)
    """Roles, groups, ends of module paths or globs; as for lora."""
    gates: Annotated[int | float, Field(gt=0)] = 0.5
    """Steps with gates, before the entries are chosen: a share (below 1) of the run's steps, or a count."""
    l0: Annotated[float, Field(ge=0)] = 1.25e-7
    """Weight of the penalty on the expected number of entries, a sum over all of them. Short runs need more,
    and a larger gate_lr: `density` in metrics.jsonl should have fallen far before the entries are chosen."""
    alpha: float = 5.0
    """Initial logit of the gates; at 5 nearly all are fully open."""
    gate_lr: Annotated[float, Field(gt=0)] = 1000.0
    """Factor on the learning rate of the gates."""
    entry_lr: Annotated[float, Field(gt=0)] = 30.0
    """Factor on the learning rate of the entries that are left, once they are chosen: a change of all
    weights needs small steps, one of half a percent of them large ones."""
    counts: dict[str, int] | None = None
    """Number of entries of each matrix. Found; written when a delta is saved."""

    def build(self, view: BaseView) -> Adapter:
        """One gated change per selected linear layer, or the stored entries of each."""
        chosen = view.select(self.targets)
        if self.counts is not None:
            return Adapter({path: self._stored(path, module) for path, module in chosen.items()})
        return DiffPruningAdapter({path: self._gated(path, module) for path, module in chosen.items()}, self)

    def _gated(self, path: str, module: nn.Module) -> GatedDelta:
        shape, transposed = _weight_shape(path, module), isinstance(module, Conv1D)
        return GatedDelta(shape, self.alpha, structured=self.structured, transposed=transposed)

    def _stored(self, path: str, module: nn.Module) -> SparseDelta:
        n = (self.counts or {}).get(path, 0)
        return SparseDelta(_weight_shape(path, module), n, transposed=isinstance(module, Conv1D))

    def lost_when_saved(self) -> str | None:
        """The gates."""
        return "the gates that choose its entries are not saved, only the entries that they chose"

    def for_inference(self, adapter: Adapter) -> Self:
        """The same with the number of entries of each matrix."""
        if not isinstance(adapter, DiffPruningAdapter):
            return self
        counts = {path: len(delta.stored()["diff_values"]) for path, delta in adapter.gated.items()}
        return self.model_copy(update={"counts": counts})


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (RIGHT - LEFT) + LEFT).clamp(0.0, 1.0)


def _applied(change: Tensor, x: Tensor, y: Tensor, transposed: bool) -> Tensor:
    """The output with the change, computed in x's dtype."""
    return y + F.linear(x, (change.T if transposed else change).to(x.dtype))


def _weight_shape(path: str, module: nn.Module) -> tuple[int, int]:
    d_in, d_out = linear_shape(path, module)
    return (d_in, d_out) if isinstance(module, Conv1D) else (d_out, d_in)


def _index_type(shape: tuple[int, ...]) -> torch.dtype:
    """int32, unless a matrix has more entries than that can count."""
    return torch.int32 if shape[0] * shape[1] < 2**31 else torch.int64
