"""What every method promises on every architecture, each as a function of (case, architecture)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError, TargetError
from deltatune.testing import tiny
from deltatune.testing.building import adapted, add, anatomy, close, gradients, idle, logits, loss, trained
from deltatune.testing.case import Case
from deltatune.testing.expecting import broken, expect


@dataclass(frozen=True)
class Promise:
    """One promise; its name and its words are those of the function that checks it."""

    check: Callable[[Case, str], None]
    """Raises an AssertionError, if a method does not keep it on an architecture."""
    architectures: tuple[str, ...] = tiny.ARCHITECTURES
    """Those that it is about."""
    applies: Callable[[Case], bool] = lambda case: True
    """Whether it is about a case."""

    @property
    def name(self) -> str:
        """How a case's gaps call it."""
        return self.check.__name__

    def keep(self, case: Case, architecture: str) -> None:
        """Check it.

        Raises:
            AssertionError: It is broken; the message says which one it is, and what was found.
            Exception: What the method itself raised, with a note of the promise.
        """
        with broken(f"{case.label} on {architecture}", self.check):
            self.check(case, architecture)


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
    results: list[tuple[float, dict[str, Tensor], int]] = []
    for enabled in (False, True, False):
        model.gradient_checkpointing(enabled)
        adapter.clock.tick, calls = 3, 0
        value = loss(model, batch)
        value.backward()
        results.append((value.item(), gradients(adapter), calls))
    computed = [times for *_, times in results]
    expect(computed == [1, 2, 1], f"a layer is computed {computed} times, without, with and without again")
    for total, of_parameters, _ in results[1:]:
        apart = abs(total - results[0][0])
        expect(apart <= 1e-6 * abs(results[0][0]), f"the losses are {apart:.1e} apart")
        close(of_parameters, results[0][1])


def base_dropout_is_off_unless_wanted(case: Case, architecture: str) -> None:
    """In training the base has no dropout of its own unless `base_dropout` asks for it."""
    batch = tiny.batch(architecture)
    for wanted in (False, True):
        model = adapted(case, architecture, dropout=0.1, base_dropout=wanted)
        model.train()
        passes = []
        for _ in range(2):
            model.adapter("a").clock.tick = 7
            passes.append(logits(model, batch))
        differ = not torch.equal(*passes)
        expect(
            differ == wanted, f"with base_dropout={wanted} two passes {'differ' if differ else 'are equal'}"
        )
        model.eval()
        expect(torch.equal(logits(model, batch), logits(model, batch)), "two passes without training differ")


def parameter_count(case: Case, architecture: str) -> None:
    """It trains as many parameters as its formula says."""
    model = adapted(case, architecture)
    counted = sum(p.numel() for _, p in model.adapter("a").trainable())
    expected = case.expected_count(architecture)
    expect(counted == expected, f"{counted} parameters are trained, and the formula says {expected}")


def labelled_logits_are_exact(case: Case, architecture: str) -> None:
    """The head on labelled positions alone gives the full logits there, and the base's own loss."""
    model, batch = adapted(case, architecture), tiny.batch(architecture)
    output = model(**batch, use_cache=False)
    at_labels, targets = model.labelled_logits(batch)
    labels, full = batch["labels"], output.logits
    if architecture in tiny.CAUSAL:
        labels, full = labels[:, 1:], full[:, :-1]
    close(at_labels, full[labels != -100])
    expect(torch.equal(targets, labels[labels != -100]), "the targets are others than the labels")
    close(F.cross_entropy(at_labels, targets), output.loss)


def generation(case: Case, architecture: str) -> None:
    """It writes the same with a cache as without, and in a padded batch as one row at a time."""
    _generation(case, architecture, "sdpa")


def generation_with_eager_attention(case: Case, architecture: str) -> None:
    """The same with attention that is computed step by step."""
    _generation(case, architecture, "eager")


