"""The last layer at the positions that are read: the same logits and gradients, from less work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from deltatune.core import roles
from deltatune.core.fast import last_layer
from deltatune.core.fast.last_layer import READ_FIRST
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import stacks
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.building import close

SIZE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "vocab_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 2, "head_dim": 4}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "glm4": ("Glm4ForCausalLM", GROUPED),
    "gemma": ("GemmaForCausalLM", GROUPED),
    "gemma2": ("Gemma2ForCausalLM", GROUPED),
    "phi": ("PhiForCausalLM", SIZE),
    "falcon": ("FalconForCausalLM", SIZE),
    "electra": ("ElectraForSequenceClassification", {**SIZE, "embedding_size": 16}),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", SIZE),
}
"""Architectures of the tables of roles that `tiny` lacks."""
WORKING = {*tiny.CAUSAL, "bert", "roberta", "deberta-v2", "vit", "deit", *OTHERS} - {"mixtral"}
OWN_ATTENTION = {"falcon"}
"""Where learned keys and values have no way in."""
LEFT = {"t5", "bart", "dinov2", "clip", "mixtral"}
"""Read everywhere, or unknown by their roles."""


def built(architecture: str) -> Any:
    if architecture not in OTHERS:
        return tiny.model(architecture)
    name, settings = OTHERS[architecture]
    kind = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(kind.config_class(**settings, num_labels=3)).eval()


def batch_of(base: Any) -> dict[str, Tensor]:
    kind = type(base).__name__
    if base.config.model_type in tiny.MODELS:
        return tiny.batch(base.config.model_type, length=12) | labels_of(base)
    found = tiny.batch("bert" if "Classification" in kind else "llama", length=12)
    return found | labels_of(base)


def labels_of(base: Any) -> dict[str, Tensor]:
    """For language models, of a few tokens: one at the row's end, one amid it, four and two."""
    if base.config.model_type not in roles.TABLES and base.config.model_type != "mixtral":
        return {}
    if "Classification" in type(base).__name__ or base.config.is_encoder_decoder:
        return {}
    labels = torch.full((4, 12), -100)
    for row, places in enumerate(([11], [5], [6, 7, 8, 10], [1, 9])):
        labels[row, places] = torch.tensor(places) + 3
    return {"labels": labels}


def task_of(base: Any) -> str:
    if "Classification" in type(base).__name__:
        return "image-classification" if "pixel" in base.main_input_name else "text-classification"
    return "text-to-text" if base.config.is_encoder_decoder else "causal-lm"


def adapted(architecture: str, method: str = "lora", **settings: Any) -> AdaptedModel:
    base = built(architecture)
    model = AdaptedModel(base, tiny.heads(architecture) if architecture in tiny.MODELS else ())
    tiny.perturb(model.attach("a", METHODS.get(method)(**settings)), seed=1)
    return model.train()


