"""What a frozen base computes in another way while it is trained on: the same to rounding, and only then."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.bert import modeling_bert
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.modernbert import modeling_modernbert
from transformers.models.t5 import modeling_t5

from deltatune.core.fast import lean, lean_attention, rotation
from deltatune.core.fast.lean import Lean
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny

TASKS = {
    "llama": "causal-lm",
    "gpt2": "causal-lm",
    "glm": "causal-lm",
    "mistral": "causal-lm",
    "t5": "text-to-text",
    "mt5": "text-to-text",
    "bart": "text-to-text",
    "bert": "text-classification",
    "vit": "image-classification",
}
KINDS = {
    "llama": {"LlamaRMSNorm", "LlamaMLP"},
    "glm": {"GlmRMSNorm", "GlmMLP"},
    "mistral": {"MistralRMSNorm", "MistralMLP"},
    "gpt2": {"NewGELUActivation"},
    "t5": {"T5LayerNorm"},
    "mt5": {"MT5LayerNorm", "MT5DenseGatedActDense", "NewGELUActivation"},
}
"""Classes of the small models that are replaced; those of BART, BERT and ViT need it not."""


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


BIASES = [
    (None, None),
    (double(1, 1, 3, 5, seed=3).detach(), None),
    (double(2, 1, 1, 5, seed=3).detach(), double(1, 4, 3, 5, seed=4).detach()),
    (double(2, 4, 3, 5, seed=3).detach(), double(1, 4, 1, 5, seed=4).detach()),
]
"""Masks and position biases of two rows, four heads, three queries and five keys."""


def test_gradients_by_finite_differences() -> None:
    x, weight = double(3, 4, 6), double(6, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: lean._RmsNorm.apply(x, w, 0.1), (x, weight))
    for activation in lean._ACTIVATIONS:
        gated = functools.partial(lambda kind, gate, up: lean._Gated.apply(gate, up, kind), activation)
        assert torch.autograd.gradcheck(gated, (double(3, 5), double(3, 5, seed=1)))
    for heads, bias in ((4, None), (2, double(1, 4, 3, 5, seed=3)), (1, double(2, 1, 1, 5, seed=3))):
        parts = double(2, 4, 3, 6), double(2, heads, 5, 6, seed=1), double(2, heads, 5, 6, seed=2), bias
        assert torch.autograd.gradcheck(lambda *parts: lean_attention._Attention.apply(*parts, 0.3), parts)
    for heads in (4, 2, 1):
        parts = double(2, 4, 3, 6), double(2, heads, 5, 6, seed=1), double(2, heads, 5, 6, seed=2)
        for biases in BIASES:
            long = functools.partial(lambda biases, *parts: lean_attention._LongAttention.apply(
                *parts, *biases, 0.3
            ), biases)  # fmt: skip
            assert torch.autograd.gradcheck(long, parts)


def test_values_are_the_formulas() -> None:
    x, weight = double(2, 3, 8), double(8, seed=1)
    expected = weight * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 0.1)
    torch.testing.assert_close(lean._RmsNorm.apply(x, weight, 0.1), expected)
    gate, up = double(3, 5), double(3, 5, seed=1)
    torch.testing.assert_close(lean._Gated.apply(gate, up, "silu"), gate * torch.sigmoid(gate) * up)
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    by_tanh = 0.5 * gate * (1 + torch.tanh(inner)) * up
    torch.testing.assert_close(lean._Gated.apply(gate, up, "gelu_tanh"), by_tanh)
    query, key, value = double(2, 4, 3, 6), double(2, 2, 5, 6, seed=1), double(2, 2, 5, 6, seed=2)
    mask = torch.zeros(3, 5, dtype=torch.float64).masked_fill(torch.ones(3, 5).triu(3) > 0, -1e9)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(lean_attention._Attention.apply(query, key, value, mask, 0.3), expected)


def test_rotations_have_the_bits_of_the_models_own() -> None:
    query, key = (double(2, 5, heads, 8, seed=heads).transpose(1, 2) for heads in (4, 2))
    cos, sin = (double(2, 5, 8, seed=seed).detach() for seed in (1, 2))
    assert rotation._rotates_halves(modeling_llama.apply_rotary_pos_emb)
    assert not rotation._rotates_halves(modeling_glm.apply_rotary_pos_emb)  # turns neighbours
    assert not rotation._rotates_halves(modeling_modernbert.apply_rotary_pos_emb)  # in float32, always
    with rotation.replaced([modeling_llama]), rotation.replaced([modeling_llama]):
        ours = modeling_llama.apply_rotary_pos_emb
        own = rotation._own(modeling_llama)
        found, wanted = ours(query, key, cos, sin), own(query, key, cos, sin)
    assert modeling_llama.apply_rotary_pos_emb is own
    weights = torch.randn_like(wanted[0])
    for one, other, of in zip(found, wanted, (query, key), strict=True):
        assert torch.equal(one, other)
        grads = [torch.autograd.grad((x * weights[:, : x.shape[1]]).sum(), of)[0] for x in (one, other)]
        assert torch.equal(*grads)
    part = cos[..., :4], sin[..., :4]  # of the width, which the file's own function may know to take
    with rotation.replaced([modeling_llama]), pytest.raises(RuntimeError):
        modeling_llama.apply_rotary_pos_emb(query, key, *part)


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_long_attention_is_the_formula(heads: int) -> None:
    parts = double(2, 4, 3, 6), double(2, heads, 5, 6, seed=1), double(2, heads, 5, 6, seed=2)
    for biases in BIASES:
        both = [bias for bias in biases if bias is not None]
        mask = sum(both[1:], both[0]) if both else None
        expected = F.scaled_dot_product_attention(*parts, mask, scale=0.3, enable_gqa=True)
        found = lean_attention._LongAttention.apply(*parts, *biases, 0.3)
        torch.testing.assert_close(found, expected)
        of_found, of_expected = (
            torch.autograd.grad(value, parts, torch.linspace(-1, 1, value.numel()).double().view_as(value))
            for value in (found, expected)
        )
        for one, other in zip(of_found, of_expected, strict=True):
            torch.testing.assert_close(one, other)


def trained(architecture: str, method: str) -> tuple[AdaptedModel, dict[str, Tensor]]:
    model = AdaptedModel(tiny.model(architecture, attention="sdpa"), tiny.heads(architecture))
    tiny.perturb(model.attach("a", METHODS.get(method)()), seed=1)
    return model.train(), tiny.batch(architecture)


def gradients(model: AdaptedModel, batch: dict[str, Tensor], task: str) -> list[Tensor]:
    loss = summed_loss(model, batch, task)
    loss.backward()
    return [loss.detach(), *(p.grad for _, p in model.adapter("a").trainable() if p.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "ln_tuning", "full", "ia3", "prefix"])
@pytest.mark.parametrize("architecture", TASKS)
def test_loss_and_gradients_are_those_of_the_base_itself(
    architecture: str, method: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    replaced: list[set[str]] = []
    of = lean._leaner
    for ours in (True, False):
        with monkeypatch.context() as patch:
            names: set[str] = set()

            def note(module: Any, names: set[str] = names, ours: bool = ours) -> Any:
                forward = of(module) if ours else None
                if forward is not None:
                    names.add(type(module).__name__)
                return forward

            patch.setattr(lean, "_leaner", note)
            if not ours:
                patch.setattr(lean_attention, "_attends_plainly", lambda *_: False)
                patch.setattr(rotation, "files_that_rotate", lambda _: [])
            model, batch = trained(architecture, method)
            model.gradient_checkpointing(checkpointing)
            found.append(gradients(model, batch, TASKS[architecture]))
            replaced.append(names)
    assert replaced == [KINDS.get(architecture, set()), set()]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_it_is_used_in_training_only_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    apply = lean._rms_norm
    monkeypatch.setattr(lean, "_rms_norm", lambda module, x: calls.append("norm") or apply(module, x))
    model, batch = trained("llama", "lora")
    summed_loss(model, batch, "causal-lm").backward()
    used = len(calls)
    assert used == sum(type(m).__name__ == "LlamaRMSNorm" for m in model.base.modules())
    assert not any("forward" in vars(module) for module in model.base.modules())
    model.eval()
    summed_loss(model, batch, "causal-lm")
    assert len(calls) == used

    model.train()
    with pytest.raises(AttributeError):
        model(input_ids=batch["input_ids"], attention_mask=object())
    assert not any("forward" in vars(module) for module in model.base.modules())


def test_what_others_have_replaced_stays_as_it_is() -> None:
    base = tiny.model("llama")
    norm = base.model.norm

    def forward(hidden_states: Tensor) -> Tensor:
        return hidden_states * 0

    norm.forward = forward
    with Lean(base).on():
        assert norm.forward is forward
        assert "forward" in vars(base.model.layers[0].mlp)
    assert vars(norm)["forward"] is forward
    assert "forward" not in vars(base.model.layers[0].mlp)


def test_hooks_on_an_activation_are_called() -> None:
    model, batch = trained("llama", "lora")
    seen: list[Tensor] = []
    handle = model.base.model.layers[0].mlp.act_fn.register_forward_hook(lambda *call: seen.append(call[2]))
    loss = summed_loss(model, batch, "causal-lm")
    handle.remove()
    assert len(seen) == 1
    torch.testing.assert_close(loss, summed_loss(model, batch, "causal-lm"))


def test_a_way_back_in_float32_is_used_as_it_is() -> None:
    """As Transformers loads a T5 in half precision."""
    model, batch = trained("mt5", "lora")
    model.base.bfloat16()
    blocks = [m for m in model.base.modules() if type(m).__name__ == "MT5DenseGatedActDense"]
    for block in blocks:
        block.wo.float()
    gradients(model, batch, "text-to-text")
    assert blocks


@pytest.mark.parametrize("architecture", ["llama", "mt5", "glm"])
def test_under_autocast_the_base_runs_its_own_code(architecture: str) -> None:
    model, batch = trained(architecture, "lora")
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_loss(model, batch, TASKS[architecture])
    loss.backward()
    exact = summed_loss(model, batch, TASKS[architecture])
    torch.testing.assert_close(loss.float(), exact, rtol=0.05, atol=0.05)


class ShiftedMLP(modeling_llama.LlamaMLP):
    """Has all the parts of Llama's, and another formula."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * (self.up_proj(x) + 1))


