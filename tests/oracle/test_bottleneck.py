"""Bottleneck adapters beside references that are written into copied models, sub-layer by sub-layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError
from deltatune.methods import METHODS
from deltatune.methods.bottleneck import FeedForwardInput
from deltatune.testing import tiny
from deltatune.testing.building import close, logits, loss

WIDTH = 3
FUNCTIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class After(nn.Module):
    """h = y + A(y), y the output of a sub-layer's last projection."""

    def __init__(self, inner: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    @property
    def weight(self) -> Any:
        """T5 asks for its dtype."""
        return self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y + self.adapter(y)


class Beside(After):
    """h = ffn(x) + 4 A(x), around a whole feed-forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 4 * self.adapter(x)


ATTENTION_ENDS = {
    "t5": (
        *(f"encoder.block.{n}.layer.0.SelfAttention.o" for n in (0, 1)),
        *(f"decoder.block.{n}.layer.0.SelfAttention.o" for n in (0, 1)),
        *(f"decoder.block.{n}.layer.1.EncDecAttention.o" for n in (0, 1)),
    ),
    "llama": tuple(f"model.layers.{n}.self_attn.o_proj" for n in (0, 1)),
    "gpt2": tuple(f"transformer.h.{n}.attn.c_proj" for n in (0, 1)),
    "bert": tuple(f"bert.encoder.layer.{n}.attention.output.dense" for n in (0, 1)),
}
FEED_FORWARDS = {
    "t5": tuple(
        f"{stack}.block.{n}.layer.{place}.DenseReluDense"
        for stack, place in (("encoder", 1), ("decoder", 2))
        for n in (0, 1)
    ),
    "mt5": tuple(
        f"{stack}.block.{n}.layer.{place}.DenseReluDense"
        for stack, place in (("encoder", 1), ("decoder", 2))
        for n in (0, 1)
    ),
    "llama": tuple(f"model.layers.{n}.mlp" for n in (0, 1)),
    "gpt2": tuple(f"transformer.h.{n}.mlp" for n in (0, 1)),
}
LAST = {"t5": ".wo", "mt5": ".wo", "llama": ".down_proj", "gpt2": ".c_proj"}


def ends(architecture: str) -> tuple[str, ...]:
    """The last projections of the feed-forwards."""
    if architecture == "bert":
        return tuple(f"bert.encoder.layer.{n}.output.dense" for n in (0, 1))
    return tuple(path + LAST[architecture] for path in FEED_FORWARDS[architecture])


def sequential(delta: Any, function: str) -> nn.Module:
    """The trained layers of ours as plain modules, with the parameters shared."""
    return nn.Sequential(delta.down, FUNCTIONS[function](), delta.up)


def put(model: nn.Module, path: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, wrap(model.get_submodule(path)))


def beside_in_bert(layer: Any, adapter: nn.Module) -> None:
    """BERT's feed-forward is no module of its own: a layer's chunk is written out."""

    def chunk(x: Tensor) -> Tensor:
        y = layer.output.dense(F.gelu(layer.intermediate.dense(x)))
        return layer.output.LayerNorm(y + 4 * adapter(x) + x)

    layer.feed_forward_chunk = chunk


def written_out(kind: str, architecture: str, function: str, adapter: Any) -> Any:
    """A copy of the base with the adapters as its own modules."""
    plain = tiny.model(architecture)
    for end in ends(architecture):
        own = sequential(adapter.deltas[end], function)
        if kind != "parallel":
            put(plain, end, lambda inner, own=own: After(inner, own))
        elif architecture == "bert":
            beside_in_bert(plain.get_submodule(end.removesuffix(".output.dense")), own)
        else:
            whole = end.removesuffix(LAST[architecture])
            put(plain, whole, lambda inner, own=own: Beside(inner, own))
    for end in ATTENTION_ENDS[architecture] if kind == "houlsby" else ():
        own = sequential(adapter.deltas[end], function)
        put(plain, end, lambda inner, own=own: After(inner, own))
    return plain


MODELS = [
    *((kind, a) for kind in ("houlsby", "pfeiffer", "parallel") for a in ("t5", "llama", "gpt2", "bert")),
    ("pfeiffer", "mt5"),
    ("parallel", "mt5"),
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("kind", "architecture"), MODELS)
def test_logits_and_gradients_are_those_of_the_written_out_model(
    kind: str, architecture: str, checkpointing: bool
) -> None:
    function = {"houlsby": "gelu", "pfeiffer": "relu", "parallel": "silu"}[kind]
    model, batch = AdaptedModel(tiny.model(architecture)), tiny.batch(architecture)
    config = METHODS.get("adapter")(kind=kind, bottleneck=WIDTH, non_linearity=function)
    adapter = model.attach("a", config)
    tiny.perturb(adapter)
    reference = AdaptedModel(written_out(kind, architecture, function, adapter))
    adapter.requires_grad_(True)  # wrapping the reference froze the parameters they share
    model.train()
    model.gradient_checkpointing(checkpointing)
    close(logits(model, batch), logits(reference, batch))
    found = []
    for made in (model, reference):
        loss(made, batch).backward()
        found.append({name: p.grad.clone() for name, p in adapter.trainable() if p.grad is not None})
        adapter.zero_grad()
    assert found[0].keys() == dict(adapter.trainable()).keys()
    for name, gradient in found[0].items():
        close(gradient, found[1][name])


def test_the_feed_forwards_input_is_given_out_once() -> None:
    model = AdaptedModel(tiny.model("llama"))
    adapter = model.attach("a", METHODS.get("adapter")(kind="parallel", bottleneck=WIDTH))
    notes = [delta for delta in adapter.deltas.values() if isinstance(delta, FeedForwardInput)]
    assert len(notes) == 2
    logits(model, tiny.batch("llama"))
    for note in notes:
        assert note._noted is None
        with pytest.raises(DeltatuneError, match="without its first"):
            note.take()


def test_adapters_cannot_be_merged() -> None:
    model = AdaptedModel(tiny.model("t5"))
    model.attach("a", METHODS.get("adapter")())
    with pytest.raises(AdapterError, match="cannot be written into weights"):
        model.merged()


@pytest.mark.parametrize(
    ("kind", "scale", "expected"), [("houlsby", None, 1), ("pfeiffer", 0.5, 0.5), ("parallel", None, 4)]
)
def test_the_scale_is_four_beside_and_one_after(kind: str, scale: float | None, expected: float) -> None:
    config = METHODS.get("adapter")(kind=kind, scale=scale)
    deltas: dict[str, Any] = AdaptedModel(tiny.model("bert")).attach("a", config).deltas
    assert deltas["bert.encoder.layer.0.output.dense"].scale == expected


def test_rows_are_routed_to_adapters_of_two_widths() -> None:
    """Rows of two adapters of different width, in a model whose feed-forward spans sibling modules."""
    model, batch = AdaptedModel(tiny.model("bert")), tiny.batch("bert")
    for name, width in (("a", 2), ("b", 5)):
        config = METHODS.get("adapter")(kind="parallel", bottleneck=width)
        tiny.perturb(model.attach(name, config), seed=width)
    alone = []
    for name, rows in (("b", slice(0, 1)), ("a", slice(2, 4))):
        model.use(name)
        alone.append(logits(model, tiny.rows_of(batch, rows)))
    with model.routing({"b": slice(0, 1), "a": slice(2, 4)}, 4):
        together = logits(model, batch)
    close(together[:1], alone[0])
    close(together[2:], alone[1])
    with model.using():
        close(together[1:2], logits(model, tiny.rows_of(batch, slice(1, 2))))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_non_linearity_acts(function: str) -> None:
    model = AdaptedModel(tiny.model("bert"))
    adapter = model.attach("a", METHODS.get("adapter")(kind="pfeiffer", non_linearity=function))
    tiny.perturb(adapter)
    delta: Any = next(iter(adapter.deltas.values()))
    y = torch.randn(2, 5, tiny.D)
    close(delta(y, y), y + sequential(delta, function)(y))
