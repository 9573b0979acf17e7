"""What LoRA's relatives do in training, beside peft: starts, gradients, dropout and trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, VeraConfig
from peft.optimizers import create_loraplus_optimizer
from tests.oracle import bridge
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Dropout
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.methods.dora import DoraDelta
from deltatune.methods.pissa import PissaDelta
from deltatune.methods.vera import VeraAdapter
from deltatune.testing import tiny
from deltatune.testing.building import close

LEAVES = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}
ARCHITECTURES = tuple(LEAVES)
EVERYTHING = ("t5", "llama", "gpt2")


def lora(targets: Any, **options: Any) -> Any:
    return LoraConfig(r=2, lora_alpha=4, target_modules=targets, lora_dropout=0.1, **options)


def vera(targets: Any, **options: Any) -> Any:
    return VeraConfig(r=6, target_modules=targets, vera_dropout=0.1, **options)


SMALL = {**LEAVES, "bert": ["query", "value"], "vit": ["q_proj", "v_proj"]}
FILES = [
    *(pytest.param(a, lora, (t, {"use_dora": True}), id=f"dora-{a}") for a, t in SMALL.items()),
    *(pytest.param(a, lora, (t, {"init_lora_weights": "pissa"}), id=f"pissa-{a}") for a, t in SMALL.items()),
    *(pytest.param(a, vera, (t, {}), id=f"vera-{a}") for a, t in SMALL.items()),
    *(
        pytest.param(a, lora, ("all-linear", {"use_dora": True}), id=f"dora-all-linear-{a}")
        for a in EVERYTHING
    ),
    *(pytest.param(a, vera, ("all-linear", {}), id=f"vera-all-linear-{a}") for a in EVERYTHING),
    pytest.param(
        "llama",
        vera,
        (LEAVES["llama"], {"save_projection": False, "projection_prng_key": 5}),
        id="vera-from-its-seed",
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "make", "settings"), FILES)
def test_files_of_peft_give_its_logits(architecture: str, make: Any, settings: Any, tmp_path: Path) -> None:
    targets, options = settings
    theirs, batch = bridge.in_peft(architecture, make(targets, **options)), tiny.batch(architecture)
    expected = bridge.real_logits(theirs, architecture, batch)
    plain = bridge.real_logits(tiny.model(architecture), architecture, batch)
    assert (expected - plain).abs().max() > 1e-3
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bridge.load_in_ours(architecture, tmp_path / "theirs")
    close(bridge.real_logits(ours, architecture, batch), expected)
    assert all(ours.fired().values())
    ours.save(tmp_path / "ours")
    again = bridge.load_in_peft(architecture, tmp_path / "ours")
    close(bridge.real_logits(again, architecture, batch), expected)


def named(model: Any) -> dict[str, Tensor]:
    """peft's parameters by our names."""
    return {
        name.removeprefix("base_model.model.")
        .replace(".default", "")
        .replace("vector.weight", "vector"): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }


def ours_with(theirs: Any, architecture: str, method: str, **settings: Any) -> tuple[AdaptedModel, Adapter]:
    """Our method with the values that peft's model holds."""
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get(method)(r=2, alpha=4, **settings))
    adapter.load_stored({name: value.detach() for name, value in named(theirs).items()})
    return model, adapter


