"""Triton's kernels give what torch's own code gives, by Triton's interpreter, and compile for three GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.interpreted import NAMES, compile_only, interpret
from torch import Tensor

from deltatune.core.delta import Clock
from deltatune.core.fast import kernels
from deltatune.core.loss import summed_loss
from deltatune.core.low_rank import SharedInput
from deltatune.core.model import AdaptedModel
from deltatune.methods.lora import LoraConfig, LoraDelta
from deltatune.testing import tiny

triton = pytest.importorskip("triton", reason="Triton exists for Linux on x86 alone, and is not installed")

TYPES = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""What outputs and gradients may differ by, as shares of their norms: a few roundings of the type."""
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_SITES = ((1, (5,), 0.0), (1, (20,), 0.3), (3, (2, 8), 0.0), (3, (4,), 0.3))
_EACH_TIME = {("fp32", 1), ("bf16", 3)}
CASES = [
    pytest.param(
        dtype, *sites, id=f"{SHORT[dtype]}-{at}",
        marks=() if (SHORT[dtype], at) in _EACH_TIME else pytest.mark.slow,
    )
    for dtype in TYPES for at, sites in enumerate(_SITES)
]  # fmt: skip


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    interpret(monkeypatch)


def made(sites: int, ranks: tuple[int, ...], p: float, widths: tuple[int, int] = (70, 50)) -> list[LoraDelta]:
    """Deltas at sites that get one input, whose B is not zero."""
    torch.manual_seed(0)
    deltas = [LoraDelta(*widths, ranks[at % len(ranks)], 1.5, p) for at in range(sites)]
    shared = SharedInput(deltas)
    for delta in deltas:
        torch.nn.init.normal_(delta.lora_B.weight)
        delta.dropout.bind(Clock(3), "input")
        delta.shared = shared
        delta.train()
    return deltas


