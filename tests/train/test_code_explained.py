"""An error before the first step is the base's affair only if its code, or torch, raised it."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.testing import tiny
from deltatune.training.loop.micro_batches import code_explained


@pytest.fixture
def model() -> AdaptedModel:
    return AdaptedModel(tiny.model("llama"))


def test_sizes_that_do_not_fit_are_said_to_be_that(model: AdaptedModel) -> None:
    with (
        pytest.raises(TargetError, match=r"LlamaForCausalLM with prompt does not work .*RuntimeError: mat1"),
        code_explained(model, "prompt"),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_what_code_of_others_raises_is_said_to_be_that(model: AdaptedModel) -> None:
    with pytest.raises(TargetError, match="IndexError"), code_explained(model, None):
        model.base(input_ids=torch.tensor(3))


def test_a_slip_of_our_own_code_stays_what_it_is(model: AdaptedModel) -> None:
    with pytest.raises(AttributeError), code_explained(model, "prompt"):
        BaseView.d_model.fget(None)  # type: ignore[attr-defined]
