"""A base is held by one model at a time, and that is no trainer's model."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, ModelError
from deltatune.methods import METHODS
from deltatune.testing import tiny

LORA = METHODS.get("lora")


def test_deltas_of_two_models_do_not_act_on_one_base_at_a_time() -> None:
    """Else what the second one trains fits what the first one makes, and its file fits no base."""
    base, batch = tiny.model("llama"), tiny.batch("llama")
    one, two = AdaptedModel(base), AdaptedModel(base)
    plain = one.labelled_logits(batch)[0]
    tiny.perturb(one.attach("a", LORA()))
    with pytest.raises(AdapterError, match=r"another AdaptedModel \(a\)"):
        two.attach("b", LORA())
    assert not two.configs
    with one.using():
        two.attach("b", LORA())
        two.use()
    with pytest.raises(AdapterError, match="another AdaptedModel"):
        two.use("b")
    one.detach("a")
    two.use("b")
    assert torch.equal(two.labelled_logits(batch)[0], plain)


def test_what_is_no_model_of_transformers() -> None:
    model = AdaptedModel(tiny.model("llama"))
    with pytest.raises(AdapterError, match="DeltaCallback"):
        model.config  # noqa: B018  # which trainers ask for
    with pytest.raises(ModelError, match="AdaptedModel is not a model of Transformers"):
        AdaptedModel(model)
