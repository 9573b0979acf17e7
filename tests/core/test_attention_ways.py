"""A base computes the same by whichever attention it is asked for, with learned keys and values too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deltatune.core.attention import OVER_EAGER, OVER_SDPA
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny

TASKS = {
    "t5": "text-to-text",
    "llama": "causal-lm",
    "bert": "text-classification",
    "vit": "image-classification",
}


def of_step(architecture: str, method: str, attention: str) -> list[Tensor]:
    """The loss of a padded batch and the gradients of what is trained."""
    base = tiny.model(architecture, attention=attention)
    model = AdaptedModel(base, tiny.heads(architecture), eager_up_to=0)
    adapter = model.attach("a", METHODS.get(method)(), seed=1)
    tiny.perturb(adapter, seed=1)
    over = {"sdpa": OVER_SDPA, "eager": OVER_EAGER}[attention] if method == "prefix" else attention
    assert base.config._attn_implementation == over
    loss = summed_loss(model.train(), tiny.batch(architecture), TASKS[architecture])
    loss.backward()
    return [loss.detach(), *(p.grad for p in adapter.parameters() if p.grad is not None)]


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("architecture", TASKS)
def test_eager_attention_is_sdpa(architecture: str, method: str) -> None:
    eager, sdpa = (of_step(architecture, method, attention) for attention in ("eager", "sdpa"))
    assert len(eager) == len(sdpa) > 1
    for one, other in zip(eager, sdpa, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
