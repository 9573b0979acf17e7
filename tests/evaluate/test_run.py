from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import sacrebleu

from deltatune.errors import DataError, RecipeError
from deltatune.evaluation import (
    Job,
    evaluate,
    generate,
    higher_is_better,
    loss_on,
    metric_keys,
    primary_metric,
)
from deltatune.evaluation.kinds.texts import row_losses

from .conftest import Encoded


@dataclass
class Settings:
    metrics: str | list[str] = "auto"
    primary: str = "auto"
    select_by: str = "loss"
    batch_size: int = 3
    max_new_tokens: int = 5
    num_beams: int = 1
    positive: str | None = None


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_texts(make_case, name):
    case = make_case(name)
    progress = []
    found = evaluate(
        case.model, case.rows, case.encoded, case.encoder, Settings(), lambda *step: progress.append(step)
    )
    assert [p.id for p in found.predictions] == [row.id for row in case.rows]
    assert [p.reference for p in found.predictions] == [row.target for row in case.rows]
    texts = [p.prediction for p in found.predictions]
    bleu = sacrebleu.corpus_bleu(texts, [[row.target for row in case.rows]])
    assert found.metrics["bleu"] == pytest.approx(bleu.score)
    assert found.metrics["loss"] == loss_on(case.model, case.encoded, case.encoder, 3)["loss"]
    for key in ("rougeL_f", "exact_match", "repetition_rate", "stop_rate"):
        assert found.metrics[key] == pytest.approx(np.mean([p.scores[key] for p in found.predictions]))
    assert found.tokens_generated == sum(len(text.split()) for text in texts)
    assert set(found.signatures) == {"rouge", "bleu", "chrf"}
    assert progress[-1] == (7, 7)
    assert progress == sorted(progress)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generating_and_the_loss_share_the_encoder(make_case, name, beams):
    """Once a batch, and nothing comes out differently for it."""
    case, settings = make_case(name), Settings(num_beams=beams)
    calls: list[int] = []
    case.model.base.get_encoder().register_forward_hook(lambda *seen: calls.append(1))
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, settings)
    assert len(calls) == 3
    alone = dict(
        generate(case.model, case.encoded, case.encoder, batch_size=3, max_new_tokens=5, num_beams=beams)
    )
    assert [p.prediction for p in found.predictions] == [alone[row].text for row in range(7)]
    losses = row_losses(Job(case.model, case.encoded, case.encoder, 3))
    assert [(p.nll, p.tokens) for p in found.predictions] == [(loss.nll, loss.tokens) for loss in losses]


def test_classes(make_case):
    case = make_case("bert")
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, Settings())
    assert set(found.metrics) == {"accuracy", "macro_f1", "loss"}
    assert found.metrics["accuracy"] == np.mean([p.prediction == p.reference for p in found.predictions])
    assert found.metrics["loss"] == pytest.approx(
        loss_on(case.model, case.encoded, case.encoder, 2)["loss"], rel=1e-6
    )
    assert found.predictions[0].stopped is None


def test_images_are_noted_not_copied(make_case):
    case = make_case("bert")
    for row in case.rows:
        row.input = np.zeros((28, 30, 3), dtype=np.uint8)
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, Settings())
    assert found.predictions[0].as_dict()["input"] == "[image, 30 x 28 pixels]"


def test_rows_of_equal_input_are_one_group_and_others_are_not(make_case, tmp_path):
    """Images of one size have the same note, but are not the same."""
    case = make_case("bert")
    (tmp_path / "copy.png").write_bytes(b"the bytes of a file")
    (tmp_path / "again.png").write_bytes(b"the bytes of a file")
    inputs = [np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]
    inputs += ["a text", "another", "a text", tmp_path / "copy.png", tmp_path / "again.png"]
    for index, row in enumerate(case.rows):
        row.input = inputs[index % len(inputs)]
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, Settings())
    groups = [prediction.as_dict()["group"] for prediction in found.predictions][: len(inputs)]
    expected = [0, 1, 0, 2, 3, 2, 4, 4][: len(groups)]
    assert len(groups) >= 4
    assert [groups.index(group) for group in groups] == [expected.index(number) for number in expected]