class CentredRMSNorm(modeling_llama.LlamaRMSNorm):
    """RMSNorm by name alone."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


def test_classes_that_compute_something_else_are_left_alone() -> None:
    assert lean._is_rms_norm(modeling_t5.T5LayerNorm)
    for kind in (GemmaRMSNorm, CentredRMSNorm, nn.LayerNorm):
        assert not lean._is_rms_norm(kind)
    assert lean._is_gated(modeling_llama.LlamaMLP, lean._GATES[0], "silu")
    assert not lean._is_gated(ShiftedMLP, lean._GATES[0], "silu")
    assert {name: lean._activation(type(ACT2FN[name])) for name in ("silu", "gelu_new", "gelu", "relu")} == {
        "silu": "silu", "gelu_new": "gelu_tanh", "gelu": "gelu", "relu": None,
    }  # fmt: skip


def own(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Any:
    return query, (rest, more)


def test_attention_is_its_own_code_where_its_shares_are_asked_for() -> None:
    module = tiny.model("bert").bert.encoder.layer[0].attention.self
    query = torch.randn(1, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    for asked in (False, None, True):
        _, shares = lean_attention.attention(module, query, query, query, None, output_attentions=asked)
        assert (shares is not None) == bool(asked)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dropout": 0.1},
        {"softcap": 50.0},
        {"output_attentions": True},
        {"s_aux": torch.zeros(4)},
        {"position_bias": torch.zeros(1)},
    ],
)
def test_attention_that_asks_for_more_runs_its_own_code(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_gemma2, "eager_attention_forward", own)
    module = modeling_gemma2.Gemma2Attention.__new__(modeling_gemma2.Gemma2Attention)
    query = torch.zeros(1, 4, 3, 8)
    result, (_, more) = lean_attention.attention(module, query, query, query, None, scaling=1.0, **arguments)
    assert result is query
    assert arguments.items() <= more.items()


def test_attention_in_another_formula_runs_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = modeling_bert.eager_attention_forward
    assert lean_attention._attends_plainly(plain, False, False)

    def sharper(module: Any, query: Tensor, *rest: Any, **more: Any) -> Any:
        return plain(module, query * 2, *rest, **more)

    assert not lean_attention._attends_plainly(sharper, False, False)


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, torch.no_grad, FakeTensorMode, lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_a_class_is_judged_the_same_wherever_it_is_first_met(mode: Callable[[], Any]) -> None:
    with mode():
        assert lean._is_rms_norm.__wrapped__(modeling_llama.LlamaRMSNorm)
        assert lean_attention._attends_plainly.__wrapped__(
            modeling_llama.eager_attention_forward, True, False
        )


@pytest.mark.parametrize("architecture", ["llama", "mt5"])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_base_itself(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = trained(architecture, "lora")
    exact = gradients(model, batch, TASKS[architecture])
    errors = []
    for ours in (True, False):
        with monkeypatch.context() as patch:
            if not ours:
                patch.setattr(lean, "_leaner", lambda _: None)
                patch.setattr(lean_attention, "_attends_plainly", lambda *_: False)
            model, batch = trained(architecture, "lora")
            model.base.bfloat16()
            found = gradients(model, batch, TASKS[architecture])
        errors.append(
            math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True)))
        )
    assert errors[0] < 1.25 * errors[1]
