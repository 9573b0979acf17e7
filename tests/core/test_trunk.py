"""The layers below all deltas are replaced by what they gave: same losses and gradients, or not at all."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from deltatune.core.fast.trunk import Trunk, trunk_of
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import building, tiny
from deltatune.testing.building import anatomy, close

ROLES = ("query", "value", "mlp_out")


def adapted(name: str, method: str = "lora", **settings: Any) -> AdaptedModel:
    options = {"base_dropout": settings.pop("base_dropout", False)}
    model = AdaptedModel(tiny.model(name), tiny.heads(name), **options)
    tiny.perturb(model.attach("a", METHODS.get(method)(**settings)))
    return model.eval()


def last_layer(name: str, *, inside: str = "") -> list[str]:
    """Paths of the last layer's linear modules, `inside` the encoder or decoder if there are two stacks."""
    view = AdaptedModel(tiny.model(name), tiny.heads(name)).view
    paths = [path for role in ROLES if name != "mixtral" or role != "mlp_out" for path in view.by_role(role)]
    return [p for p in paths if re.search(rf"\b(layers?|h)\.{tiny.LAYERS - 1}\.", p) and inside in p]


def task_of(name: str) -> str:
    return "text-classification" if name in tiny.CLASSIFIERS else "causal-lm"