def outputs_and_gradients(names: set[str], compute: Any, leaves: list[Tensor]) -> list[Tensor]:
    """Of what `compute` makes, with these kernels."""
    with kernels.in_force(frozenset(names)):
        outputs = compute()
    weights = [torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype) for out in outputs]
    total = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(total, leaves)]


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference as a share of a norm."""
    pairs = zip(found, wanted, strict=True)
    shares = [((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)) for a, b in pairs]
    return float(torch.stack(shares).max().detach())


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("dtype", "sites", "ranks", "p"), CASES)
def test_sites_are_what_torch_makes_them(
    dtype: torch.dtype, sites: int, ranks: tuple[int, ...], p: float
) -> None:
    deltas = made(sites, ranks, p)
    x, y = (torch.randn(2, 20, d, dtype=dtype, requires_grad=True) for d in (70, 50))
    leaves = [x, y, *(parameter for delta in deltas for parameter in delta.parameters())]

    def compute() -> list[Tensor]:
        return [delta(x, y * 1) for delta in deltas]

    found, wanted = (outputs_and_gradients(names, compute, leaves) for names in ({"triton"}, set()))
    assert apart(found, wanted) < TYPES[dtype]
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in wanted]
    if p and sites == 1:  # the same elements of the input are dropped
        assert torch.equal(found[1] == 0, wanted[1] == 0)


@pytest.mark.usefixtures("interpreted")
def test_runs_at_once_are_what_torch_makes_them() -> None:
    deltas = [*made(1, (3,), 0.0), *made(1, (20,), 0.25)]
    x, y = (torch.randn(4, 9, d, requires_grad=True) for d in (70, 50))
    leaves = [x, y, *(parameter for delta in deltas for parameter in delta.parameters())]

    def compute() -> list[Tensor]:
        together = LoraDelta.together(deltas, x, y * 1)
        assert together is not None
        return [together]

    found, wanted = (outputs_and_gradients(names, compute, leaves) for names in ({"triton"}, set()))
    assert apart(found, wanted) < TYPES[torch.float32]


@pytest.mark.usefixtures("interpreted")
def test_frozen_parts_ask_for_no_gradient() -> None:
    [delta] = made(1, (4,), 0.5)
    delta.lora_A.requires_grad_(False)
    x, y = torch.randn(3, 70), torch.randn(3, 50)
    with kernels.in_force(frozenset({"triton"})):
        out = delta(x, y.clone())
    assert out.grad_fn is not None
    kept = [tensor for tensor in out.grad_fn.saved_tensors if tensor is not None]  # type: ignore[attr-defined]
    assert all(tensor.shape != x.shape or tensor.dtype == torch.int8 for tensor in kept)
    out.sum().backward()
    assert delta.lora_A.weight.grad is None
    assert delta.lora_B.weight.grad is not None


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_trains_as_without(checkpointing: bool) -> None:
    found = []
    for names in (frozenset[str](), frozenset({"triton"})):
        model = AdaptedModel(tiny.model("llama"))
        adapter = model.attach("a", LoraConfig(r=4, dropout=0.2, targets=("all-linear",)), seed=1)
        tiny.perturb(adapter, seed=1)
        model.fast.lean.kernels = names
        model.gradient_checkpointing(checkpointing)
        loss = summed_loss(model.train(), tiny.batch("llama"), "causal-lm")
        loss.backward()
        grads = [p.grad for p in adapter.parameters() if p.grad is not None]
        functions = _functions(loss.grad_fn)
        assert checkpointing or ("DownUpBackward" in functions) == bool(names)
        found.append([loss.detach(), *grads])
    assert len(found[1]) == len(found[0]) > 1
    assert apart(found[1], found[0]) < 1e-5


def _functions(start: Any) -> set[str]:
    seen, names, ahead = set(), set(), [start]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.add(type(node).__name__)
        ahead += [following for following, _ in node.next_functions]
    return names


def test_ranks_that_no_block_can_hold_are_left_to_torch() -> None:
    assert not kernels.by_triton(torch.float32, 8)
    with kernels.in_force(frozenset({"triton"})):
        assert kernels.by_triton(torch.bfloat16, 256)
        assert not kernels.by_triton(torch.bfloat16, 257)
        assert not kernels.by_triton(torch.float32, 129)
        assert not kernels.by_triton(torch.float64, 8)


def compiled(name: str, dtype: str, rank: int, masked: bool, capability: int) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deltatune.core.fast.kernels.launch import OPTIONS
    from deltatune.core.fast.kernels.registry import KERNELS

    kernel = KERNELS[name]
    signature = kernel.signature(dtype)
    # As at a launch where pointers and sizes are multiples of 16: only then is memory read in wide pieces.
    aligned = {
        (at,): [["tt.divisibility", 16]] for at, kind in enumerate(signature.values()) if kind != "constexpr"
    }
    source = ASTSource(kernel.function, signature, kernel.constants(rank, masked=masked), aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=OPTIONS)


@pytest.fixture
def compiler(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_a_kernel_compiles_for(capability: int) -> None:
    made = compiled("down_up", "bf16", 8, True, capability)
    assert len(made.asm["cubin"]) > 1000
    assert f"sm_{capability}" in made.asm["ptx"]
    assert "mma" in made.asm["ptx"]  # tensor cores


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", SHORT.values())
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_compiles_for(name: str, capability: int, dtype: str) -> None:
    from deltatune.core.fast.kernels.registry import KERNELS

    assert set(NAMES) == set(KERNELS)
    highest = kernels.WIDEST // (4 if dtype == "fp32" else 2)
    for rank, masked in ((8, True), (highest, True)):
        made = compiled(name, dtype, rank, masked, capability)
        assert len(made.asm["cubin"]) > 1000
        assert made.metadata.shared <= 96 * 1024  # what a program of each of the three may have, and more


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=SHORT.get)
def test_what_is_launched_compiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches go to Triton as on a GPU, with tensors, sizes of one and multiples of 16, and options."""
    made_for = compile_only(monkeypatch, 90)
    for rank, width in ((1, 64), (8, 4096), (20, 70)):
        for sites in (1, 2):
            deltas = made(sites, (rank,), 0.1, (width, width))
            x, y = (torch.randn(3, 5, width, dtype=dtype, requires_grad=True) for _ in range(2))
            with kernels.in_force(frozenset({"triton"})):
                total = sum(delta(x, y * 1).sum() for delta in deltas)
            torch.autograd.grad(total, [x, *(p for delta in deltas for p in delta.parameters())])
    assert {kernel.name for kernel in made_for} == {f"{name}_kernel" for name in NAMES}
