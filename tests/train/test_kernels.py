"""Kernels and attention of GPUs: refused before anything is loaded, and held to torch's own code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.fast import lean
from deltatune.core.fast.kernels import liger
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.errors import DeltatuneError, RecipeError, TargetError, TrainingError
from deltatune.methods import METHODS
from deltatune.methods.lora import LoraConfig
from deltatune.recipe import Recipe
from deltatune.runs.load import load_run
from deltatune.testing import tiny
from deltatune.training import run
from deltatune.training.given import gpu_ways
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.kernels import LINE, check_kernels
from deltatune.training.race.race import can_race
from tests.core.interpreted import interpret

Make = Callable[..., Recipe]


def test_settings_are_spelled_as_one_would(make_recipe: Make) -> None:
    assert make_recipe("train.kernels=liger").train.kernels == ["liger"]
    assert make_recipe("train.kernels=off").train.kernels is None
    assert make_recipe(train={"kernels": ["triton", "cut-cross-entropy"]}).train.kernels[1] != "triton"
    spec = make_recipe("model.attention=auto").model
    assert spec.attention is None
    assert spec.anywhere == spec
    flash = spec.model_copy(update={"attention": "flash_attention_2"})
    assert flash.anywhere == spec
    assert "kernels" not in make_recipe().train.model_dump()  # recipes of before stay what they are
    with pytest.raises(RecipeError, match=r"train\.kernels"):
        make_recipe("train.kernels=unsloth")


@pytest.mark.parametrize("name", ["triton", "liger", "cut-cross-entropy"])
def test_kernels_on_a_cpu_are_refused_before_anything_is_read(
    name: str, make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe(f"train.kernels={name}", "data.source=nowhere.jsonl", device="cpu")
    with pytest.raises(RecipeError, match=f"{name} is made for Nvidia's GPUs.*device cpu.*Leave {name} out"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as far as these checks ask, with every package."""
    monkeypatch.setattr(gpu_ways, "device_of", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))


Refused = tuple[tuple[str, ...], dict[str, Any], str, str]
REFUSED: dict[str, Refused] = {
    "float32": ((), {}, "float32", "computes in 16 bits alone.*train.precision"),
    "prefix": ((), {"methods": ["prefix"]}, "bfloat16", "learned keys and values of prefix"),
    "p-tuning v2": ((), {"methods": ["p_tuning_v2"]}, "bfloat16", "learned keys and values of p_tuning_v2"),
    "packed": (("data.packing=true",), {"task": "causal-lm"}, "bfloat16", "let packed rows see each other"),
    "quantized": (
        (),
        {"quantization": {"compute": "fp32"}},
        "bfloat16",
        r"16 bits alone.*quantization\.compute",
    ),
}


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("case", REFUSED)
def test_what_flash_attention_cannot_do_is_refused(case: str, make_recipe: Make) -> None:
    overrides, sections, dtype, why = REFUSED[case]
    recipe = make_recipe("model.attention=flash_attention_2", *overrides, **sections)
    with pytest.raises(RecipeError, match=f"model.attention.*{why}"):
        gpu_ways.require_gpu_ways(recipe, recipe.methods[0], dtype)


@pytest.mark.usefixtures("on_gpu")
def test_what_goes_together_is_let_pass(make_recipe: Make) -> None:
    for attention, dtype in (("flash_attention_2", "bfloat16"), ("flex_attention", "float32")):
        recipe = make_recipe(f"model.attention={attention}", "train.kernels=[triton,liger]")
        gpu_ways.require_gpu_ways(recipe, recipe.methods[0], dtype)


@pytest.mark.usefixtures("on_gpu")
def test_a_fused_loss_needs_a_vocabulary(make_classifier: Make) -> None:
    recipe = make_classifier("train.kernels=cut-cross-entropy")
    with pytest.raises(RecipeError, match="text-classification has none"):
        gpu_ways.require_gpu_ways(recipe, recipe.methods[0], "bfloat16")