def logits(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    return model.class_logits(batch) if batch["labels"].dim() == 1 else model.labelled_logits(batch)[0]


def plain_logits(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    """By the base's own forward pass."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if batch["labels"].dim() == 1:
        found: Tensor = model(**inputs).logits
        return found
    chosen: Tensor = model(**inputs).logits[:, :-1][batch["labels"][:, 1:] != -100]
    return chosen


def gradients(model: AdaptedModel, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for _, p in model.adapter("a").trainable() if p.grad is not None]


@contextlib.contextmanager
def positions(model: AdaptedModel) -> Iterator[list[int]]:
    """How many positions the feed-forward part of the last layer, and of the first, has worked at."""
    view, seen = model.view, []
    ways_back = list(view.by_role("mlp_out").values())
    handles = [
        module.register_forward_hook(lambda m, args, out: seen.append(out.numel() // out.shape[-1]))
        for module in (ways_back[-1], ways_back[0])
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        (architecture, method)
        for architecture in sorted(WORKING)
        for method in ("lora", "adapter", "ia3", "full", "prefix")
        if method != "prefix" or architecture not in OWN_ATTENTION
    ],
)
def test_logits_and_gradients_are_those_of_the_whole_layer(architecture: str, method: str) -> None:
    settings = {"targets": ("all-linear",)} if method == "lora" else {}
    model = adapted(architecture, method, **settings)
    batch = batch_of(model.base)
    task = task_of(model.base)
    with positions(model) as seen:
        found = logits(model, batch)
    first, last = sorted(seen, reverse=True)
    assert last <= 4 * 4  # four rows, and the most labels of a row
    assert first > 2 * last
    expected = plain_logits(model, batch)
    close(found, expected)
    targets = batch["labels"] if batch["labels"].dim() == 1 else batch["labels"][:, 1:]
    own = F.cross_entropy(expected.float(), targets[targets != -100], reduction="sum")
    pairs = zip(gradients(model, summed_loss(model, batch, task)), gradients(model, own), strict=True)
    for ours, theirs in pairs:
        close(ours, theirs)


@pytest.mark.parametrize("architecture", sorted(LEFT))
def test_what_is_read_everywhere_is_computed_everywhere(architecture: str) -> None:
    model = adapted(architecture)
    batch = batch_of(model.base)
    chosen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(last_layer._Part, "choose", lambda *arguments: chosen.append(arguments))
        logits(model, batch)
    assert not chosen


@pytest.mark.parametrize("name", sorted(READ_FIRST))
def test_a_classifier_of_the_list_reads_the_first_position_only(name: str) -> None:
    kind = getattr(transformers, name)
    settings = {**SIZE, "num_labels": 3, "embedding_size": 16}
    if "Image" in name:
        settings |= {"image_size": 16, "patch_size": 4}
    base = kind(kind.config_class(**settings)).eval()
    [stack] = stacks(base).values()
    caught: list[Tensor] = []

    def catch(module: Any, args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        caught[-1].retain_grad()

    stack[-1].register_forward_hook(catch)
    inputs = {k: v for k, v in tiny.batch("vit" if "Image" in name else "bert").items() if k != "labels"}
    base(**inputs).logits.sum().backward()
    [hidden] = caught
    assert hidden.grad is not None
    assert hidden.grad[:, 0].abs().min(dim=1).values.max() > 0
    assert not hidden.grad[:, 1:].any()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "vit"])
def test_adapters_of_different_rows_act_as_each_alone(architecture: str) -> None:
    model = adapted(architecture, targets=("all-linear",))
    tiny.perturb(model.attach("b", METHODS.get("lora")(targets=("all-linear",), r=4)), seed=2)
    batch = batch_of(model.base)
    parts = {"a": slice(0, 1), "b": slice(1, 4)}
    alone = []
    for name, rows in parts.items():
        with model.using(name):
            alone.append(plain_logits(model, tiny.rows_of(batch, rows)))
    with model.routing(parts, 4), positions(model) as seen:
        close(logits(model, batch), torch.cat(alone))
    assert min(seen) < max(seen)


def test_layers_that_are_computed_again_stay_whole() -> None:
    model = adapted("llama")
    model.gradient_checkpointing()
    batch = batch_of(model.base)
    with positions(model) as seen:
        found = logits(model, batch)
    assert len(set(seen)) == 1
    found.sum().backward()


def test_a_prompt_before_a_decoder_leaves_the_layer_whole() -> None:
    model = adapted("llama", "prompt", n_tokens=3)
    batch = batch_of(model.base)
    with positions(model) as seen:
        close(logits(model, batch), plain_logits(model, batch))
    assert len(set(seen)) == 1


@pytest.mark.parametrize("architecture", ["bert", "vit"])
def test_behind_a_prompt_a_classifier_reads_what_it_read_before(architecture: str) -> None:
    model = adapted(architecture, "prompt", n_tokens=3)
    batch = batch_of(model.base)
    with positions(model) as seen:
        close(logits(model, batch), plain_logits(model, batch))
    assert min(seen) == 4


def test_rows_that_are_nearly_all_labels_are_computed_whole() -> None:
    model = adapted("llama")
    batch = batch_of(model.base)
    batch["labels"][0] = 5
    with positions(model) as seen:
        close(logits(model, batch), plain_logits(model, batch))
    assert len(set(seen)) == 1


def test_nothing_stays_behind_a_pass_that_fails() -> None:
    model = adapted("llama")
    batch = batch_of(model.base)
    batch["input_ids"] = batch["input_ids"] + 1000
    with pytest.raises(IndexError):
        logits(model, batch)
    hooks = [h for part in model.fast.last_layer._parts for m in part for h in m._forward_hooks.values()]
    assert all(type(getattr(hook, "__self__", None)) is not last_layer._Part for hook in hooks)