def our_loss(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(*model.labelled_logits(batch))


def trajectory(
    theirs: Any,
    model: AdaptedModel,
    optimizers: tuple[Any, Any],
    architecture: str,
    *,
    fall: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Losses of both, step by step, on the same batches."""
    theirs.train()
    model.train()
    losses: list[tuple[float, float]] = []
    for step in range(12):
        batch = tiny.batch(architecture, seed=step % 4)
        pair = (theirs(**batch).loss, our_loss(model, batch))
        for loss, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append((pair[0].item(), pair[1].item()))
    assert losses[-4][1] < losses[0][1] - fall  # the same batch, two rounds later
    found = torch.tensor(losses)
    return found[:, 0], found[:, 1]


class FixedMask(nn.Module):
    """Dropout with the same mask everywhere and always."""

    p = 0.5

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(x.numel())
        return x * (torch.rand(x.shape, generator=generator) < self.p) / self.p


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dora_computes_and_learns_as_peft_does(architecture: str, dropout: float) -> None:
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=LEAVES[architecture], use_dora=True, lora_dropout=dropout
    )
    theirs = bridge.in_peft(architecture, config)
    model, adapter = ours_with(theirs, architecture, "dora", dropout=dropout)
    theirs.train()
    model.train()
    if dropout:
        for parent in list(theirs.modules()):
            if hasattr(parent, "lora_dropout"):
                parent.lora_dropout["default"] = FixedMask()
        for delta in adapter.deltas.values():
            assert isinstance(delta, DoraDelta)
            delta.dropout = FixedMask()  # type: ignore[assignment]
    batch = tiny.batch(architecture)
    expected, found = theirs(**batch).loss, our_loss(model, batch)
    close(found, expected)
    expected.backward()
    found.backward()
    gradients = {name: p.grad for name, p in named(theirs).items()}
    for path, delta in adapter.deltas.items():
        for name, parameter in delta.named_parameters():
            close(parameter.grad, gradients[f"{path}.{name}"], 2e-5)
    if not dropout:
        optimizers = [torch.optim.AdamW(p, lr=1e-2) for p in (named(theirs).values(), adapter.parameters())]
        close(*trajectory(theirs, model, (optimizers[0], optimizers[1]), architecture), 1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_starts_and_learns_as_peft_does(architecture: str, rslora: bool) -> None:
    config = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=LEAVES[architecture],
        init_lora_weights="pissa",
        use_rslora=rslora,
        fan_in_fan_out=architecture == "gpt2",
    )
    theirs = bridge.in_peft(architecture, config, act=False)
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get("pissa")(r=2, alpha=4, rslora=rslora))
    start = named(theirs)
    signs = {}
    for path, delta in adapter.deltas.items():
        assert isinstance(delta, PissaDelta)
        theirs_a = start[f"{path}.lora_A.weight"].detach()
        signs[path] = (
            (delta.start_A * theirs_a).sum(1).sign()
        )  # of a pair of singular vectors: either is right
        close(delta.start_A, signs[path][:, None] * theirs_a)
        close(delta.start_B, signs[path] * start[f"{path}.lora_B.weight"].detach())
    batch = tiny.batch(architecture)
    plain = bridge.real_logits(tiny.model(architecture), architecture, batch)
    assert torch.equal(bridge.real_logits(model, architecture, batch), plain)
    close(bridge.real_logits(theirs, architecture, batch), plain)
    theirs(**batch).loss.backward()
    our_loss(model, batch).backward()
    for path, delta in adapter.deltas.items():
        for name, parameter in delta.named_parameters():
            sign = signs[path] if name == "lora_B.weight" else signs[path][:, None]
            close(parameter.grad, sign * start[f"{path}.{name}"].grad, 2e-5)
    optimizers = [torch.optim.AdamW(p, lr=1e-2) for p in (start.values(), adapter.parameters())]
    close(*trajectory(theirs, model, (optimizers[0], optimizers[1]), architecture), 1e-4)


def test_fast_pissa_finds_nearly_the_principal_part() -> None:
    products = []
    for niter in (None, 8):
        model = AdaptedModel(tiny.model("llama"))
        adapter = model.attach("a", METHODS.get("pissa")(r=2, niter=niter))
        delta = next(iter(adapter.deltas.values()))
        assert isinstance(delta, PissaDelta)
        products.append(delta.start_B @ delta.start_A)
    exact, fast = products
    assert (fast - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_plus_takes_the_same_steps_as_peft(architecture: str) -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=LEAVES[architecture])
    theirs = bridge.in_peft(architecture, config, act=False)
    model, adapter = ours_with(theirs, architecture, "lora_plus", ratio=16)
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    groups = [
        {"params": [p], "lr": 1e-3 * adapter.lr_factor(name), "weight_decay": 0.0}
        for name, p in adapter.trainable()
    ]
    assert sorted({group["lr"] for group in groups}) == [1e-3, 1.6e-2]
    close(*trajectory(theirs, model, (optimizer, torch.optim.AdamW(groups)), architecture), 1e-4)
    close(
        {k: v for k, v in adapter.stored().items()}, {k: v.detach() for k, v in named(theirs).items()}, 1e-3
    )


def test_lora_plus_leaves_heads_and_embeddings_at_their_rate() -> None:
    model = AdaptedModel(tiny.model("bert"), tiny.heads("bert"))
    adapter = model.attach("a", METHODS.get("lora_plus")(targets=["query", "word_embeddings"]))
    fast = [p.shape for name, p in adapter.trainable() if adapter.lr_factor(name) != 1]
    assert fast == [(tiny.D, 8)] * tiny.LAYERS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_fa_is_lora_with_a_frozen(architecture: str, tmp_path: Path) -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=LEAVES[architecture])
    theirs = bridge.in_peft(architecture, config, act=False)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    model, adapter = ours_with(theirs, architecture, "lora_fa")
    before = {name: tensor.clone() for name, tensor in adapter.stored().items()}
    optimizers = [
        torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-2)
        for parameters in (theirs.parameters(), adapter.parameters())
    ]
    close(*trajectory(theirs, model, (optimizers[0], optimizers[1]), architecture), 1e-4)
    after = adapter.stored()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == ("lora_A" in name)
    model.save(tmp_path)
    loaded = bridge.load_in_peft(architecture, tmp_path)
    batch = tiny.batch(architecture)
    expected = bridge.real_logits(model.eval(), architecture, batch)
    close(bridge.real_logits(loaded, architecture, batch), expected)


def test_lora_fa_keeps_no_inputs_for_backward() -> None:
    """What autograd saves for a site: the weights and A x, but not x."""
    for method, kept in (("lora", True), ("lora_fa", False)):
        model = AdaptedModel(tiny.model("llama"))
        delta = next(iter(model.attach("a", METHODS.get(method)(r=2)).deltas.values()))
        x = torch.randn(3, 5, tiny.D, requires_grad=True)
        saved: list[Tensor] = []

        def keep(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            delta(x, torch.zeros(3, 5, tiny.D))
        assert any(t.numel() == x.numel() for t in saved) == kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vera_draws_what_peft_draws(architecture: str) -> None:
    config = VeraConfig(r=5, target_modules=LEAVES[architecture], projection_prng_key=7)
    theirs = bridge.in_peft(architecture, config, act=False)
    model = AdaptedModel(tiny.model(architecture))
    adapter = model.attach("a", METHODS.get("vera")(r=5, projection_seed=7))
    assert isinstance(adapter, VeraAdapter)
    assert torch.equal(adapter.projection.A, theirs.base_model.vera_A["default"])
    assert torch.equal(adapter.projection.B, theirs.base_model.vera_B["default"])
    trained = [p for p in theirs.parameters() if p.requires_grad]
    ours = [p for _, p in adapter.trainable()]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in ours)
    optimizers = torch.optim.AdamW(trained, lr=2e-2), torch.optim.AdamW(ours, lr=2e-2)
    close(*trajectory(theirs, model, optimizers, architecture, fall=0.005), 1e-4)


def test_dropout_of_the_family_follows_the_clock() -> None:
    for method in ("dora", "pissa", "vera", "lora_fa", "lora_plus"):
        model = AdaptedModel(tiny.model("llama"))
        adapter = model.attach("a", METHODS.get(method)(r=2, dropout=0.3))
        found = [m for m in adapter.modules() if isinstance(m, Dropout)]
        assert len(found) == len(adapter.deltas)
        assert all(m.clock is adapter.clock for m in found)
