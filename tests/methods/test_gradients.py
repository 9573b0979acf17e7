"""Gradients of every delta in double precision, against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from deltatune.core.delta import Delta, ModuleCopy
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraDelta
from deltatune.methods.bitfit import BiasDelta
from deltatune.methods.bottleneck import BottleneckDelta
from deltatune.methods.diff_pruning import GatedDelta
from deltatune.methods.dora import DoraDelta
from deltatune.methods.ia3 import Ia3InputDelta, Ia3OutputDelta
from deltatune.methods.ln_tuning import NormDelta
from deltatune.methods.lora import LoraDelta, LoraEmbeddingDelta
from deltatune.methods.miss import MissDelta
from deltatune.methods.oft import OftDelta
from deltatune.methods.pissa import PissaDelta
from deltatune.methods.shira import ShiraDelta
from deltatune.methods.vera import VeraDelta, VeraProjection
from deltatune.testing import tiny


def low_rank_start() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 5, generator=generator), torch.randn(4, 2, generator=generator)


DELTAS: dict[str, Callable[[], Delta]] = {
    "lora": lambda: LoraDelta(5, 4, 2, 0.7),
    "lora-dropout": lambda: LoraDelta(5, 4, 2, 0.7, 0.3),
    "lora-conv1d": lambda: LoraDelta(5, 4, 2, 0.7, transposed=True),
    "pissa": lambda: PissaDelta(*low_rank_start(), 0.7),
    "pissa-dropout": lambda: PissaDelta(*low_rank_start(), 0.7, 0.3),
    "vera": lambda: VeraDelta(VeraProjection(7, 6, 3, seed=0), 5, 4, 0.1),
    "adalora": lambda: AdaLoraDelta(5, 4, 3, 0.7),
    "diff_pruning": lambda: GatedDelta((4, 5), 0.0),
    "diff_pruning-structured": lambda: GatedDelta((5, 4), 0.0, structured=True, transposed=True),
    "adapter": lambda: BottleneckDelta(4, 4, 3),
    "adapter-scaled": lambda: BottleneckDelta(4, 4, 3, "tanh", 4.0),
    "bitfit": lambda: BiasDelta(4),
    "ia3": lambda: Ia3OutputDelta(4),
    "miss": lambda: MissDelta(4, 3),
    "miss-dropout": lambda: MissDelta(4, 2, 0.3),
    "shira": lambda: ShiraDelta(5, 4, 9),
    "module-copy": lambda: ModuleCopy(nn.Linear(5, 4)),
}


def varied(module: nn.Module) -> tuple[list[str], tuple[Tensor, ...]]:
    tiny.perturb(module)
    named = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    return list(named), tuple(named.values())


@pytest.mark.parametrize("name", DELTAS)
def test_gradients_of_a_delta(name: str) -> None:
    delta = DELTAS[name]().double()
    names, values = varied(delta)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 3, d, generator=generator, dtype=torch.float64).requires_grad_() for d in (5, 4))

    def run(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        # a copy of y, which a delta may overwrite
        return functional_call(delta, dict(zip(names, values, strict=True)), (x, y.clone()))

    assert run(x, y, *values).dtype == torch.float64
    assert torch.autograd.gradcheck(run, (x, y, *values))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_dora(dropout: float, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against differences at a constant norm: it follows A and B, without a gradient."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    delta = DoraDelta(lambda: weight, lambda: bias, 2, 0.7, dropout, transposed=transposed).double()
    names, values = varied(delta)
    x = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.nn.functional.linear(x.detach(), weight, bias).requires_grad_()

    def run(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        return functional_call(delta, dict(zip(names, values, strict=True)), (x, y))

    gradients = torch.autograd.grad(run(x, y, *values).square().sum(), values)
    norm = delta._norm()
    expected = torch.linalg.norm(weight + 0.7 * delta.lora_B.weight @ delta.lora_A.weight, dim=1)
    torch.testing.assert_close(norm, expected)
    monkeypatch.setattr(delta, "_norm", lambda: norm)
    assert torch.autograd.gradcheck(run, (x, y, *values))
    constant = torch.autograd.grad(run(x, y, *values).square().sum(), values)
    torch.testing.assert_close(gradients, constant)


BEFORE: dict[str, Callable[[], Delta]] = {
    "ia3": lambda: Ia3InputDelta(5),
    "oft": lambda: OftDelta(5, 5, 0),
    "oft-neumann": lambda: OftDelta(5, 5, 6),
}


@pytest.mark.parametrize("name", BEFORE)
def test_gradients_of_a_delta_at_the_input(name: str) -> None:
    delta = BEFORE[name]().double()
    names, values = varied(delta)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        for path, value in zip(names, values, strict=True):
            parameters: dict[str, Any] = delta.get_submodule(path.rpartition(".")[0])._parameters
            parameters[path.rpartition(".")[2]] = value
        return delta.before(x)

    assert run(x, *values).dtype == torch.float64
    assert torch.autograd.gradcheck(run, (x, *values))


class OnePlus(nn.RMSNorm):
    """Gemma's way: the weight is a deviation from one."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight + 1, self.eps)


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm, OnePlus])
def test_gradients_of_a_norms_copy(make: Callable[[int], nn.Module]) -> None:
    norm = make(5)
    tiny.perturb(norm, seed=4)
    delta = NormDelta(norm).double()
    norm.double()
    names, values = varied(delta)
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(delta, dict(zip(names, values, strict=True)), (x, norm(x)))

    torch.testing.assert_close(run(x, *values), delta.ln_tuning_layers(x))
    assert torch.autograd.gradcheck(run, (x, *values))


