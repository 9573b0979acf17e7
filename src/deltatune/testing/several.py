"""Promises about several adapters of one base, side by side and folded into its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError, TargetError
from deltatune.testing import tiny
from deltatune.testing.building import adapted, add, anatomy, close, gradients, logits, loss
from deltatune.testing.case import Case
from deltatune.testing.expecting import expect


def switching_is_exact(case: Case, architecture: str) -> None:
    """Of two adapters the one in use acts as if it were alone, bit for bit."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    first = logits(model, batch)
    add(model, case, "b", seed=2)
    second = logits(model, batch)
    differ = not torch.equal(first, second)
    expect(differ == case.settings().trains, "two adapters give the same" if not differ else "they differ")
    for name, alone in (("a", first), ("b", second)):
        model.use(name)
        expect(torch.equal(logits(model, batch), alone), f"{name} in use again gives other logits")


def stacking(case: Case, architecture: str) -> None:
    """Two adapters act together; of weights, the sum is what both fold into. Or stacking is refused."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    add(model, case, "b", seed=2)
    if not case.routable:
        with _refused(AdapterError, "same parameters"):
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
    for name, of_one in zip(("a", "b"), alone, strict=True):
        moved = (both - of_one).abs().max().item()
        expect(moved > 1e-3, f"both together give what {name} gives alone, to {moved:.1e}")
    if case.foldable:  # updates of the weights add up
        merged = AdaptedModel(model.merged("a", "b"), tiny.heads(architecture))
        close(logits(merged, batch), both, 2e-5)


def folding(case: Case, architecture: str) -> None:
    """Folded into the weights it is a plain model with the same logits, or folding is refused."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    before = anatomy(model.base)
    if not case.foldable:
        with _refused(AdapterError, "cannot be written into weights"):
            model.merged()
        return
    expected = logits(model, batch)
    merged = model.merged()
    expect(anatomy(model.base)["bytes"] == before["bytes"], "folding altered the base itself")
    hooks = anatomy(merged)["hooks"]
    expect(not hooks, f"the folded model has hooks: {hooks}")
    expect(list(merged.state_dict()) == list(model.base.state_dict()), "the folded model has other tensors")
    close(logits(AdaptedModel(merged, tiny.heads(architecture)), batch), expected)
    expect(torch.equal(logits(model, batch), expected), "folding altered the adapted model")


def joint_equals_solo(case: Case, architecture: str) -> None:
    """Rows of one batch, routed to two adapters: logits and gradients of each are those of it alone."""
    _joint(case, architecture)


def joint_equals_solo_for_two_shapes(case: Case, architecture: str) -> None:
    """The same of two adapters of different shapes."""
    _joint(case, architecture, config=case.other)


def joint_equals_solo_with_checkpointing(case: Case, architecture: str) -> None:
    """The same where activations are computed twice."""
    _joint(case, architecture, checkpointing=True)


def _joint(case: Case, architecture: str, *, config: Any = None, checkpointing: bool = False) -> None:
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    add(model, case, "b", seed=2, config=config)
    parts = {"a": slice(0, 2), "b": slice(2, 4)}
    if not case.routable:
        with _refused(TargetError, "cannot act on some rows"), model.routing(parts, 4):
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
        together = gradients(model.adapter(name))
        expect(together.keys() == alone_gradients[name].keys(), f"other parameters of {name} have gradients")
        for key, gradient in together.items():
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


@contextlib.contextmanager
def _refused(kind: type[DeltatuneError], words: str) -> Iterator[None]:
    """Expect an error whose message has these words."""
    try:
        yield
    except kind as error:
        expect(words in str(error), f"it is refused, and the message does not say {words!r}: {error}")
        return
    raise AssertionError(f"it is not refused by a {kind.__name__} that says {words!r}")
