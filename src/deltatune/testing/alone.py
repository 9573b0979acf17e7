"""Promises about one adapter: how it starts, trains, is saved, and leaves."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from deltatune.core.model import AdaptedModel
from deltatune.testing import tiny
from deltatune.testing.building import adapted, add, anatomy, close, idle, logits, loss, trained
from deltatune.testing.case import Case
from deltatune.testing.expecting import expect


def identity_at_start(case: Case, architecture: str) -> None:
    """Untrained, the model is the base; or, of a method that is no identity, it is not."""
    model, batch = adapted(case, architecture, act=False), tiny.batch(architecture)
    untrained = logits(model, batch)
    with model.using():
        plain = logits(model, batch)
    if case.identity:
        close(untrained, plain)
        return
    moved = (untrained - plain).abs().max().item()
    expect(moved > 1e-3, f"it moves the logits by {moved:.1e} only: promise `identity=True`")


def acts(case: Case, architecture: str) -> None:
    """A moved adapter changes the output; without anything to move only one that is no identity does."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    moved = logits(model, batch)
    with model.using():
        changed = (moved - logits(model, batch)).abs().max().item()
    if case.settings().trains or not case.identity:
        expect(changed > 1e-3, f"its parameters were moved, and the logits changed by {changed:.1e} only")
    else:
        expect(changed == 0, f"it trains nothing, and changes the logits by {changed:.1e}")


def base_unchanged_by_training(case: Case, architecture: str) -> None:
    """Three steps lower the loss and leave the base as it was, but for hooks, which detaching takes away."""
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    before, batch = anatomy(model.base), tiny.batch(architecture)
    adapter = add(model, case, "a", act=False).train()
    model.train()
    parameters = [p for _, p in adapter.trainable()]
    if parameters:
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        losses = []
        for _ in range(3):
            value = loss(model, batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        expect(losses[-1] < losses[0], f"the losses of three steps are {losses}")
    with model.using():
        during = anatomy(model.base)
    kept = ("bytes", "keys", "classes")
    _same_anatomy({key: before[key] for key in kept}, {key: during[key] for key in kept}, "attached")
    model.detach("a")
    model.eval()
    _same_anatomy(before, anatomy(model.base), "detached")


def gradients_only_in_the_adapter(case: Case, architecture: str) -> None:
    """A backward pass gives every trained parameter a gradient, and none to the base."""
    base = tiny.model(architecture)
    of_base = dict(base.named_parameters())
    model = AdaptedModel(base, tiny.heads(architecture))
    adapter = add(model, case, "a")
    model.train()
    if not case.settings().trains:
        expect(
            not trained(adapter), f"its config trains nothing, and the adapter has {list(trained(adapter))}"
        )
        return
    loss(model, tiny.batch(architecture)).backward()
    reached = [name for name, p in of_base.items() if p.grad is not None or p.requires_grad]
    expect(not reached, f"parameters of the base are trained: {reached}")
    without = idle(adapter, architecture)
    expect(not without, f"trained parameters have no gradient: {without}")


def every_tap_fires(case: Case, architecture: str) -> None:
    """A forward pass goes through every delta."""
    model = adapted(case, architecture)
    sites = {path for path, _ in model.adapter("a").parts()}
    expect(set(model.fired()) == sites, f"there are deltas at {sites}, and taps at {set(model.fired())}")
    expect(not any(model.fired().values()), "a tap fired before any forward pass")
    logits(model, tiny.batch(architecture))
    silent = [path for path, fired in model.fired().items() if not fired]
    expect(not silent, f"no forward pass goes through {silent}")
    some = model.fired() or not case.settings().trains or model.adapter("a").own
    expect(bool(some), "it trains something, and hangs nowhere")


def detach_leaves_nothing(case: Case, architecture: str) -> None:
    """Two adapters that came and went leave the base as it was, to the last bit."""
    base = tiny.model(architecture)
    model, batch = AdaptedModel(base, tiny.heads(architecture)), tiny.batch(architecture)
    before, plain = anatomy(base), logits(model, batch)
    add(model, case, "a")
    add(model, case, "b", seed=2)
    logits(model, batch)
    model.detach("a")
    model.detach("b")
    _same_anatomy(before, anatomy(base), "detached")
    expect(torch.equal(logits(model, batch), plain), "detached, it still changes the logits")
    expect(not model.active, f"detached, {model.active} still acts")
    left = [name for name, _ in model.named_parameters() if not name.startswith("base.")]
    expect(not left, f"detached, parameters are left: {left}")


def save_load_save(case: Case, architecture: str) -> None:
    """Read back from its files the delta gives the same logits, and saved again the same bytes."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    before = logits(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        model.save(first)
        fresh = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
        fresh.load(first, "again")
        close(logits(fresh, batch), before, 1e-6)
        fresh.save(second)
        names = sorted(file.name for file in first.iterdir())
        again = sorted(file.name for file in second.iterdir())
        expect(len(names) == 3 and names == again, f"the files are {names}, and then {again}")
        for name in names:
            same = (first / name).read_bytes() == (second / name).read_bytes()
            expect(same, f"{name} is another file when it is saved again")


def parameter_count(case: Case, architecture: str) -> None:
    """It trains as many parameters as its formula says."""
    model = adapted(case, architecture)
    counted = sum(p.numel() for _, p in model.adapter("a").trainable())
    expected = case.expected_count(architecture)
    expect(counted == expected, f"{counted} parameters are trained, and the formula says {expected}")


def _same_anatomy(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    changed = [part for part in before if before[part] != after[part]]
    expect(not changed, f"{when}, the base differs in its {', '.join(changed)}")
