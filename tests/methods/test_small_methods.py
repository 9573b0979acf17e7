"""Settings, starts, selection and sizes of adapters, BitFit, (IA)3, LN tuning, OFT, MiSS and SHiRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.methods.ia3 import Ia3InputDelta, Ia3OutputDelta
from deltatune.methods.ln_tuning import norm_classes
from deltatune.testing import tiny
from deltatune.training.given.budget import sized_for

NAMES = ("adapter", "bitfit", "ia3", "ln_tuning", "oft", "miss", "shira")


def attached(architecture: str, method: str, **config: Any) -> Any:
    return AdaptedModel(tiny.model(architecture)).attach("a", METHODS.get(method)(**config))


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("adapter", {"kind": "compacter"}),
        ("adapter", {"bottleneck": 0}),
        ("adapter", {"non_linearity": "softmax"}),
        ("adapter", {"scale": 0}),
        ("bitfit", {"targets": []}),
        ("ia3", {"r": 8}),
        ("ln_tuning", {"targets": []}),
        ("oft", {"block_size": 1}),
        ("oft", {"neumann_terms": 3}),
        ("oft", {"neumann_terms": -1}),
        ("miss", {"r": 0}),
        ("miss", {"dropout": 1}),
        ("shira", {"r": 0}),
    ],
)
def test_impossible_settings_are_refused(method: str, config: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        METHODS.get(method)(**config)


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("bitfit", {"targets": ["biases"]}, "matches no module"),
        ("ia3", {"targets": ["keys"]}, "matches no module"),
        ("ln_tuning", {"targets": ["q_proj"]}, "matches no module"),
        ("miss", {"r": 17}, "cannot be cut so wide"),
        ("shira", {"r": 6}, "asks for 144 entries"),
    ],
)
def test_impossible_targets_are_refused(method: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        attached("llama", method, **config)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_norms_are_recognised_by_what_they_are(architecture: str) -> None:
    """By class name here, which the program does not look at."""
    base = tiny.model(architecture)
    named = {type(m) for m in base.modules() if type(m).__name__.endswith("Norm")}
    assert set(norm_classes(BaseView(base))) == named


def test_a_base_without_norms_is_refused() -> None:
    base = tiny.model("bert")
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, nn.Identity())
    with pytest.raises(TargetError, match="no norm layers"):
        AdaptedModel(base).attach("a", METHODS.get("ln_tuning")())


def test_the_norms_of_a_base_in_bfloat16_are_recognised() -> None:
    for architecture in ("t5", "llama", "bert"):
        assert norm_classes(BaseView(tiny.model(architecture).bfloat16()))


@pytest.mark.parametrize("make", [lambda: nn.PReLU(16), lambda: nn.BatchNorm1d(16), lambda: nn.Linear(4, 4)])
def test_other_layers_are_no_norms(make: Any) -> None:
    base = tiny.model("llama")
    base.add_module("other", make())
    assert [kind.__name__ for kind in norm_classes(BaseView(base))] == ["LlamaRMSNorm"]


def test_the_smaller_set_of_bitfit() -> None:
    adapter = attached("bert", "bitfit", targets=["query", "mlp_in"])
    assert {path.rpartition(".")[2] for path in adapter.deltas} == {"query", "dense"}
    assert len(adapter.deltas) == 4
    assert all(not delta.bias.any() for delta in adapter.deltas.values())


def test_ia3_scales_outputs_of_keys_and_values_and_inputs_of_the_second_layer() -> None:
    adapter = attached("t5", "ia3")
    kinds = {path.rpartition(".")[2]: type(delta) for path, delta in adapter.deltas.items()}
    assert kinds == {"k": Ia3OutputDelta, "v": Ia3OutputDelta, "wo": Ia3InputDelta}
    assert all((delta.ia3_l == 1).all() for delta in adapter.deltas.values())


def test_an_encoder_decoder_has_an_adapter_after_its_cross_attention() -> None:
    paths = attached("t5", "adapter", kind="houlsby").deltas
    assert sum("EncDecAttention.o" in path for path in paths) == tiny.LAYERS
    assert len(paths) == 2 * tiny.LAYERS + 3 * tiny.LAYERS


def test_an_adapter_starts_as_nothing_but_learns_at_once() -> None:
    delta = next(iter(attached("bert", "adapter").deltas.values()))
    y = torch.randn(2, 3, tiny.D)
    out = delta(y, y)
    assert torch.equal(out, y)
    out.square().sum().backward()
    assert delta.up.weight.grad.any()
    assert not delta.down.weight.grad.any()


@pytest.mark.parametrize(
    ("method", "config", "size", "count"),
    [
        ("adapter", {}, 2, 10 * (2 * 16 * 2 + 2 + 16)),
        ("oft", {}, 7, 12 * 16 * 7 // 2),  # 8 is the divisor of 16 nearest to 7
        ("miss", {}, 4, 12 * 4 * 16),
        ("shira", {}, 2, 12 * 2 * 32),
    ],
)
def test_a_budget_sets_the_size(method: str, config: dict[str, Any], size: int, count: int) -> None:
    view = BaseView(tiny.model("t5"))
    total = sum(p.numel() for p in view.base.parameters())
    sized, budget = sized_for(METHODS.get(method)(**config), view, 800, total)
    assert (budget.value, budget.trained) == (size, count)
    assert getattr(sized, str(budget.size)) == size


@pytest.mark.parametrize("name", NAMES)
def test_the_explanation_is_complete(name: str) -> None:
    config = METHODS.get(name)
    for text in (config.title, config.formula, config.when, config.cost, config.defaults, config.paper):
        assert len(text) > 10
