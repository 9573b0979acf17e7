"""Rows of a batch find their adapters, whatever the slices; dropout depends on time and place only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.delta import Clock, Dropout
from deltatune.core.model import AdaptedModel
from deltatune.core.taps import Active, Route, by_rows
from deltatune.errors import AdapterError, DeltatuneError
from deltatune.methods import METHODS
from deltatune.testing import tiny


@st.composite
def cut_batches(draw: st.DrawFn) -> tuple[int, dict[str, slice]]:
    """A number of rows, and slices of them that do not overlap, in any order."""
    rows = draw(st.integers(1, 9))
    marks = sorted(draw(st.lists(st.integers(0, rows), min_size=2, max_size=8)))
    pairs = list(zip(marks[::2], marks[1::2], strict=False))
    slices = [slice(start, stop) for start, stop in pairs if start < stop]
    order = draw(st.permutations(range(len(slices))))
    return rows, {f"a{index}": slices[index] for index in order}


@given(cut_batches(), st.integers(1, 4))
def test_each_row_is_acted_on_by_its_own_adapter(batch: tuple[int, dict[str, slice]], stretch: int) -> None:
    rows, parts = batch
    routes = [Route(name, part) for name, part in parts.items()]
    y = torch.arange(rows * stretch, dtype=torch.float32)[:, None]
    found = by_rows(
        Active(tuple(routes), rows), routes, y, lambda name, _, part: part + 100 * (1 + int(name[1:]))
    )
    expected = y.clone()
    for name, part in parts.items():
        expected[part.start * stretch : part.stop * stretch] += 100 * (1 + int(name[1:]))
    assert torch.equal(found, expected)


def test_a_site_whose_rows_cannot_be_told_apart_is_refused() -> None:
    active = Active((Route("a", slice(0, 2)),), 4)
    with pytest.raises(DeltatuneError, match="6 leading rows for a batch of 4"):
        by_rows(active, list(active.routes), torch.zeros(6, 1), lambda _n, _r, part: part)


BASE = tiny.model("llama")


@settings(max_examples=25, deadline=None)
@given(cut_batches())
def test_routed_logits_are_those_of_each_row_alone(batch: tuple[int, dict[str, slice]]) -> None:
    rows, parts = batch
    model = AdaptedModel(BASE)
    try:
        for seed, name in enumerate(sorted(parts)):
            method = METHODS.get("prefix" if seed % 2 else "lora")
            tiny.perturb(
                model.attach(name, method(**({"n_tokens": seed + 1} if seed % 2 else {"r": seed + 1})))
            )
        made = tiny.batch("llama", rows=rows)
        expected = []
        for row in range(rows):
            name = [n for n, part in parts.items() if part.start <= row < part.stop]
            model.use(*name)
            expected.append(model(**tiny.rows_of(made, slice(row, row + 1))).logits)
        with torch.no_grad(), model.routing(parts, rows):
            found = model(**made).logits
        real = made["attention_mask"].bool()
        torch.testing.assert_close(found[real], torch.cat(expected)[real], rtol=1e-4, atol=1e-5)
    finally:
        for name in list(model.adapters):
            model.detach(name)


@pytest.mark.parametrize(
    "parts",
    [
        {"a": slice(0, 3), "b": slice(2, 4)},
        {"a": slice(0, 0)},
        {"a": slice(0, 5)},
        {"a": slice(3, 2)},
        {"a": slice(-2, 4)},
        {"a": slice(0, 4, 2)},
    ],
)
def test_impossible_rows_are_refused_and_nothing_changes(parts: dict[str, slice]) -> None:
    model = AdaptedModel(tiny.model("llama"))
    for name in ("a", "b"):
        model.attach(name, METHODS.get("lora")())
    with pytest.raises(DeltatuneError, match="rows"), model.routing(parts, 4):
        pass
    assert model.active == ("b",)
    with pytest.raises(AdapterError, match="'c'"), model.routing({"c": slice(0, 1)}, 4):
        pass


def dropout(p: float, path: str = "x", seed: int = 0, tick: int = 0) -> Dropout:
    made = Dropout(p)
    clock = Clock(seed)
    clock.tick = tick
    made.bind(clock, path)
    return made


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    y = dropout(p)(torch.ones(400, 500))
    share = float((y == 0).float().mean())
    error = (p * (1 - p) / y.numel()) ** 0.5
    assert abs(share - p) < 5 * error
    assert abs(float(y.mean()) - 1) < 5 * error / (1 - p)
    kept = y[y != 0]
    assert torch.equal(kept, torch.full_like(kept, 2**16 / (2**16 - round(p * 2**16))))


def test_dropout_is_a_function_of_seed_site_and_tick() -> None:
    x = torch.ones(64, 33)  # no multiple of the four numbers in a word
    first = dropout(0.5)(x)
    assert torch.equal(dropout(0.5)(x), first)
    others = [
        dropout(0.5, path="y")(x),
        dropout(0.5, seed=1)(x),
        dropout(0.5, tick=1)(x),
    ]
    for other in others:
        agreement = float(((other == 0) == (first == 0)).float().mean())
        assert 0.4 < agreement < 0.6


def test_dropout_leaves_eval_mode_and_p_zero_alone() -> None:
    x = torch.randn(5, 7)
    assert dropout(0.5).eval()(x) is x
    assert dropout(0.0)(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_dtype(dtype: torch.dtype) -> None:
    x = torch.ones(8, 8, dtype=dtype)
    assert dropout(0.25)(x).dtype == dtype
    assert torch.equal(dropout(0.25)(x) == 0, dropout(0.25)(x.float()) == 0)


def test_dropout_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    dropout(0.5)(torch.ones(9))
    assert torch.equal(torch.rand(3), expected)
