"""The checks of the contract as plain functions of (case, architecture), open to any method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.contract.building import (
    adapted,
    add,
    anatomy,
    close,
    gradients,
    idle,
    logits,
    loss,
    trained,
)
from tests.contract.cases import Case
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, TargetError


def identity_at_start(case: Case, architecture: str) -> None:
    model, batch = adapted(case, architecture, act=False), tiny.batch(architecture)
    found = logits(model, batch)
    with model.using():
        plain = logits(model, batch)
    if case.identity:
        close(found, plain)
    else:
        assert (found - plain).abs().max() > 1e-3


def acts(case: Case, architecture: str) -> None:
    """A moved adapter changes the output; without anything to move only one that is no identity does."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    found = logits(model, batch)
    with model.using():
        changed = (found - logits(model, batch)).abs().max()
    assert changed > 1e-3 if case.settings().trains or not case.identity else changed == 0


def base_unchanged_by_training(case: Case, architecture: str) -> None:
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
        assert losses[-1] < losses[0]
    with model.using():
        during = anatomy(model.base)
    assert [during[key] for key in ("bytes", "keys", "classes")] == [
        before[key] for key in ("bytes", "keys", "classes")
    ]
    model.detach("a")
    model.eval()
    assert anatomy(model.base) == before


def gradients_only_in_the_adapter(case: Case, architecture: str) -> None:
    base = tiny.model(architecture)
    of_base = dict(base.named_parameters())
    model = AdaptedModel(base, tiny.heads(architecture))
    adapter = add(model, case, "a")
    model.train()
    if not case.settings().trains:
        assert not trained(adapter)
        return
    loss(model, tiny.batch(architecture)).backward()
    assert [n for n, p in of_base.items() if p.grad is not None or p.requires_grad] == []
    assert idle(adapter, architecture) == []


def every_tap_fires(case: Case, architecture: str) -> None:
    model = adapted(case, architecture)
    assert set(model.fired()) == {path for path, _ in model.adapter("a").parts()}
    assert not any(model.fired().values())
    logits(model, tiny.batch(architecture))
    assert all(model.fired().values())
    assert model.fired() or not case.settings().trains or model.adapter("a").own


def detach_leaves_nothing(case: Case, architecture: str) -> None:
    base = tiny.model(architecture)
    model, batch = AdaptedModel(base, tiny.heads(architecture)), tiny.batch(architecture)
    before, plain = anatomy(base), logits(model, batch)
    add(model, case, "a")
    add(model, case, "b", seed=2)
    logits(model, batch)
    model.detach("a")
    model.detach("b")
    assert anatomy(base) == before
    assert torch.equal(logits(model, batch), plain)
    assert not model.active
    assert [name for name, _ in model.named_parameters() if not name.startswith("base.")] == []


def save_load_save(case: Case, architecture: str, folder: Path) -> None:
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    before = logits(model, batch)
    model.save(folder / "one")
    fresh = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    fresh.load(folder / "one", "again")
    close(logits(fresh, batch), before, 1e-6)
    fresh.save(folder / "two")
    for file in sorted((folder / "one").iterdir()):
        assert file.read_bytes() == (folder / "two" / file.name).read_bytes(), file.name
    assert len(list((folder / "two").iterdir())) == 3


def switching_is_exact(case: Case, architecture: str) -> None:
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    first = logits(model, batch)
    add(model, case, "b", seed=2)
    second = logits(model, batch)
    assert torch.equal(first, second) != case.settings().trains
    model.use("a")
    assert torch.equal(logits(model, batch), first)
    model.use("b")
    assert torch.equal(logits(model, batch), second)


def stacking(case: Case, architecture: str) -> None:
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    add(model, case, "b", seed=2)
    if not case.routable:
        with pytest.raises(AdapterError, match="same parameters"):
            model.use("a", "b")
        return
    if not case.settings().trains:
        return
    alone = []
    for name in ("a", "b"):
        model.use(name)
        alone.append(logits(model, batch))
    model.use("a", "b")
    both = logits(model, batch)
    assert all((both - one).abs().max() > 1e-3 for one in alone)
    if case.foldable:  # updates of the weights add up
        merged = AdaptedModel(model.merged("a", "b"), tiny.heads(architecture))
        close(logits(merged, batch), both, 2e-5)


def folding(case: Case, architecture: str) -> None:
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    before = anatomy(model.base)
    if not case.foldable:
        with pytest.raises(AdapterError, match="cannot be written into weights"):
            model.merged()
        return
    expected = logits(model, batch)
    merged = model.merged()
    assert anatomy(model.base)["bytes"] == before["bytes"]
    assert anatomy(merged)["hooks"] == []
    assert list(merged.state_dict()) == list(model.base.state_dict())
    close(logits(AdaptedModel(merged, tiny.heads(architecture)), batch), expected)
    assert torch.equal(logits(model, batch), expected)