def test_a_missing_package_is_named_with_its_extra(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_ways, "device_of", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for setting, package, extra in (
        ("train.kernels=liger", "liger-kernel", "kernels"),
        ("train.kernels=cut-cross-entropy", "cut-cross-entropy", "kernels"),
        ("model.attention=flash_attention_2", "flash-attn", "flash"),
    ):
        recipe = make_recipe(setting)
        with pytest.raises(RecipeError, match=rf"{package}, which is not.*deltatune\[{extra}\]"):
            gpu_ways.require_gpu_ways(recipe, recipe.methods[0], "bfloat16")


def test_attention_without_learned_keys_takes_none() -> None:
    base = tiny.model("llama")
    base.config._attn_implementation = "flex_attention"
    model = AdaptedModel(base)
    with pytest.raises(TargetError, match="flex_attention, which cannot attend to learned keys"):
        model.attach("a", METHODS.get("prefix")(n_tokens=2))
    assert len(model.adapters) == 0
    model.attach("b", METHODS.get("prompt")(n_tokens=2))


def test_runs_with_a_fused_loss_do_not_share_steps(make_recipe: Make) -> None:
    [entry] = make_recipe("train.kernels=[triton,liger]").methods
    assert can_race(entry)
    [entry] = make_recipe("train.kernels=cut-cross-entropy").methods
    assert not can_race(entry)


# Stubs: what the packages compute, by torch; their own kernels need a GPU.


def stub(monkeypatch: pytest.MonkeyPatch, wrong: str = "") -> list[str]:
    """Put packages in place that note what they are asked for; one function may compute something else."""
    asked: list[str] = []

    def function(name: str, compute: Callable[..., Any]) -> Any:
        def apply(*arguments: Any) -> Any:
            asked.append(name)
            made = compute(*arguments)
            return made * 1.5 if name == wrong else made

        return SimpleNamespace(apply=apply)

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        halves = ((x, *x.chunk(2, dim=-1)) for x in (q, k))
        return tuple(x * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None] for x, a, b in halves)

    functions = {
        "rms_norm": (
            "LigerRMSNormFunction",
            function("norm", lambda x, weight, eps, *_: lean._RmsNorm.apply(x, weight, eps)),
        ),
        "swiglu": ("LigerSiLUMulFunction", function("silu", lambda gate, up: F.silu(gate) * up)),
        "geglu": (
            "LigerGELUMulFunction",
            function("gelu", lambda gate, up: F.gelu(gate, approximate="tanh") * up),
        ),
        "rope": ("LigerRopeFunction", function("rotation", rotate)),
    }
    for module, (name, made) in functions.items():
        put = ModuleType(f"liger_kernel.ops.{module}")
        setattr(put, name, made)
        monkeypatch.setitem(sys.modules, put.__name__, put)
    cut: Any = ModuleType("cut_cross_entropy")
    cut.linear_cross_entropy = lambda hidden, weight, targets, reduction: function(
        "loss", lambda: F.cross_entropy((hidden @ weight.T).float(), targets, reduction=reduction)
    ).apply()
    for package in (ModuleType("liger_kernel"), ModuleType("liger_kernel.ops"), cut):
        monkeypatch.setitem(sys.modules, package.__name__, package)
    return asked


