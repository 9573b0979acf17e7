"""Launches that benchmarks/arithmetic.py counts on fake tensors are those of a real step."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS

SIZE = (32, 64, 0, 4, 2, 97)


@pytest.fixture(scope="module")
def arithmetic() -> Any:
    path = Path(__file__).parents[1] / "benchmarks/arithmetic.py"
    spec = importlib.util.spec_from_file_location("arithmetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def real(arithmetic: Any, layers: int) -> int:
    """Launches of a step on real tensors."""
    hidden, inner, _, heads, kv, vocabulary = SIZE
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, tie_word_embeddings=True,
    )  # fmt: skip
    model = AdaptedModel(LlamaForCausalLM(config).to(torch.bfloat16), eager_up_to=0)
    adapter = model.attach("a", METHODS.get("lora")(r=8, targets=("all-linear",)))
    parameters = [parameter for _, parameter in adapter.trainable()]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    model.train()
    ids = torch.randint(5, 90, (4, 128))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[0, -5:] = 0
    labels[:, :96] = -100
    labels[mask == 0] = -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    counts = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            given, made = (
                [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
                for tree in ((args, kwargs), out)
            )
            counts.append(arithmetic.launches(func, given, made))
            return out

    for _ in range(2):  # the optimizer's state comes into being in the first
        counts.clear()
        with Counting():
            summed_loss(model, batch, "causal-lm").backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
    return sum(counts)


@pytest.mark.slow
def test_launches_are_those_of_a_real_step(arithmetic: Any) -> None:
    two, three = (real(arithmetic, layers) for layers in (2, 3))
    fake_two, fake_three = (
        arithmetic.step("0.1B", "small", layers=layers, size=SIZE)[0].launches for layers in (2, 3)
    )
    assert three - two == fake_three - fake_two
    assert two == pytest.approx(fake_two, rel=0.03)