def test_only_the_metrics_asked_for(make_case):
    case = make_case("t5")
    settings = Settings(metrics=["accuracy", "rougeL_f"])
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, settings)
    assert list(found.metrics) == ["accuracy", "rougeL_f"]
    assert set(found.predictions[0].scores) == {"accuracy", "rougeL_f"}


def test_nothing_is_generated_for_losses_alone(make_case):
    case = make_case("t5")
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, Settings(metrics=["loss"]))
    assert found.metrics == {"loss": loss_on(case.model, case.encoded, case.encoder, 3)["loss"]}
    assert found.tokens_generated == 0
    assert [p.prediction for p in found.predictions] == [""] * 7


def test_plain_text_has_no_prompt_to_answer(make_case):
    case = make_case("llama")
    for row in case.rows:
        row.target = ""
    found = evaluate(case.model, case.rows, case.encoded, case.encoder, Settings())
    assert set(found.metrics) == {"loss", "perplexity"}
    assert found.tokens_generated == 0
    assert [p.prediction for p in found.predictions] == [""] * 7
    assert primary_metric(Settings(), "causal-lm", targets=False) == "loss"
    with pytest.raises(RecipeError, match="bleu"):
        metric_keys(Settings(metrics=["bleu"]), "causal-lm", targets=False)


def test_no_rows_are_an_error(make_case):
    case = make_case("t5")
    with pytest.raises(DataError, match="no rows"):
        evaluate(case.model, [], Encoded([], []), case.encoder, Settings())


@pytest.mark.parametrize(
    ("metrics", "task", "hint"),
    [
        (["bleuu"], "text-to-text", "Did you mean 'bleu'"),
        (["rougel_f"], "causal-lm", "Did you mean 'rougeL_f'"),
        (["bleu"], "image-classification", "Known: accuracy"),
        (["perplexity"], "text-classification", "not a metric that can be used here"),
    ],
)
def test_metrics_that_do_not_exist_or_fit(metrics, task, hint):
    with pytest.raises(RecipeError, match=r"evaluation\.metrics\[0\]") as caught:
        metric_keys(Settings(metrics=metrics), task)
    assert hint in str(caught.value)


def test_primary():
    assert primary_metric(Settings(), "text-to-text") == "rougeL_f"
    assert primary_metric(Settings(), "image-classification") == "accuracy"
    assert primary_metric(Settings(metrics=["mean_length", "bleu"]), "text-to-text") == "bleu"
    chosen = Settings(metrics=["bleu"], primary="chrf")
    assert primary_metric(chosen, "causal-lm") == "chrf"
    assert metric_keys(chosen, "causal-lm") == ["bleu", "chrf"]
    with pytest.raises(RecipeError, match=r"evaluation\.primary"):
        primary_metric(Settings(primary="mean_length"), "text-to-text")
    with pytest.raises(RecipeError, match="better from worse"):
        primary_metric(Settings(metrics=["mean_length"]), "text-to-text")


@pytest.mark.parametrize(
    ("metric", "task"),
    [("mean_length", "text-to-text"), ("perplexity", "text-classification"), ("chrf", "causal-lm")],
)
def test_what_cannot_choose_is_refused_before_training(metric, task):
    with pytest.raises(RecipeError, match=rf"evaluation\.select_by: '{metric}'"):
        metric_keys(Settings(select_by=metric), task, targets=task != "causal-lm")


def test_direction():
    assert higher_is_better("rougeL_f")
    assert not higher_is_better("loss")
    assert not higher_is_better("repetition_rate")
    with pytest.raises(RecipeError):
        higher_is_better("mean_length")
