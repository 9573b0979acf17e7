"""The accounts are exact: storages, not tensors; each for as long as it lives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deltatune.memory.account import Accountant


def test_views_do_not_count_and_what_is_gone_is_gone() -> None:
    with Accountant() as accounts:
        a = torch.zeros(1000)
        view = a.view(10, 100)[3:]
        b = view + 1  # 700 numbers
        del b
        torch.ones(500)
    memory = accounts.memory()
    assert memory.total == 4 * 1700
    assert view.shape == (7, 100)


def test_a_view_keeps_its_storage_alive() -> None:
    with Accountant() as accounts:
        part = torch.zeros(1000)[:1]
        torch.ones(500)
    assert accounts.memory().total == 4 * 1500
    assert part.numel() == 1


def test_parts_of_a_linear_step_are_those_of_the_sizes() -> None:
    layer, x = nn.Linear(50, 20, bias=False), torch.ones(8, 50)
    accounts = Accountant(vocabulary=20)
    accounts.hold(layer.parameters(), "delta")
    accounts.watch(layer.parameters())
    with accounts:
        loss = (layer(x) ** 2).sum()
        accounts.forward_done()
        loss.backward()
    accounts.close()
    parts = accounts.memory().parts
    assert parts["delta"] == parts["gradients"] == 4 * 1000
    assert parts["logits"] >= 4 * 160
    assert parts["weights"] == parts["optimizer"] == 0
    assert accounts.flops == 2 * 2 * 8 * 50 * 20


def test_marks_part_the_accounts() -> None:
    with Accountant() as accounts:
        kept = torch.zeros(100)
        accounts.mark("a")
        torch.zeros(50)
        accounts.mark("a")
        torch.zeros(10)
    segments = {label: sum(parts.values()) for label, parts in accounts.memory().segments.items()}
    assert segments == {"start": 400, ("a", 0): 600, ("a", 1): 440}
    assert kept.numel() == 100


@pytest.mark.parametrize("spec", [("nf4", True), ("fp4", False), ("int8", True)], ids=lambda spec: spec[0])
def test_quantized_bytes_are_those_of_the_layer(spec: tuple[str, bool]) -> None:
    layers = pytest.importorskip("bitsandbytes").nn
    from deltatune import quant
    from deltatune.quant.planned import quantized_bytes
    from deltatune.recipe.base_sections import QuantizationSpec

    wanted = QuantizationSpec(format=spec[0], double=spec[1], compute="fp32")  # type: ignore[arg-type]
    if wanted.format == "int8":
        layer = layers.Linear8bitLt(192, 320, bias=False, has_fp16_weights=False)
    else:
        layer = layers.Linear4bit(
            192, 320, bias=False, compute_dtype=torch.float32, compress_statistics=spec[1], quant_type=spec[0]
        )
    layer.weight.data = torch.randn(320, 192)
    layer = nn.Sequential(layer.to("cpu"))
    assert sum(t.nbytes for t in quant.held(layer)) == quantized_bytes(192, 320, wanted)


def test_a_storage_may_go_while_others_are_weighed():
    """Threads of a process group and the garbage collector let go of tensors at any time."""
    accounts = Accountant(resized=True)
    with accounts:
        first, second = torch.ones(8), torch.ones(8)
    known = [accounts._known[tensor.untyped_storage()._cdata] for tensor in (first, second)]
    holding = [second]
    del second
    known[0].ref = holding.clear  # the second one goes when the first is looked at
    with accounts:
        torch.zeros(1)
    assert [storage.bytes for storage in known] == [0, 0]
    assert sum(change for change, storage in accounts._events if storage in known) == 0
