"""The loss of many classes, computed in pieces, is torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deltatune.core import loss
from deltatune.core.loss import summed_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", [1, 2, 7, 100], ids="{} rows at once".format)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, weighted: bool
) -> None:
    monkeypatch.setitem(loss._AT_ONCE, "cpu", rows * 301)
    torch.manual_seed(0)
    logits = (torch.randn(23, 301) * 8 + 50).to(dtype).requires_grad_()
    targets = torch.randint(301, (23,))

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value / 23, logits)[0]

    wide = logits if dtype == torch.float64 else logits.float()
    weights = torch.rand(301).to(wide.dtype) if weighted else None
    found = summed_cross_entropy(logits, targets, weights)
    wanted = functional.cross_entropy(wide, targets, weights, reduction="sum")
    assert found.dtype == wide.dtype
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found), gradient(wanted))


def test_no_target_gives_no_loss() -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    value = summed_cross_entropy(logits, torch.empty(0, dtype=torch.long))
    value.backward()
    assert value == 0
    assert logits.grad is not None


def test_only_the_logits_are_kept() -> None:
    logits = torch.randn(40, 1000, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):  # type: ignore[func-returns-value]
        summed_cross_entropy(logits, torch.arange(40))
    assert sum(kept) < logits.nbytes + 40 * 20
