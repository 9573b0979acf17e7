"""BitFit beside a plain loop that trains the biases of a copied model."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.building import close, loss

WITH_BIASES = ("bart", "gpt2", "opt", "bert", "vit", "qwen2")


@pytest.mark.parametrize("architecture", WITH_BIASES)
def test_bitfit_takes_the_steps_of_a_plain_loop_over_the_biases(architecture: str) -> None:
    """All biases of the copy are trained, those of keys too: where we leave them out they change nothing."""
    plain = tiny.model(architecture).requires_grad_(False)
    head = tiny.heads(architecture)
    trained = [
        p
        for n, p in plain.named_parameters()
        if n.endswith(".bias") or (head and n.startswith(f"{head[0]}."))
    ]
    for parameter in trained:
        parameter.requires_grad_()
    model = AdaptedModel(tiny.model(architecture), head)
    adapter = model.attach("a", METHODS.get("bitfit")())
    model.train()
    optimizers = [torch.optim.Adam(p, lr=1e-2) for p in (trained, [p for _, p in adapter.trainable()])]
    losses = []
    for step in range(20):
        batch = tiny.batch(architecture, seed=step % 4)
        if architecture in tiny.CLASSIFIERS:
            logits = plain(**{k: v for k, v in batch.items() if k != "labels"}).logits
            theirs = F.cross_entropy(logits, batch["labels"], reduction="sum")
        else:
            theirs = plain(**batch, use_cache=False).loss * _labels(architecture, batch)
        both = theirs, loss(model, batch)
        for optimizer, value in zip(optimizers, both, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        losses.append([value.item() for value in both])
    close(torch.tensor(losses)[:, 1], torch.tensor(losses)[:, 0], 1e-4)
    assert losses[-4][1] < losses[0][1] * 0.99


def _labels(architecture: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["labels"][:, 1:] if architecture in tiny.CAUSAL else batch["labels"]
    return (labels != -100).sum()


@pytest.mark.parametrize("architecture", WITH_BIASES)
def test_bitfit_finds_every_bias_that_matters(architecture: str) -> None:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    found = {path for path in model.attach("a", METHODS.get("bitfit")()).deltas if path != "classifier"}
    biases = {
        name.removesuffix(".bias") for name, _ in model.base.named_parameters() if name.endswith(".bias")
    }
    left_out = biases - found - {"classifier"}
    assert found <= biases
    assert all(path.endswith(("k_proj", "key")) for path in left_out)
    assert bool(left_out) == (architecture not in ("gpt2", "qwen2"))


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_base_without_biases_gets_them_at_its_linear_layers(architecture: str) -> None:
    model, batch = AdaptedModel(tiny.model(architecture)), tiny.batch(architecture)
    adapter = model.attach("a", METHODS.get("bitfit")())
    tiny.perturb(adapter)
    expected = model.labelled_logits(batch)[0]
    plain = tiny.model(architecture)
    for path, delta in adapter.deltas.items():
        linear = plain.get_submodule(path)
        assert isinstance(linear, torch.nn.Linear)
        linear.bias = delta.bias
    close(AdaptedModel(plain).labelled_logits(batch)[0], expected)
    idle = {"t5": 6, "llama": 0}[architecture]  # keys; with rotary positions their bias matters
    linear_layers = [m for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert len(adapter.deltas) == len(linear_layers) - idle
    with pytest.raises(AdapterError, match="cannot be written into weights"):
        model.merged()
    assert not any(name.endswith(".bias") for name in model.base.state_dict())
