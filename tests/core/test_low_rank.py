"""Low-rank updates of several runs in one product are those of each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deltatune.core.delta import Clock, Delta
from deltatune.methods.dora import DoraDelta
from deltatune.methods.lora import LoraDelta

RANKS, ROWS = (2, 4, 3), 2


def deltas(dropout: tuple[float, ...]) -> list[LoraDelta]:
    torch.manual_seed(0)
    made = [LoraDelta(5, 6, r, 0.5 + r, p).double() for r, p in zip(RANKS, dropout, strict=True)]
    for seed, delta in enumerate(made):
        torch.nn.init.normal_(delta.lora_B.weight)
        delta.dropout.bind(Clock(seed), "site")
    return made


@pytest.mark.parametrize("dropout", [(0.0, 0.0, 0.0), (0.5, 0.0, 0.25)])
def test_several_at_once_are_each_alone(dropout: tuple[float, ...]) -> None:
    made = deltas(dropout)
    x, y = (torch.randn(3 * ROWS, 7, d, dtype=torch.float64, requires_grad=True) for d in (5, 6))
    parameters = [p for delta in made for p in delta.parameters()]

    def one_by_one() -> Tensor:
        parts = zip(made, x.chunk(3), y.clone().chunk(3), strict=True)
        return torch.cat([delta(mine, out.clone()) for delta, mine, out in parts])

    found = LoraDelta.together(made, x, y.clone())
    assert found is not None
    wanted = one_by_one()
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    grads = [torch.autograd.grad((out * weights).sum(), [x, y, *parameters]) for out in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_what_computes_otherwise_acts_one_by_one() -> None:
    x, y = torch.randn(2, 5), torch.randn(2, 6)
    kept = y.clone()
    dora = object.__new__(DoraDelta)
    assert LoraDelta.together([deltas((0.0, 0.0, 0.0))[0], dora], x, y) is None
    assert Delta.together([Delta(), Delta()], x, y) is None
    assert torch.equal(y, kept)


class Viewed(torch.autograd.Function):
    """Returns a view of what it made, as the products of quantized layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone().view(-1).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


LYING: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda y: y * 1,
    "cut": lambda y: torch.cat([y, y])[len(y) :],
    "scattered": lambda y: (y * 1).transpose(0, 1).contiguous().transpose(0, 1),
    "returned as a view": Viewed.apply,
}


@pytest.mark.parametrize("lying", LYING)
def test_an_output_is_changed_however_it_lies_in_memory(lying: str) -> None:
    made = deltas((0.0, 0.0, 0.0))
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    plain = torch.randn(6, 3, 6, dtype=torch.float64, requires_grad=True)
    updates = [d.scale * (x @ d.lora_A.weight.T @ d.lora_B.weight.T) for d in made]
    torch.testing.assert_close(made[0](x, LYING[lying](plain)), plain + updates[0])
    with torch.no_grad():
        torch.testing.assert_close(made[0](x, LYING[lying](plain)), plain + updates[0])
    several = LoraDelta.together(made, x, LYING[lying](plain))
    wanted = torch.cat([update[2 * at : 2 * at + 2] for at, update in enumerate(updates)])
    torch.testing.assert_close(several, plain + wanted)
