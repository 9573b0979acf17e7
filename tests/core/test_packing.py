"""Rows packed into one: loss and gradients of padded rows, with every method; no row sees another."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import transformers
from tests.contract.cases import CASES
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.fast.layout import Layout, layout
from deltatune.core.fast.packing import why_not
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.building import adapted, anatomy, close

PACKED = tuple(name for name in tiny.CAUSAL if name != "bloom")
BY_METHOD = {case.method: case for case in reversed(CASES)}
SIZE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "vocab_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 2, "head_dim": 4}
WINDOWED = {**GROUPED, "sliding_window": 3}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, window": ("MistralForCausalLM", WINDOWED),
    "gemma2, window": ("Gemma2ForCausalLM", WINDOWED),
    "gemma3, window": (
        "Gemma3ForCausalLM",
        {**WINDOWED, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "phi": ("PhiForCausalLM", SIZE),
    "gpt-oss": ("GptOssForCausalLM", {**WINDOWED, "num_local_experts": 2, "num_experts_per_tok": 1}),
}  # fmt: skip
"""Architectures whose attention is of other kinds: within windows, with sinks."""


def ragged(length: int = 14, rows: int = 5) -> dict[str, Tensor]:
    """Rows of 14, 3, 9, 14 and 1 or so tokens, of which the later part is learned."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([14, 3, 9, 14, 2, 6, 11][:rows]).clamp(max=length)
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(3, tiny.VOCABULARY, (rows, length), generator=generator) * mask
    labels = ids.masked_fill((mask == 0) | (torch.arange(length) < lengths[:, None] // 2), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def measured(model: AdaptedModel, batch: dict[str, Tensor], *, packed: bool) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a training step, with the dropout masks of the first."""
    adapter = model.adapter("a")
    adapter.clock.tick = 0
    model.train()
    model.zero_grad()
    with model.fast.packing.use(packed):
        loss = summed_loss(model, batch, "causal-lm")
        if loss.requires_grad:
            loss.backward()
    return loss.detach(), [p.grad.clone() for _, p in adapter.trainable() if p.grad is not None]


def require_same(model: AdaptedModel, batch: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    with watched(model) as seen:
        loss, gradients = measured(model, batch, packed=True)
    assert (1, "in one row") in seen, "nothing was packed"
    wanted, others = measured(model, batch, packed=False)
    close(loss, wanted, tolerance)
    assert len(gradients) == len(others)
    for ours, theirs in zip(gradients, others, strict=True):
        close(ours, theirs, tolerance)


@contextlib.contextmanager
def watched(model: AdaptedModel) -> Any:
    """How the layers of the base are given their rows."""
    seen: set[tuple[int, str]] = set()

    def look(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.add((len(hidden), "in one row" if layout() else "apart"))

    from deltatune.core.sites import stacks

    [stack] = stacks(model.base).values()
    handle = stack[0].register_forward_pre_hook(look, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.parametrize("method", [m for m, case in BY_METHOD.items() if case.settings().trains])
def test_every_method_gets_the_loss_and_gradients_of_padded_rows(method: str) -> None:
    case = BY_METHOD[method]
    architecture = "gpt2" if case.refused("llama") else "llama"
    if case.refused(architecture):
        pytest.skip("it is not for decoders")
    model = adapted(case, architecture)
    require_same(model, ragged())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "full"])
@pytest.mark.parametrize("architecture", PACKED)
def test_every_architecture_gets_the_loss_and_gradients_of_padded_rows(
    architecture: str, method: str, attention: str
) -> None:
    eager_up_to = 0 if attention == "eager" else 256
    for up_to in {0, eager_up_to}:
        model = adapted(BY_METHOD[method], architecture, attention=attention, eager_up_to=up_to)
        require_same(model, ragged())


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_windows_and_sinks_are_those_of_each_row(name: str, method: str) -> None:
    kind, settings = OTHERS[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"this Transformers has no {kind}")
    made = getattr(transformers, kind)
    torch.manual_seed(0)
    model = AdaptedModel(made(made.config_class(**settings)).eval())
    tiny.perturb(model.attach("a", METHODS.get(method)()), seed=1)
    require_same(model, ragged())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("method", "settings"), [
    ("lora", {"targets": ("all-linear",), "dropout": 0.3}),
    ("dora", {"dropout": 0.3}),
])  # fmt: skip
def test_masks_of_dropout_are_those_of_padded_rows(
    method: str, settings: dict[str, Any], checkpointing: bool
) -> None:
    model = AdaptedModel(tiny.model("llama"))
    tiny.perturb(model.attach("a", METHODS.get(method)(**settings)), seed=1)
    model.gradient_checkpointing(checkpointing)
    require_same(model, ragged())


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_layers_that_are_computed_again_pack_both_times(method: str) -> None:
    model = adapted(BY_METHOD[method], "llama")
    model.gradient_checkpointing()
    require_same(model, ragged())


def test_long_rows_in_bfloat16() -> None:
    model = adapted(BY_METHOD["lora"], "llama")
    model.base.to(torch.bfloat16)
    batch = ragged(length=64, rows=3)
    require_same(model, batch, tolerance=4e-2)


def test_a_row_does_not_see_the_others() -> None:
    """Whatever stands in the other rows, a row's logits stay, bit for bit."""
    model = adapted(BY_METHOD["lora"], "llama").train()
    batch = ragged()
    other = dict(batch)
    other["input_ids"] = torch.cat([batch["input_ids"][:1], (batch["input_ids"][1:] + 7) % tiny.VOCABULARY])
    mine = int((batch["labels"][0, 1:] != -100).sum())
    with model.fast.packing.use(True), torch.no_grad():
        first, second = (model.labelled_logits(rows)[0] for rows in (batch, other))
    assert torch.equal(first[:mine], second[:mine])
    assert not torch.equal(first[mine:], second[mine:])


def test_layers_work_on_the_tokens_alone() -> None:
    model = adapted(BY_METHOD["lora"], "llama").train()
    batch = ragged()
    seen = []
    [first, *_] = model.view.by_role("mlp_in").values()
    handle = first.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[:-1])))
    with model.fast.packing.use(True):
        model.labelled_logits(batch)
    handle.remove()
    assert seen == [(1, int(batch["attention_mask"].sum()))]


