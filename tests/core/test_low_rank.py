"""Low-rank updates of several runs in one product are those of each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deltatune.core.delta import Clock, Delta
from deltatune.core.low_rank import SharedInput
from deltatune.core.model import AdaptedModel
from deltatune.methods.dora import DoraDelta
from deltatune.methods.lora import LoraConfig, LoraDelta
from deltatune.testing import tiny

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
    "of a layer with a bias": lambda y: functional.linear(y, torch.eye(6).double(), torch.zeros(6).double()),
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


def test_what_a_layer_with_a_bias_returns_is_not_copied() -> None:
    [delta, *_], layer = deltas((0.0, 0.0, 0.0)), nn.Linear(5, 6).double().requires_grad_(False)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y._is_view()
    found = delta(x, y)
    assert (found.shape, found.data_ptr()) == (y.shape, y.data_ptr())
    wanted = layer(x) + delta.scale * (x @ delta.lora_A.weight.T @ delta.lora_B.weight.T)
    torch.testing.assert_close(found, wanted)
    inputs = [x, *delta.parameters()]
    grads = [torch.autograd.grad(out.square().sum(), inputs) for out in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def sharing(dropout: float) -> list[LoraDelta]:
    """Deltas of three ranks at sites with one input."""
    made = deltas((dropout,) * 3)
    shared = SharedInput(made)
    for delta in made:
        delta.shared = shared
        delta.dropout.bind(Clock(1), "input")
    return made


def gradients(made: list[LoraDelta], xs: list[Tensor], x: Tensor) -> list[Tensor]:
    """Outputs at inputs `xs`, and gradients of a weighted sum of them."""
    outputs = [delta(own, torch.zeros(4, 6, dtype=x.dtype)) for delta, own in zip(made, xs, strict=True)]
    total = torch.cat(outputs).mul(torch.arange(12.0, dtype=x.dtype)[:, None]).sum()
    parameters = [p for delta in made for p in delta.parameters()]
    return [*outputs, *torch.autograd.grad(total, [x, *parameters])]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sites_that_share_an_input_are_each_alone(dropout: float) -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    made = sharing(dropout)
    found = gradients(made, [x, x, x], x)
    assert made[0].shared._made == {}
    assert made[0].shared._x is None
    made[0].shared.apart = True
    for one, other in zip(found, gradients(made, [x, x, x], x), strict=True):
        torch.testing.assert_close(one, other)
    undropped = made[0].eval()(x, torch.zeros(4, 6, dtype=x.dtype))
    assert torch.allclose(found[0], undropped) == (dropout == 0)


def test_sites_turn_out_to_have_different_inputs() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    made = sharing(0.0)
    for delta, single in zip(made, gradients(made, [x, x * 1, x], x)[:3], strict=True):
        torch.testing.assert_close(single, x @ delta.lora_A.weight.T @ delta.lora_B.weight.T * delta.scale)


def test_what_was_made_is_taken_once() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    made = sharing(0.0)
    for _ in range(2):  # the same tensor again, with other weights
        for delta in made:
            torch.nn.init.normal_(delta.lora_A.weight)
        for delta in made:
            wanted = x @ delta.lora_A.weight.T @ delta.lora_B.weight.T * delta.scale
            torch.testing.assert_close(delta(x, torch.zeros(4, 6, dtype=x.dtype)), wanted)


def test_a_pass_that_broke_off_leaves_nothing() -> None:
    adapter = AdaptedModel(tiny.model("llama")).attach("a", LoraConfig(targets=("query", "value")))
    query, value = list(adapter.deltas.values())[:2]
    assert isinstance(query, LoraDelta)
    x = torch.randn(3, query.lora_A.in_features)
    query(x, torch.zeros(3, query.lora_B.out_features)).sum().backward()
    assert id(value) in query.shared._made
    adapter.forget_pass(7)
    assert (query.shared._x, query.shared._made, adapter.clock.tick) == (None, {}, 7)
    assert all(parameter.grad is None for parameter in adapter.parameters())


@pytest.mark.parametrize(
    ("architecture", "sites", "inputs"), [("t5", 32, 22), ("llama", 14, 8), ("gpt2", 8, 8), ("bert", 14, 10)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_models_share_inputs_and_compute_the_same(
    architecture: str, sites: int, inputs: int, checkpointing: bool
) -> None:
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", LoraConfig(targets=("all-linear",), dropout=0.2), seed=3)
    assert (len(adapter.deltas), len(adapter._inputs)) == (sites, inputs)
    for name, parameter in adapter.trainable():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = tiny.batch(architecture)
    uncached = {"use_cache": False} if architecture in tiny.CAUSAL else {}
    model.gradient_checkpointing(checkpointing)
    model.train()
    found = []
    for apart in (False, True):
        adapter.cut(apart)
        adapter.clock.tick = 0
        model(**batch, **uncached).loss.backward()
        found.append([p.grad.clone() for _, p in adapter.trainable() if p.grad is not None])
        for _, parameter in adapter.trainable():
            parameter.grad = None
    assert len(found[0]) == 2 * sites
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
