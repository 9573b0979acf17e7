"""Full fine-tuning holds weights that no gradient can reach, since the task does not read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2ForImageClassification

from deltatune import AdaptedModel
from deltatune.core.adapter import Adapter
from deltatune.errors import TrainingError
from deltatune.methods.full import FullConfig
from deltatune.training.proof.certificate import Proof, snapshot

MASK, READ = "dinov2.embeddings.mask_token", "dinov2.embeddings.cls_token"


@pytest.fixture
def first_step() -> tuple[Adapter, dict[str, torch.Tensor], Callable[[], float]]:
    """A DINOv2 after its first step of full fine-tuning, its weights before it, and the step's loss."""
    torch.manual_seed(0)
    base = Dinov2ForImageClassification(
        Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
            num_labels=2, use_mask_token=True,
        )
    )  # fmt: skip
    model = AdaptedModel(base)
    adapter = model.attach("full", FullConfig())
    batch = {"pixel_values": torch.rand(2, 3, 28, 28), "labels": torch.tensor([0, 1])}
    before = snapshot(adapter)
    model.train()(**batch).loss.backward()
    torch.optim.AdamW(adapter.parameters(), lr=1e-3).step()
    return adapter, before, lambda: float(model(**batch).loss)


def test_a_weight_that_the_task_does_not_read_needs_no_gradient(tmp_path: Path, first_step) -> None:
    adapter, before, loss = first_step
    own = {path: parameter.detach().clone() for path, parameter in adapter.own.items()}
    certificate = Proof(tmp_path / "certificate.json", {})
    certificate.learned(adapter, before, loss)
    assert adapter.own[MASK].grad is None
    gradient, changed = certificate.lines
    assert gradient.values == {"parts": len(own), "without": [], "unread": [MASK]}
    assert f"does not read {MASK}" in gradient.detail
    assert changed.passed
    assert all(torch.equal(adapter.own[path], value) for path, value in own.items())  # left as it was


def test_a_weight_that_is_read_and_has_no_gradient_fails_by_name(tmp_path: Path, first_step) -> None:
    adapter, before, loss = first_step
    adapter.own[READ].grad = None
    certificate = Proof(tmp_path / "certificate.json", {})
    with pytest.raises(TrainingError, match=rf"gradient in every part: none in 2 parts of \d+, first {READ}"):
        certificate.learned(adapter, before, loss)
