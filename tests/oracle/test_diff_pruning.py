"""Diff pruning against its formulas, and the promise of its density: counted, stored, measured in bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from deltatune.core.delta import Clock
from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError, TrainingError
from deltatune.methods.diff_pruning import DiffPruningAdapter, DiffPruningConfig, GatedDelta, SparseDelta
from deltatune.testing import tiny
from deltatune.testing.building import close, logits, loss


def trained(
    architecture: str, config: DiffPruningConfig, steps: int = 6
) -> tuple[AdaptedModel, DiffPruningAdapter]:
    """A short run as the trainer does it."""
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    adapter = model.attach("a", config)
    assert isinstance(adapter, DiffPruningAdapter)
    groups = [{"params": [p], "lr": 1e-2 * adapter.lr_factor(n)} for n, p in adapter.trainable()]
    optimizer = torch.optim.AdamW(groups)
    adapter.start(steps)
    model.train()
    for step in range(1, steps + 1):
        value = loss(model, tiny.batch(architecture, seed=step))
        penalty = adapter.penalty()
        assert (penalty is None) == (step > adapter.gate_steps)
        (value if penalty is None else value + penalty).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        density = adapter.after_step(step)["density"]
        assert adapter.settled == (step >= adapter.gate_steps) == (density == adapter.target / adapter.size)
    return model.eval(), adapter


@pytest.mark.parametrize("structured", [False, True])
def test_gates_and_penalty_follow_the_paper(structured: bool) -> None:
    left, right, l0 = -1.5, 1.5, 0.25
    delta = GatedDelta((4, 5), 0.3, structured=structured)
    tiny.perturb(delta, std=1.0)
    delta.noise.bind(Clock(7), "somewhere")
    x, y = torch.randn(2, 5), torch.randn(2, 4)
    u = delta.noise.uniform(21, x.device)

    def z(alpha: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        s = torch.sigmoid(torch.log(u) - torch.log(1 - u) + alpha)
        return torch.minimum(torch.ones(()), torch.maximum(torch.zeros(()), s * (right - left) + left))

    def probability(alpha: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(alpha - torch.log(torch.tensor(-left / right)))

    gates, expected = z(delta.gate, u[:20].view(4, 5)), probability(delta.gate)
    if structured:
        assert delta.group_gate is not None
        gates, expected = gates * z(delta.group_gate, u[20:]), expected * probability(delta.group_gate)
    close(delta(x, y), y + F.linear(x, gates * delta.diff))
    adapter = DiffPruningAdapter({"a": delta}, DiffPruningConfig(l0=l0))
    penalty = adapter.penalty()
    assert penalty is not None
    close(penalty, l0 * expected.sum())
    assert 0 < (gates == 0).float().mean() < 1 or structured
    half = torch.full((4, 5), 0.5)
    silent = z(delta.gate, half) * (z(delta.group_gate, half[0, :1]) if structured else 1)  # type: ignore[arg-type]
    close(delta.eval()(x, y), y + F.linear(x, silent * delta.diff))


def test_gates_are_a_function_of_time() -> None:
    delta = GatedDelta((6, 5), 0.0)
    tiny.perturb(delta)
    first = delta.change(noisy=True)
    assert torch.equal(first, delta.change(noisy=True))
    delta.noise.clock.tick += 1
    assert not torch.equal(first, delta.change(noisy=True))
    closed = GatedDelta((100, 100), 1.0).gates(noisy=True).eq(0).float().mean()
    assert float(closed) == pytest.approx(1 - torch.sigmoid(torch.tensor(1.0)).item(), abs=0.02)


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("architecture", ["t5", "gpt2", "bert"])
@pytest.mark.parametrize("density", [0.005, 0.0371])
def test_the_density_is_exact_and_reloading_changes_nothing(
    architecture: str, structured: bool, density: float, tmp_path: Path
) -> None:
    config = DiffPruningConfig(density=density, structured=structured, gates=3)
    model, adapter = trained(architecture, config)
    expected, batch = round(density * adapter.size), tiny.batch(architecture)
    assert adapter.finish() == {"density": expected / adapter.size, "entries": expected}
    before = logits(model, batch)
    with model.using():
        assert (before - logits(model, batch)).abs().max() > 1e-4
    model.save(tmp_path / "delta")
    file = tmp_path / "delta" / "adapter_model.safetensors"
    tensors = load_file(file)
    values = [t for name, t in tensors.items() if name.endswith("diff_values")]
    assert sum(len(value) for value in values) == expected
    assert all(t.dtype == torch.int32 for n, t in tensors.items() if n.endswith("diff_indices"))
    fresh = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    fresh.load(tmp_path / "delta", "again")
    assert torch.equal(logits(fresh, batch), before)
    merged = AdaptedModel(fresh.merged(), tiny.heads(architecture))
    close(logits(merged, batch), before)
    changed = sum(int((merged.view.weight(path) != model.view.weight(path)).sum()) for path in adapter.gated)
    assert changed <= expected


def test_the_mask_stays_while_training_goes_on() -> None:
    model, adapter = trained("llama", DiffPruningConfig(density=0.05, gates=0.5), steps=2)
    before = {path: delta.stored() for path, delta in adapter.gated.items()}
    optimizer = torch.optim.AdamW([p for _, p in adapter.trainable()], lr=1e-2)
    model.train()
    loss(model, tiny.batch("llama")).backward()
    assert all(delta.gate.grad is None for delta in adapter.gated.values())
    optimizer.step()
    after = {path: delta.stored() for path, delta in adapter.gated.items()}
    assert all(torch.equal(before[p]["diff_indices"], after[p]["diff_indices"]) for p in before)
    assert not all(torch.equal(before[p]["diff_values"], after[p]["diff_values"]) for p in before)


def test_half_a_percent_is_a_small_file(tmp_path: Path) -> None:
    """8 bytes for each entry and a header, against 4 bytes for each weight."""
    delta, n = GatedDelta((1000, 800), 5.0), 4000
    mask = torch.zeros(800_000, dtype=torch.bool)
    mask[torch.randperm(800_000)[:n]] = True
    delta.fix(mask.view(1000, 800))
    from deltatune.checkpoint.folders import write_tensors

    write_tensors(tmp_path / "file", delta.stored())
    size = (tmp_path / "file").stat().st_size
    assert 8 * n < size < 8 * n + 400
    assert size < 0.0105 * 4 * 800_000


def test_a_run_must_have_steps_on_both_sides() -> None:
    model = AdaptedModel(tiny.model("llama"))
    adapter = model.attach("a", DiffPruningConfig(gates=5))
    with pytest.raises(RecipeError, match="5 of 5 steps"):
        adapter.start(5)
    adapter.start(6)
    with pytest.raises(TrainingError, match="diff pruning ended"):
        adapter.finish()


def test_resuming_keeps_the_mask() -> None:
    model, adapter = trained("llama", DiffPruningConfig(density=0.05))
    again = AdaptedModel(tiny.model("llama"))
    other = again.attach("a", DiffPruningConfig(density=0.05))
    other.load_state_dict(adapter.state_dict())
    assert not other.settled
    other.load_resume_state(adapter.resume_state())
    assert other.settled
    assert torch.equal(logits(again, tiny.batch("llama")), logits(model, tiny.batch("llama")))


def test_gradients_of_a_stored_change() -> None:
    delta = SparseDelta((4, 5), 3).double()
    delta.get_buffer("diff_indices").copy_(torch.tensor([0, 7, 19]))
    x, y = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)

    def run(values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(delta, {"diff_values": values}, (x, y))
        return found

    assert torch.autograd.gradcheck(run, (torch.randn(3, dtype=torch.float64, requires_grad=True),))