def test_the_last_layer_works_at_the_labels() -> None:
    model = adapted(BY_METHOD["lora"], "llama").train()
    batch = ragged()
    seen = []
    last = list(model.view.by_role("mlp_out").values())[-1]
    last.register_forward_hook(lambda m, args, out: seen.append(out.numel() // out.shape[-1]))
    with model.fast.packing.use(True):
        model.labelled_logits(batch)
    assert seen == [int((batch["labels"][:, 1:] != -100).sum())]


def test_nothing_is_packed_where_nothing_is_padded_or_rows_are_routed() -> None:
    model = adapted(BY_METHOD["lora"], "llama").train()
    whole = {name: value[[0, 3]] for name, value in ragged().items()}
    with watched(model) as seen, model.fast.packing.use(True):
        model.labelled_logits(whole)
        model.labelled_logits({name: value[1:2] for name, value in ragged().items()})
        with model.routing({"a": slice(0, 2)}, 5):
            model.labelled_logits(ragged())
        model.eval().labelled_logits(ragged())
    assert {kind for _, kind in seen} == {"apart"}


def test_nothing_stays_behind_a_pass_or_one_that_fails() -> None:
    model = adapted(BY_METHOD["lora"], "llama").train()
    before = anatomy(model.base)
    with model.fast.packing.use(True):
        model.labelled_logits(ragged())
        wrong = ragged()
        wrong["input_ids"] = wrong["input_ids"] + 1000
        with pytest.raises(IndexError):
            model.labelled_logits(wrong)
    assert layout() is None
    assert anatomy(model.base) == before


def test_bases_that_count_places_or_step_from_token_to_token_are_told() -> None:
    assert "counts positions" in str(why_not(AdaptedModel(tiny.model("bloom")).view))
    assert "no decoder" in str(why_not(AdaptedModel(tiny.model("t5")).view))
    config = transformers.MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=2, state_size=4)
    assert why_not(AdaptedModel(transformers.MambaForCausalLM(config)).view)
    assert all(why_not(AdaptedModel(tiny.model(name)).view) is None for name in PACKED)


def test_a_layout_puts_every_token_in_its_place() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    how = Layout.of(mask)
    assert how is not None
    assert (how.rows, how.length, how.tokens) == (3, 3, 6)
    x = torch.arange(9.0).view(3, 3, 1) + 1
    assert how.packed(x).flatten().tolist() == [1, 2, 4, 5, 6, 7]
    assert torch.equal(how.apart(how.packed(x)), x * mask[..., None])
    heads = torch.randn(1, 2, 6, 5, requires_grad=True)
    for given in (heads, heads.transpose(1, 2).contiguous().transpose(1, 2)):
        apart = how.heads_apart(given)
        assert torch.equal(how.packed(apart.transpose(1, 2)), given.transpose(1, 2))
        assert F.mse_loss(apart.sum(), given.sum()) < 1e-9
    assert Layout.of(torch.ones(2, 3)) is None