def joint_equals_solo(
    case: Case, architecture: str, *, config: Any = None, checkpointing: bool = False
) -> None:
    """Rows of one batch, routed to two adapters: logits and gradients of each are those of it alone."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    add(model, case, "b", seed=2, config=config)
    parts = {"a": slice(0, 2), "b": slice(2, 4)}
    if not case.routable:
        with pytest.raises(TargetError, match="cannot act on some rows"), model.routing(parts, 4):
            pass
        return
    model.train()
    model.gradient_checkpointing(checkpointing)
    alone, alone_gradients = [], {}
    for name, rows in parts.items():
        model.use(name)
        model.adapter(name).clock.tick = 5
        value = loss(model, tiny.rows_of(batch, rows))
        if value.requires_grad:
            value.backward()
        alone_gradients[name] = gradients(model.adapter(name))
        model.adapter(name).clock.tick = 5
        alone.append(logits(model, tiny.rows_of(batch, rows)))
        model.adapter(name).clock.tick = 5
    with model.routing(parts, 4):
        value = loss(model, batch)
        if value.requires_grad:
            value.backward()
        for name in parts:
            model.adapter(name).clock.tick = 5
        close(logits(model, batch), torch.cat(alone))
    for name in parts:
        found = gradients(model.adapter(name))
        assert found.keys() == alone_gradients[name].keys()
        for key, gradient in found.items():
            close(gradient, alone_gradients[name][key], 3e-5)


def unrouted_rows_are_plain(case: Case, architecture: str) -> None:
    """Rows that no adapter is given get the base's own output."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    if not case.routable:
        return
    model.use("a")
    middle = logits(model, tiny.rows_of(batch, slice(1, 3)))
    with model.using():
        first, last = (logits(model, tiny.rows_of(batch, rows)) for rows in (slice(0, 1), slice(3, 4)))
    with model.routing({"a": slice(1, 3)}, 4):
        close(logits(model, batch), torch.cat([first, middle, last]))


def checkpointing_equals_plain(case: Case, architecture: str) -> None:
    """Same loss and gradients, layers really computed twice, and no dropout of the base either way."""
    # What is computed twice keeps SDPA, so the plain pass does here.
    model, batch = adapted(case, architecture, dropout=0.1, eager_up_to=0), tiny.batch(architecture)
    adapter = model.adapter("a")
    model.train()
    if not case.settings().trains:
        return
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    *_, inner = model.view.by_role("key").values()  # of the last layer: it is behind all that is trained
    inner.register_forward_hook(count)
    results = []
    for enabled in (False, True, False):
        model.gradient_checkpointing(enabled)
        adapter.clock.tick, calls = 3, 0
        value = loss(model, batch)
        value.backward()
        results.append((value.item(), gradients(adapter), calls))
    assert [calls for *_, calls in results] == [1, 2, 1]
    for value, found, _ in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-6)
        close(found, results[0][1])


def base_dropout_is_off_unless_wanted(case: Case, architecture: str) -> None:
    batch = tiny.batch(architecture)
    for wanted in (False, True):
        model = adapted(case, architecture, dropout=0.1, base_dropout=wanted)
        model.train()
        found = []
        for _ in range(2):
            model.adapter("a").clock.tick = 7
            found.append(logits(model, batch))
        assert torch.equal(*found) != wanted
        model.eval()
        assert torch.equal(logits(model, batch), logits(model, batch))


def parameter_count(case: Case, architecture: str) -> None:
    model = adapted(case, architecture)
    assert sum(p.numel() for _, p in model.adapter("a").trainable()) == case.expected_count(architecture)


def labelled_logits_are_exact(case: Case, architecture: str) -> None:
    """The label-only head gives the full logits at the labels, and the base's own loss."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    output = model(**batch, use_cache=False)
    found, targets = model.labelled_logits(batch)
    labels, full = batch["labels"], output.logits
    if architecture in tiny.CAUSAL:
        labels, full = labels[:, 1:], full[:, :-1]
    close(found, full[labels != -100])
    assert torch.equal(targets, labels[labels != -100])
    close(F.cross_entropy(found, targets), output.loss)


def generation(case: Case, architecture: str, attention: str = "sdpa") -> None:
    """With a cache as without, and a padded batch as one row at a time."""
    model, made = adapted(case, architecture, attention=attention), tiny.prompts(architecture)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = model.generate(**made, **options, use_cache=True)
    new = cached[:, made["input_ids"].shape[1] :] if architecture in tiny.CAUSAL else cached[:, 1:]
    assert new.shape == (4, 6)
    assert torch.equal(model.generate(**made, **options, use_cache=False), cached)
    for row in range(4):
        seen = made["attention_mask"][row].bool()
        ids = made["input_ids"][row][seen][None]
        one = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        assert torch.equal(one[0, -6:], new[row])
    beams = model.generate(**made, **options, num_beams=2)
    assert beams.shape == cached.shape


def eager_equals_sdpa(case: Case, architecture: str) -> None:
    """Learned keys and values reach both attentions that a model may use."""
    batch = tiny.batch(architecture)
    found = [logits(adapted(case, architecture, attention=name), batch) for name in ("eager", "sdpa")]
    close(*found)


def bf16_base(case: Case, architecture: str) -> None:
    """The delta stays in float32 over a base in bfloat16, and trains."""
    reference = adapted(case, architecture)
    exact = logits(reference, tiny.batch(architecture))
    base = tiny.model(architecture).to(torch.bfloat16)
    model, batch = AdaptedModel(base, tiny.heads(architecture)), tiny.batch(architecture)
    adapter = add(model, case, "a")
    # the same values: a start made from rounded weights may be another one (the signs of singular vectors)
    adapter.load_state_dict(reference.adapter("a").state_dict())
    if architecture in tiny.VISION:
        batch["pixel_values"] = batch["pixel_values"].bfloat16()
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    found = logits(model, batch)
    off = (found.float() - exact).abs().flatten(0, -2).amax(dim=-1)  # by row or position
    # Rounding may let a router choose another expert for a token, on one processor and not on the next.
    assert (off.median() if architecture == "mixtral" else off.max()) < 0.2 * exact.abs().max()
    model.train()
    value = loss(model, batch)
    if value.requires_grad:
        value.backward()
    found_gradients = gradients(adapter)
    assert found_gradients or not case.settings().trains
    assert all(gradient.isfinite().all() for gradient in found_gradients.values())
