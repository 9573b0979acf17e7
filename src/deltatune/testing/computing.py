"""Promises about ways to compute: checkpointing, dropout, generation, attention, precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.testing import tiny
from deltatune.testing.building import adapted, add, close, gradients, logits, loss
from deltatune.testing.case import Case
from deltatune.testing.expecting import expect


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