def recorded(model: AdaptedModel, trunk: Trunk, name: str, batch: Mapping[str, Tensor]) -> Tensor:
    """Each row recorded on its own without padding, and padded with zeros again."""
    found = []
    for row in range(len(batch["labels"])):
        one = tiny.rows_of(dict(batch), slice(row, row + 1))
        width = int(one["attention_mask"].sum()) if "attention_mask" in one else None
        texts = ("input_ids", "attention_mask", "token_type_ids")
        keys = (*texts, *(("labels",) if name in tiny.CAUSAL else ()))
        hidden = trunk.record({k: v[:, :width] if k in keys else v for k, v in one.items()}, task_of(name))
        assert hidden is not None
        found.append(hidden[0])
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def step(model: AdaptedModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a training step, with the dropout masks of the first."""
    adapter = model.adapter("a")
    adapter.clock.tick = 0
    model.train()
    loss = building.loss(model, batch)
    loss.backward()
    model.eval()
    return loss.detach(), building.gradients(adapter)


def same_with_and_without(model: AdaptedModel, name: str, what: str) -> None:
    batch = tiny.batch(name)
    trunk = trunk_of(model, "a")
    assert trunk is not None
    assert trunk.what == what
    hidden = recorded(model, trunk, name, batch)
    before = anatomy(model.base)
    loss, gradients = step(model, batch)
    assert gradients
    assert all(bool(gradient.any()) for gradient in gradients.values())
    fired = model.fired()
    replaced = list(trunk._modules[0].modules())[1:]
    handles = [m.register_forward_hook(lambda *_: pytest.fail("the trunk ran")) for m in replaced]
    with trunk.replaying(hidden):
        replayed, others = step(model, batch)
    for handle in handles:
        handle.remove()
    close(replayed, loss)
    assert others.keys() == gradients.keys()
    for key, gradient in gradients.items():
        close(others[key], gradient, 1e-4)
    assert all(model.fired()[site] > calls for site, calls in fired.items())
    assert anatomy(model.base) == before
    assert not any("forward" in module.__dict__ for module in model.base.modules())
    with torch.no_grad():
        plain = building.logits(model, batch)
        with trunk.replaying(hidden.flip(-1)):
            other = building.logits(model, batch)
    assert (other - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", sorted({*tiny.ARCHITECTURES} - {"t5", "mt5", "bloom"}))
def test_layers_below_the_last_are_replaced_exactly(name: str, checkpointing: bool) -> None:
    encoder = "encoder" if name in tiny.SEQ2SEQ else ""
    model = adapted(name, r=2, dropout=0.2, targets=last_layer(name, inside=encoder))
    if checkpointing:
        model.gradient_checkpointing(True)
    same_with_and_without(model, name, "layer 0 of 2")


@pytest.mark.parametrize("scope", ["decoder", "cross"])
@pytest.mark.parametrize("name", tiny.SEQ2SEQ)
def test_an_untouched_encoder_is_replaced_exactly(name: str, scope: str) -> None:
    targets = [f"{scope}.query", f"{scope}.value"]
    same_with_and_without(adapted(name, r=2, dropout=0.2, targets=targets), name, "the encoder")


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_learned_keys_and_values_are_sites(name: str) -> None:
    same_with_and_without(adapted(name, "prefix", n_tokens=3, scopes=["cross"]), name, "the encoder")
    with_encoder = adapted(name, "prefix", n_tokens=3, scopes=["encoder", "cross"])
    assert trunk_of(with_encoder, "a") is None


@pytest.mark.parametrize("name", ["bert", "dinov2"])
def test_a_new_head_stands_on_all_layers(name: str) -> None:
    same_with_and_without(adapted(name, "ia3", targets=[], feedforward=[]), name, "layers 0-1 of 2")


def test_an_output_head_stands_on_all_layers() -> None:
    same_with_and_without(adapted("llama", r=2, targets=["lm_head"]), "llama", "layers 0-1 of 2")


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("llama", "lora", {"targets": ["value"]}),
        ("t5", "lora", {"targets": ["encoder.block.0.*"]}),
        ("llama", "lora", {"targets": ["model.layers.1.*"], "base_dropout": True}),
        ("llama", "full", {}),
        ("llama", "prompt", {"n_tokens": 2}),
        ("llama", "prefix", {"n_tokens": 2}),
        ("bart", "prompt", {"n_tokens": 2}),
    ],
)
def test_no_trunk_where_the_bottom_changes(name: str, method: str, settings: dict[str, Any]) -> None:
    assert trunk_of(adapted(name, method, **settings), "a") is None


@pytest.mark.parametrize("name", ["t5", "bloom"])
def test_layers_that_give_on_more_than_hidden_states_are_left_alone(name: str) -> None:
    """T5's first block makes the position biases of all; BLOOM's return their attention beside the states."""
    targets = ["encoder.block.1.layer.0.*.q"] if name == "t5" else last_layer(name)
    model = adapted(name, r=2, targets=targets)
    trunk = trunk_of(model, "a")
    assert trunk is not None
    assert trunk.record(tiny.batch(name), task_of(name)) is None


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_delta_that_acts_before_the_layers_is_noticed(name: str) -> None:
    """BERT's norm of the embeddings lies in front of its stack, GPT-2's last norm behind it."""
    norm = {"bert": "embeddings.LayerNorm", "gpt2": "transformer.ln_f"}[name]
    model = adapted(name, "ln_tuning", targets=[norm])
    trunk = trunk_of(model, "a")
    assert trunk is not None
    assert (trunk.record(tiny.batch(name), task_of(name)) is None) == (name == "bert")


def test_an_error_leaves_nothing_behind() -> None:
    model = adapted("bert", r=2, targets=last_layer("bert"))
    trunk = trunk_of(model, "a")
    assert trunk is not None
    hidden = trunk.record(tiny.batch("bert"), task_of("bert"))
    assert hidden is not None

    def own(*args: Any, **kwargs: Any) -> Any:  # as other libraries put around a layer
        return hidden

    trunk._modules[0].forward = own
    with pytest.raises(RuntimeError, match="stop"), trunk.replaying(hidden):
        raise RuntimeError("stop")
    assert trunk._modules[0].__dict__["forward"] is own
    del trunk._modules[0].forward
    with pytest.raises(RuntimeError, match="stop"), trunk.replaying(hidden):
        raise RuntimeError("stop")
    assert "forward" not in trunk._modules[0].__dict__


def test_what_was_recorded_is_let_go_of_during_the_pass() -> None:
    """As the output of a layer would be: no more memory is needed than without."""
    model = adapted("llama", r=2, targets=["lm_head"])
    trunk = trunk_of(model, "a")
    assert trunk is not None
    hidden = trunk.record(tiny.batch("llama"), "causal-lm")
    assert hidden is not None
    alive = []
    reference = weakref.ref(hidden)
    head = model.base.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: alive.append(reference() is not None))
    context = trunk.replaying(hidden)
    del hidden
    with torch.no_grad(), context:
        building.loss(model, tiny.batch("llama"))
    handle.remove()
    assert alive == [False]