def gradients(architecture: str, names: set[str], **options: Any) -> tuple[AdaptedModel, list[Tensor]]:
    """The loss of a step and the gradients of a LoRA everywhere, with these kernels."""
    model = AdaptedModel(tiny.model(architecture), eager_up_to=0)
    adapter = model.attach("a", LoraConfig(r=4, targets=("all-linear",)), seed=1)
    tiny.perturb(adapter, seed=1)
    model.fast.lean.kernels = frozenset(names)
    task = {"t5": "text-to-text", "llama": "causal-lm"}[architecture]
    model.gradient_checkpointing(options.get("checkpointing", False))
    loss = summed_loss(model.train(), tiny.batch(architecture), task)
    loss.backward()
    return model, [loss.detach(), *(p.grad for p in adapter.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [("llama", {"norm", "silu", "rotation", "loss"}), ("t5", {"norm", "loss"})],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packages_stand_where_their_formula_does(
    architecture: str, parts: set[str], checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stub(monkeypatch)
    _, wanted = gradients(architecture, set())
    assert asked == []
    model, found = gradients(architecture, {"liger", "cut-cross-entropy"}, checkpointing=checkpointing)
    assert parts <= set(asked)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    before = len(asked)
    model.eval()
    summed_loss(model, tiny.batch(architecture), "causal-lm" if architecture == "llama" else "text-to-text")
    assert len(asked) == before  # evaluation is the base's own code


def test_the_gates_of_liger_are_known() -> None:
    assert set(liger.GATES) <= set(lean._ACTIVATIONS)


def checked(names: set[str], tmp_path: Path, **config: Any) -> Proof:
    model = AdaptedModel(tiny.model("llama"))
    model.attach("a", LoraConfig(**{"r": 4, "dropout": 0.1, "targets": ("all-linear",)} | config), seed=1)
    model.fast.lean.kernels = frozenset(names)
    proof = Proof(tmp_path / "certificate.json", {"name": "a", "method": "lora", "seed": 0, "delta": None})
    check_kernels(proof, model.eval(), "a", tiny.batch("llama"), "causal-lm")
    assert model.fast.lean.kernels == names
    return proof


@pytest.mark.parametrize("wrong", ["norm", "silu", "loss"])
def test_what_computes_something_else_ends_the_run(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch)
    names = {"liger", "cut-cross-entropy"}
    [line] = checked(names, tmp_path).lines
    assert line.check == LINE
    assert set(line.values["apart"]) == {"loss", "gradients"}
    assert checked(set(), tmp_path).lines == []
    stub(monkeypatch, wrong)
    with pytest.raises(TrainingError, match=r"kernels compute the same.*Leave train\.kernels out"):
        checked(names, tmp_path)


def test_a_head_that_is_adapted_keeps_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)
    with pytest.raises(DeltatuneError, match="the method acts on the output head"):
        checked({"cut-cross-entropy"}, tmp_path, targets=("lm_head",))


@pytest.mark.slow
def test_low_rank_kernels_are_tried_at_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux on x86 alone, and is not installed")
    interpret(monkeypatch)
    [line] = checked({"triton"}, tmp_path, targets=("query",)).lines
    assert [name for name in line.values["apart"] if name.startswith("updates of rank 4")]
    from deltatune.core.fast.kernels import low_rank

    right = low_rank.down_up_
    monkeypatch.setattr(
        low_rank, "down_up_", lambda y, x, keep, a, up: right(y, x, None, a, up)
    )  # as if nothing were dropped
    with pytest.raises(TrainingError, match="updates of rank 4"):
        checked({"triton"}, tmp_path, targets=("query",))


@pytest.mark.slow
def test_a_run_with_all_of_them_is_a_run_without(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux on x86 alone, and is not installed")
    interpret(monkeypatch)
    asked = stub(monkeypatch)
    monkeypatch.setattr(gpu_ways, "_require", lambda *_: None)
    losses = []
    for name, kernels in (("without", None), ("with", ["triton", "liger", "cut-cross-entropy"])):
        train = {"max_steps": 4, "batch_size": 4, "lr": 0.01, "precision": "fp32", "kernels": kernels}
        recipe = make_recipe(train=train)
        result = run(recipe, recipe.methods[0], 0, tmp_path / name)
        losses.append(result.metrics.test["loss"])  # type: ignore[union-attr]
        lines = (tmp_path / name / "certificate.json").read_text("utf-8")
        assert (LINE in lines) == (kernels is not None)
    assert {"norm", "loss"} <= set(asked)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    # As if it had been trained on a GPU: elsewhere it is loaded with an attention that is there.
    file = tmp_path / "with" / "recipe.yaml"
    text = file.read_text("utf-8")
    file.write_text(text.replace("attention: null", "attention: flash_attention_2"), encoding="utf-8")
    assert "flash_attention_2" in file.read_text("utf-8")
    with pytest.warns(UserWarning, match="was changed since"):
        loaded = load_run(tmp_path / "with", device="cpu")
    assert loaded.model.base.config._attn_implementation == "sdpa"
