"""Combinations of LoRAs, beside peft's add_weighted_adapter and beside the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tests.oracle import bridge
from torch import Tensor

from deltatune import combine
from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods import METHODS
from deltatune.methods.lora import LowRank
from deltatune.testing import tiny
from deltatune.testing.building import close

TARGETS = {
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "vit": ["q_proj", "v_proj"],
}


def in_peft(architecture: str) -> Any:
    """Two LoRAs of different rank and scale in peft, both away from their start."""
    names = TARGETS[architecture]
    theirs = bridge.in_peft(architecture, LoraConfig(r=2, lora_alpha=4, target_modules=names))
    theirs.add_adapter("other", LoraConfig(r=3, lora_alpha=3, target_modules=names))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".other" in name and "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return theirs.eval()


def in_ours(theirs: Any, architecture: str) -> AdaptedModel:
    """The same two."""
    model = AdaptedModel(tiny.model(architecture))
    for name, config in (("default", {"r": 2, "alpha": 4}), ("other", {"r": 3, "alpha": 3})):
        model.attach(name, METHODS.get("lora")(**config)).load_stored(
            {
                key.removeprefix("base_model.model.").replace(f".{name}.", "."): value
                for key, value in theirs.state_dict().items()
                if f".{name}." in key and "lora_" in key
            }
        )
    return model


COMBINATIONS = [
    pytest.param("cat", {}, {"rule": "linear"}, id="linear"),
    pytest.param("svd", {"svd_rank": 3}, {"rule": "linear", "rank": 3}, id="linear-truncated"),
    pytest.param(
        "ties_svd",
        {"svd_rank": 5, "density": 0.4},
        {"rule": "ties", "density": 0.4},
        id="ties",
    ),
    pytest.param(
        "ties_svd",
        {"svd_rank": 3, "density": 0.7},
        {"rule": "ties", "density": 0.7, "rank": 3},
        id="ties-truncated",
    ),
    pytest.param(
        "dare_linear_svd", {"svd_rank": 5, "density": 1.0}, {"rule": "dare", "density": 1.0}, id="dare-of-all"
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize(("kind", "their_options", "options"), COMBINATIONS)
def test_combinations_are_those_of_peft(
    architecture: str, kind: str, their_options: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    weights = [0.6, 0.6] if kind == "ties_svd" else [0.7, -0.4]  # peft's vote does not see the weights
    theirs = in_peft(architecture)
    ours, batch = in_ours(theirs, architecture), tiny.batch(architecture)
    theirs.base_model.add_weighted_adapter(["default", "other"], weights, "both", kind, **their_options)
    theirs.base_model.set_adapter("both")
    expected = bridge.real_logits(theirs, architecture, batch)
    found = combine(ours, ["default", "other"], "both", weights=weights, **options)
    assert ours.active == ("both",)
    assert found.rank == options.get("rank", 5)
    assert (found.error > 1e-6) == (kind == "ties_svd" or "rank" in options)
    close(bridge.real_logits(ours, architecture, batch), expected)
    ours.save(tmp_path)
    again = bridge.load_in_peft(architecture, tmp_path)
    close(bridge.real_logits(again, architecture, batch), expected)


def updates(adapter: Adapter) -> dict[str, Tensor]:
    """The whole update of each matrix."""
    found = {path: d.factors() for path, d in adapter.deltas.items() if isinstance(d, LowRank)}
    return {path: (up @ down).detach() for path, (down, up) in found.items()}


FAMILY = {
    "lora": {"r": 2},
    "pissa": {"r": 3, "targets": ["query"]},
    "lora_fa": {"r": 2, "targets": ["key"]},
    "adalora": {"init_r": 3, "target_r": 2},
    "vera": {"r": 4},
    "lora_plus": {"r": 1, "targets": ["query", "embed_tokens"]},
}


def family() -> AdaptedModel:
    """A Llama with all low-rank methods attached, at matrices that are partly the same."""
    model = AdaptedModel(tiny.model("llama"))
    for seed, (name, config) in enumerate(FAMILY.items()):
        tiny.perturb(model.attach(name, METHODS.get(name)(**config)), seed=seed)
    return model


def test_linear_is_exact_for_all_low_rank_methods() -> None:
    model, batch = family(), tiny.batch("llama")
    found = combine(model, list(FAMILY), "sum", weights=[1.0] * len(FAMILY))
    assert found.rank == 2 + 6 + 3 + 4 + 1  # of the query; the others have fewer
    assert found.error == 0
    together = bridge.real_logits(model, "llama", batch)
    model.use(*FAMILY)
    close(together, bridge.real_logits(model, "llama", batch))
    combine(model, ["lora", "vera"], "mean")
    for path, update in updates(model.adapter("mean")).items():
        parts = [updates(model.adapter(name))[path] for name in ("lora", "vera")]
        close(update, sum(parts) / 2)


def test_ties_follows_the_paper() -> None:
    """Entry by entry, over three deltas, at full rank; votes are weighted."""
    model, names, weights, density = family(), ["lora", "adalora", "vera"], [1.0, 2.0, 0.5], 0.3
    found = combine(model, names, "ties", rule="ties", weights=weights, density=density, rank=16)
    assert found.error < 1e-6
    assert combine(model, names, "wide", rule="ties", rank=999).rank == 16  # no weight has more
    parts = [updates(model.adapter(name)) for name in names]
    for path, update in updates(found.adapter).items():
        trimmed = []
        for part, weight in zip(parts, weights, strict=True):
            flat = (weight * part[path]).flatten()
            least = flat.abs().sort().values[-int(density * flat.numel())]
            trimmed.append([value if abs(value) >= least else 0.0 for value in flat.tolist()])
        expected = []
        for entries in zip(*trimmed, strict=True):
            sign = 1 if sum(entries) > 0 else -1
            agreeing = [entry for entry in entries if entry * sign > 0]
            expected.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
        close(update.flatten(), torch.tensor(expected))


def test_dare_drops_at_random_and_keeps_the_mean() -> None:
    model = family()
    one = combine(model, ["lora"], "one", rule="dare", density=0.5, rank=16, seed=1).adapter
    same = combine(model, ["lora"], "same", rule="dare", density=0.5, rank=16, seed=1).adapter
    total = {path: torch.zeros_like(update) for path, update in updates(one).items()}
    full = updates(model.adapter("lora"))
    for path, update in updates(one).items():
        assert torch.equal(update, updates(same)[path])
        kept = update.abs() > 1e-5 * full[path].abs().max()
        assert 0.3 < kept.float().mean() < 0.7
        close(update[kept], 2 * full[path][kept])
    rounds = 200
    for seed in range(rounds):
        adapter = combine(model, ["lora"], f"s{seed}", rule="dare", density=0.5, rank=16, seed=seed).adapter
        for path, update in updates(adapter).items():
            total[path] += update / rounds
        model.detach(f"s{seed}")
    for path, mean in total.items():
        assert (mean - full[path]).norm() < 0.1 * full[path].norm()


@pytest.mark.parametrize("architecture", tiny.CLASSIFIERS[:2])
def test_heads_are_averaged(architecture: str) -> None:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    for seed, name in enumerate("ab"):
        tiny.perturb(model.attach(name, METHODS.get("lora")(r=2)), seed=seed)
    combined = combine(model, ["a", "b"], "mean").adapter
    [path] = combined.heads()
    heads = [model.adapter(name).deltas[path].stored() for name in ("mean", "a", "b")]
    for name, tensor in heads[0].items():
        close(tensor, (heads[1][name] + heads[2][name]) / 2)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ([], {}),
        (["lora"], {"rule": "slerp"}),
        (["lora", "vera"], {"weights": [1.0]}),
        (["lora"], {"density": 0.0}),
        (["lora"], {"rank": 0}),
        (["lora", "dora"], {}),
        (["prefix"], {}),
        (["full"], {}),
        (["nobody"], {}),
    ],
)
def test_what_cannot_be_combined_is_refused(names: list[str], options: dict[str, Any]) -> None:
    model = family()
    for name in ("dora", "prefix", "full"):
        model.attach(name, METHODS.get(name)())
    model.use("lora")
    with pytest.raises(AdapterError):
        combine(model, names, "sum", **options)
    assert "sum" not in model.adapters
    assert model.active == ("lora",)
