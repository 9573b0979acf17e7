"""That the kernels which a recipe asks for compute what torch's own code computes, on this device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.delta import Clock, Dropout
from deltatune.core.devices import own_random_states
from deltatune.core.fast import kernels
from deltatune.core.loss import fused_loss, logits_for, loss_of
from deltatune.core.low_rank import Downward, SharedInput, add_low_rank_
from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import ROUNDING, rounding

LINE = "kernels compute the same"
TOKENS = 77
"""Of a trial of low-rank kernels: no multiple of a block."""


def check_kernels(
    proof: Proof, model: AdaptedModel, name: str, batch: Mapping[str, Tensor], task: str
) -> None:
    """Compare the loss and its gradients with and without kernels, and their low-rank updates.

    At its start a LoRA adds nothing, so that its update is compared on random numbers, with dropout, for each
    shape of site.

    Args:
        proof: Where the line goes; there is none if no kernels are asked for.
        model: In eval mode, with the run's adapter in force.
        name: The adapter's name.
        batch: A collated batch with labels, on the model's device.
        task: The recipe's task.

    Raises:
        TrainingError: They differ by more than rounding, or the base does not allow the fused loss.
    """
    asked = model.fast.lean.kernels
    if not asked:
        return
    if kernels.CUT_CROSS_ENTROPY in asked:
        _require_plain_head(model, name)
    parameters = [parameter for _, parameter in model.adapter(name).trainable()]
    found, wanted = (_loss_and_gradients(model, names, parameters, batch, task) for names in (asked, ()))
    apart = {"loss": _apart(found[:1], wanted[:1]), "gradients": _apart(found[1:], wanted[1:])}
    limits = dict.fromkeys(apart, rounding(model))
    if kernels.TRITON in asked:
        for shape in _shapes(model, name):
            apart[shape.named], limits[shape.named] = shape.apart(model.device), ROUNDING[shape.dtype]
    worst = max(apart, key=lambda key: apart[key] / limits[key])
    proof.check(
        LINE,
        all(apart[key] <= limits[key] for key in apart),
        f"{', '.join(sorted(asked))}: {len(apart)} comparisons, of which {worst} differ most, by "
        f"{apart[worst]:.3g} of their norm; allowed is {limits[worst]:.3g}",
        "Leave train.kernels out: they compute something else here. Please report it, with the GPU's name.",
        {"apart": apart, "limits": limits},
    )


def _require_plain_head(model: AdaptedModel, name: str) -> None:
    why = model.fast.head.why_not_fused()
    head = model.base.get_output_embeddings()
    paths = {path for path, module in model.view.modules.items() if module is head}
    adapter = model.adapter(name)
    acts = paths & adapter.deltas.keys()
    own = {path.rpartition(".")[0] for path in adapter.own}
    if why is None and (acts or paths & own):
        why = "the method acts on the output head"
    if why is not None:
        raise TrainingError(
            f"{kernels.CUT_CROSS_ENTROPY} cannot be used: {why}.",
            field="train.kernels",
            remedy="Leave it out.",
        )


def _loss_and_gradients(
    model: AdaptedModel, names: frozenset[str] | tuple[()], parameters: Sequence[Tensor],
    batch: Mapping[str, Tensor], task: str,
) -> list[Tensor]:  # fmt: skip
    """The loss as training computes it, but for dropout, and its gradients."""
    before, model.fast.lean.kernels = model.fast.lean.kernels, frozenset(names)
    try:
        with model.fast.training(batch):
            if kernels.CUT_CROSS_ENTROPY in names:
                loss = fused_loss(model, dict(batch), task)
            else:
                loss = loss_of(task, *logits_for(model, dict(batch), task))
            return [loss.detach(), *torch.autograd.grad(loss, parameters, materialize_grads=True)]
    finally:
        model.fast.lean.kernels = before


def _apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """How far tensors are apart together, as a share of their norm."""
    pairs = list(zip(found, wanted, strict=True))
    away = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return (away / max(sum(float(b.double().square().sum()) for _, b in pairs), 1e-60)) ** 0.5


@dataclass
class _Member:
    """A low-rank delta of random numbers."""

    dropout: Dropout
    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        self.shared = SharedInput([self])

    def down(self) -> Tensor:
        return self.a


@dataclass(frozen=True)
class _Shape:
    """Sizes of a site and its update."""

    d_in: int
    d_out: int
    rank: int
    dropout: float
    dtype: torch.dtype

    @property
    def named(self) -> str:
        return f"updates of rank {self.rank} from {self.d_in} to {self.d_out}"

    def apart(self, device: torch.device) -> float:
        """How far the update and its gradients are apart, for a site alone and for two with one input."""
        with own_random_states(), torch.device(device):
            torch.manual_seed(0)
            worst = 0.0
            for sites in (1, 2):
                members = [self._member() for _ in range(sites)]
                for member in members:
                    member.shared = SharedInput(members)
                x, y = (
                    torch.randn(TOKENS, d).to(self.dtype).requires_grad_() for d in (self.d_in, self.d_out)
                )
                both = [self._computed(names, members, x, y) for names in ({kernels.TRITON}, set[str]())]
                worst = max(worst, *(_apart([a], [b]) for a, b in zip(*both, strict=True)))
        return worst

    def _member(self) -> _Member:
        dropout = Dropout(self.dropout)
        dropout.bind(Clock(1), "trial")
        a, b = torch.randn(self.rank, self.d_in), torch.randn(self.d_out, self.rank)
        return _Member(dropout.train(), a.requires_grad_(), b.requires_grad_())

    def _computed(self, names: set[str], members: list[_Member], x: Tensor, y: Tensor) -> list[Tensor]:
        with kernels.in_force(frozenset(names)), torch.enable_grad():
            outputs = [add_low_rank_(y * 1, x, member, member.b, 0.5) for member in members]
        leaves = [x, y, *(each for member in members for each in (member.a, member.b))]
        weights = [torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype) for out in outputs]
        return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, weights)]


def _shapes(model: AdaptedModel, name: str) -> Iterator[_Shape]:
    """The kinds of sites at which an adapter makes low-rank updates."""
    dtype = next(model.base.parameters()).dtype
    found = set()
    for path, delta in model.adapter(name).deltas.items():
        if isinstance(delta, Downward):
            rank, d_in = delta.down().shape
            weight = getattr(model.view.modules[path], "weight", None)
            d_out = d_in if weight is None else weight.numel() // d_in
            found.add((d_in, d_out, rank, delta.dropout.p))
    for d_in, d_out, rank, p in sorted(found):
        yield _Shape(d_in, d_out, rank, p, dtype if dtype in ROUNDING else torch.bfloat16)
