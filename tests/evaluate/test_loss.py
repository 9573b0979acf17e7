from __future__ import annotations

import math

import pytest
import torch

from deltatune.errors import TrainingError
from deltatune.evaluation import Job, loss_on
from deltatune.evaluation.kinds.classes import classify
from deltatune.evaluation.kinds.texts import row_losses, summed


@pytest.mark.parametrize("name", ["t5", "bart", "llama"])
def test_equals_the_models_own_loss_weighted_by_tokens(make_case, name):
    case = make_case(name)
    total, count = 0.0, 0
    for feature in case.encoded.features:
        batch = case.encoder.collate([feature])
        tokens = int((batch["labels"] != -100).sum())
        with torch.no_grad():
            total += case.model.base(**batch).loss.item() * tokens
        count += tokens
    found = loss_on(case.model, case.encoded, case.encoder, batch_size=3)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["tokens"] == count


@pytest.mark.parametrize("name", ["t5", "bart", "llama"])
@pytest.mark.parametrize("size", [1, 3])
def test_each_row_has_the_loss_it_has_alone(make_case, name, size):
    case = make_case(name)
    found = row_losses(Job(case.model, case.encoded, case.encoder, size))
    for row, feature in zip(found, case.encoded.features, strict=True):
        batch = case.encoder.collate([feature])
        tokens = int((batch["labels"] != -100).sum())
        with torch.no_grad():
            mean = case.model.base(**batch).loss.item()
        assert (row.nll, row.tokens) == (pytest.approx(mean * tokens, rel=1e-4), tokens)
    together = summed(found)
    assert together == pytest.approx(loss_on(case.model, case.encoded, case.encoder, batch_size=7), rel=1e-5)


def test_classification_equals_the_models_own_loss(make_case):
    case = make_case("bert")
    with torch.no_grad():
        batch = case.encoder.collate(case.encoded.features)
        out = case.model.base(**batch)
    found = loss_on(case.model, case.encoded, case.encoder, batch_size=2)
    assert found["loss"] == pytest.approx(out.loss.item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(
        (out.logits.argmax(-1) == batch["labels"]).float().mean().item()
    )
    assert found["tokens"] == 7
    assert "perplexity" not in found


def test_batch_size_does_not_matter(make_case):
    case = make_case("llama")
    losses = [loss_on(case.model, case.encoded, case.encoder, batch_size=size)["loss"] for size in (1, 2, 7)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_dropout_is_off_and_no_gradient_is_kept(make_case):
    case = make_case("t5")
    case.model.train()
    first, second = (loss_on(case.model, case.encoded, case.encoder, 4)["loss"] for _ in range(2))
    assert first == second
    assert case.model.base.encoder.training
    assert all(parameter.grad is None for parameter in case.model.parameters())


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_a_loss_that_is_not_finite_is_an_error(make_case, name):
    case = make_case(name)
    with torch.no_grad():
        next(case.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="learning rate"):
        loss_on(case.model, case.encoded, case.encoder, 4)


def test_classify_gives_log_probabilities_without_labels(make_case):
    case = make_case("bert")
    case.encoder.collate = case.encoder.collate_prompts
    job = Job(case.model, case.encoded, case.encoder, 3)
    for scores in job.each(lambda _, batch: classify(job, batch)):
        assert scores.shape == (3,)
        assert scores.exp().sum().item() == pytest.approx(1, abs=1e-5)