def test_gradients_of_an_embedding_delta() -> None:
    delta = LoraEmbeddingDelta(nn.Embedding(6, 4), 2, 0.7).double()
    names, values = varied(delta)
    ids = torch.tensor([[0, 5, 5], [2, 1, 0]])
    y = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(y: Tensor, *values: Tensor) -> Tensor:
        return functional_call(delta, dict(zip(names, values, strict=True)), (ids, y))

    assert torch.autograd.gradcheck(run, (y, *values))


@pytest.mark.parametrize("architecture", ["bart", "gpt2", "bert"])
@pytest.mark.parametrize("method", ["prefix", "prompt", "p_tuning_v2"])
@pytest.mark.parametrize("routed", [False, True])
def test_gradients_through_the_taps(architecture: str, method: str, routed: bool) -> None:
    """Of learned keys, values and vectors, through a whole model; T5 and Llama norm in single precision."""
    model = AdaptedModel(tiny.model(architecture).double())
    batch = tiny.batch(architecture, rows=3)
    adapters = []
    for seed, name in enumerate(("a", "b")):
        adapter = model.attach(name, METHODS.get(method)(n_tokens=1 + seed)).double()
        tiny.perturb(adapter, seed=seed)
        adapters.append(adapter)
    modules: list[Any] = [part for adapter in adapters for _, part in adapter.parts()]
    places = [(module, leaf) for module in modules for leaf in module._parameters]
    values = tuple(module._parameters[leaf].detach().clone().requires_grad_() for module, leaf in places)

    def run(*values: Tensor) -> Tensor:
        for (module, leaf), value in zip(places, values, strict=True):
            module._parameters[leaf] = value
        if architecture in tiny.CLASSIFIERS:
            return cross_entropy(model(**batch).logits, batch["labels"])
        return cross_entropy(*model.labelled_logits(batch))  # the models' own loss is in single precision

    if routed:
        with model.routing({"a": slice(0, 1), "b": slice(1, 3)}, 3):
            assert torch.autograd.gradcheck(run, values, fast_mode=True)
    else:
        model.use("a", "b")
        assert torch.autograd.gradcheck(run, values, fast_mode=True)