def _generation(case: Case, architecture: str, attention: str) -> None:
    model = adapted(case, architecture, attention=attention)
    made: dict[str, Any] = {**tiny.prompts(architecture)}
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = model.generate(**made, **options, use_cache=True)
    new = cached[:, made["input_ids"].shape[1] :] if architecture in tiny.CAUSAL else cached[:, 1:]
    expect(new.shape == (4, 6), f"it writes {tuple(new.shape)} tokens for 4 rows of 6")
    plain = model.generate(**made, **options, use_cache=False)
    expect(torch.equal(plain, cached), "without a cache it writes something else")
    for row in range(4):
        seen = made["attention_mask"][row].bool()
        ids = made["input_ids"][row][seen][None]
        alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        expect(torch.equal(alone[0, -6:], new[row]), f"row {row} alone is something else than in a batch")
    beams = model.generate(**made, **options, num_beams=2)
    expect(beams.shape == cached.shape, f"two beams write {tuple(beams.shape)}")


def eager_attention_gives_the_same(case: Case, architecture: str) -> None:
    """Learned keys and values reach both attentions that a model may use."""
    batch = tiny.batch(architecture)
    eager, sdpa = (logits(adapted(case, architecture, attention=name), batch) for name in ("eager", "sdpa"))
    close(eager, sdpa)


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
    rounded = [name for name, p in adapter.named_parameters() if p.dtype != torch.float32]
    expect(not rounded, f"parameters are not in float32: {rounded}")
    off = (logits(model, batch).float() - exact).abs().flatten(0, -2).amax(dim=-1)  # by row or position
    # Rounding may let a router choose another expert for a token, on one processor and not on the next.
    apart = ((off.median() if architecture == "mixtral" else off.max()) / exact.abs().max()).item()
    expect(apart < 0.2, f"the logits are {apart:.2f} of the largest away from those of a float32 base")
    model.train()
    value = loss(model, batch)
    if value.requires_grad:
        value.backward()
    of_parameters = gradients(adapter)
    expect(bool(of_parameters) or not case.settings().trains, "nothing has a gradient")
    endless = [name for name, gradient in of_parameters.items() if not gradient.isfinite().all()]
    expect(not endless, f"gradients are not finite: {endless}")


PROMISES = (
    Promise(identity_at_start),
    Promise(acts),
    Promise(base_unchanged_by_training),
    Promise(gradients_only_in_the_adapter),
    Promise(every_tap_fires),
    Promise(detach_leaves_nothing),
    Promise(switching_is_exact),
    Promise(stacking),
    Promise(folding),
    Promise(joint_equals_solo),
    Promise(unrouted_rows_are_plain),
    Promise(checkpointing_equals_plain),
    Promise(parameter_count, applies=lambda case: case.count is not None),
    Promise(bf16_base),
    Promise(save_load_save),
    Promise(joint_equals_solo_for_two_shapes, applies=lambda case: case.other is not None),
    Promise(joint_equals_solo_with_checkpointing, applies=lambda case: case.routable),
    Promise(base_dropout_is_off_unless_wanted),
    Promise(labelled_logits_are_exact, tiny.GENERATING),
    Promise(generation, tiny.GENERATING),
    Promise(generation_with_eager_attention, tiny.CORE_GENERATING),
    Promise(eager_attention_gives_the_same),
)
"""All of them, in the order of the tests."""


@contextlib.contextmanager
def _refused(kind: type[DeltatuneError], words: str) -> Iterator[None]:
    """Expect an error whose message has these words."""
    try:
        yield
    except kind as error:
        expect(words in str(error), f"it is refused, and the message does not say {words!r}: {error}")
        return
    raise AssertionError(f"it is not refused by a {kind.__name__} that says {words!r}")


def _same_anatomy(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    changed = [part for part in before if before[part] != after[part]]
    expect(not changed, f"{when}, the base differs in its {', '.join(changed)}")
