"""Vectors of texts: what is learned, in one batch or in parts, is what Sentence Transformers learns."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import deltatune as dt
from deltatune.errors import DeltatuneError, TargetError
from deltatune.memory.predict import Setup, predict
from deltatune.methods import METHODS
from deltatune.models.load import load_base
from deltatune.tasks import TASKS, vectors
from deltatune.testing.folders import save_tiny
from deltatune.training import run as run_entry
from deltatune.training.loop.losses import Losses
from tests.contract.cases import CASES
from tests.tasks.embedding import dt_tensors, loaded, recipe_of, units
from tests.train.test_run import StopAfter


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("texts", [2, 3, 5])
def test_in_batch_negatives_are_those_of_sentence_transformers(texts: int) -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    made = units(7, texts, 6)
    theirs = losses.MultipleNegativesRankingLoss(model=None)
    wanted = theirs.compute_loss_from_embeddings(list(made.unbind(1)), labels=None)
    keys = torch.arange(7 * texts).view(7, texts)
    assert float(vectors.in_batch_negatives(made, keys).mean()) == pytest.approx(float(wanted), rel=1e-5)
    part = vectors.in_batch_negatives(made, keys, slice(2, 5))
    torch.testing.assert_close(part, vectors.in_batch_negatives(made, keys)[2:5])


def test_what_is_known_to_be_right_is_no_negative() -> None:
    made = units(4, 3, 6)
    # Rows 0 and 1 share an anchor, rows 1 and 2 a positive; row 3's negative is row 0's positive.
    keys = torch.tensor([[1, 11, 21], [1, 12, 22], [3, 12, 23], [4, 14, 11]])
    candidates = [(row, text) for text in (1, 2) for row in range(4)]
    wanted = []
    for row in range(4):
        right = {int(keys[other, 1]) for other in range(4) if keys[other, 0] == keys[row, 0]}
        left = [
            (r, t)
            for r, t in candidates
            if (r, t) == (row, 1) or int(keys[r, t]) not in right | {int(keys[row, 0])}
        ]
        logits = torch.stack([20 * made[row, 0] @ made[r, t] for r, t in left])
        wanted.append(-torch.log_softmax(logits, dim=0)[left.index((row, 1))])
    torch.testing.assert_close(vectors.in_batch_negatives(made, keys), torch.stack(wanted))
    same = torch.tensor([[1, 2, 3]] * 4)
    assert vectors.in_batch_negatives(made[:, :2], same[:, :2]).abs().max() < 1e-5


def test_cosent_is_that_of_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    made, scores = units(9, 2, 6), torch.tensor([1.0, 2, 2, 0, 5, 3, 3, 4, 1])
    wanted = losses.CoSENTLoss(model=None).compute_loss_from_embeddings(list(made.unbind(1)), scores)
    cosines = (made[:, 0] * made[:, 1]).sum(-1)
    assert float(vectors.cosent(cosines, scores)) == pytest.approx(float(wanted), rel=1e-5)
    torch.testing.assert_close(vectors.cosent(cosines, scores * 100 - 7), vectors.cosent(cosines, scores))
    assert float(vectors.cosent(cosines, torch.ones(9))) == 0


@pytest.mark.parametrize("task", ["embedding", "text-similarity"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_cached_batch_has_the_gradient_of_the_whole(bert_folder: Path, task: str, dropout: float) -> None:
    recipe = recipe_of(bert_folder, task=task)
    model, encoder, data = loaded(recipe)
    model.attach("d", METHODS.get("lora")(r=2, dropout=dropout))
    adapter = model.double().adapter("d")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    features = encoder.encode(data.train).features[:10]
    micro = [
        (list(rows), encoder.collate([features[r] for r in rows]))
        for rows in ([0, 1, 2], [3, 4, 5, 6], [7, 8, 9])
    ]
    model.train()
    parameters = [parameter for _, parameter in adapter.trainable()]

    start = adapter.clock.tick
    made = [TASKS.get(task).logits(model, batch) for _, batch in micro]
    whole = TASKS.get(task).loss(torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])) / 10
    wanted = torch.autograd.grad(whole, parameters)

    adapter.clock.tick = start
    losses = Losses(model, adapter.clock, task, None, autocast=False)
    total = 0.0
    for value, loss in losses.parts(micro, 10, lambda rows: contextlib.nullcontext()):
        total += float(value)
        loss.backward()
    assert total == pytest.approx(whole.item(), rel=1e-12)
    assert adapter.clock.tick == start + len(micro)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
    adapter.clock.tick = start
    assert losses.total(micro, lambda rows: contextlib.nullcontext()) / 10 == pytest.approx(total, rel=1e-6)


@pytest.mark.predicts
def test_a_run_in_micro_batches_is_the_run_in_one(bert_folder: Path, tmp_path: Path) -> None:
    tensors = []
    for name, size in (("whole", None), ("parts", 3)):
        train = {"max_steps": 3, "batch_size": 8, "precision": "fp32", "micro_batch_size": size}
        result = dt.train(recipe_of(bert_folder, train=train), tmp_path / name, quiet=True)
        tensors.append(dt_tensors(tmp_path / name))
    for key, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][key], tensor, rtol=1e-3, atol=1e-5)
    memory = result.memory
    assert memory is not None
    assert abs(memory.predicted.total / memory.measured.total - 1) < 0.1


@pytest.mark.slow
def test_runs_that_share_steps_compare_their_own_rows(bert_folder: Path, tmp_path: Path) -> None:
    methods = [{"lora": {"r": 2}}, {"lora": {"r": 4}, "name": "other"}, {"prompt": {"n_tokens": 2}}]
    boards = []
    for together in (1, 3):
        recipe = recipe_of(bert_folder, methods=methods, together=together, seeds=[0, 1])
        dt.compare(recipe, tmp_path / str(together), quiet=True)
        boards.append(tmp_path / str(together) / "runs")
    for run in sorted(boards[0].iterdir()):
        alone, raced = dt_tensors(run), dt_tensors(boards[1] / run.name)
        for key, tensor in alone.items():
            torch.testing.assert_close(raced[key], tensor, rtol=1e-2, atol=2e-4)


@pytest.mark.slow
def test_an_interrupted_run_in_micro_batches_goes_on_bit_for_bit(bert_folder: Path, tmp_path: Path) -> None:
    train = {
        "max_steps": 6,
        "batch_size": 8,
        "micro_batch_size": 3,
        "precision": "fp32",
        "base_dropout": True,
    }
    recipe = recipe_of(bert_folder, methods=[{"lora": {"dropout": 0.2}}], train=train)
    run_entry(recipe, recipe.methods[0], 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_entry(recipe, recipe.methods[0], 3, tmp_path / "parts", observer=StopAfter(3))
    run_entry(recipe, recipe.methods[0], 3, tmp_path / "parts", resume=True)
    whole, parts = dt_tensors(tmp_path / "whole"), dt_tensors(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("kind", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.method != "hard-prompt"], ids=lambda case: case.label
)
def test_every_method_learns_vectors(case: Any, kind: Any, bert_folder: Path, tmp_path: Path) -> None:
    folder = bert_folder if kind == "bert" else save_tiny(kind, tmp_path / kind)
    model, encoder, data = loaded(recipe_of(folder))
    config = case.settings()
    if case.refused(kind) or config.name in ("majority", "head", "knn"):
        with pytest.raises(TargetError):
            model.attach("m", config)
        return
    model.attach("m", config)
    adapter = model.adapter("m")
    adapter.start(10)
    batch = encoder.collate(encoder.encode(data.train[:5]).features)
    if config.trains:
        model.train()
        TASKS.get("embedding").loss(model.text_vectors(batch), batch["labels"]).backward()
        graded = [name for name, p in adapter.trainable() if p.grad is not None and p.grad.abs().sum() > 0]
        assert graded, "nothing learns"
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    model.eval()
    with torch.no_grad():
        together = model.text_vectors(batch)
        assert together.shape == (5, 2, 32)
        alone = [encoder.collate([f]) for f in encoder.encode(data.train[:5]).features]
        torch.testing.assert_close(
            torch.cat([model.text_vectors(b) for b in alone]), together, atol=2e-5, rtol=1e-4
        )
        if not case.routable:
            return
        with model.routing({"m": slice(1, 3)}, 5):
            routed = model.text_vectors(batch)
        with model.using():
            plain = model.text_vectors(batch)
        torch.testing.assert_close(routed[1:3], together[1:3], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(routed[3:], plain[3:], atol=2e-5, rtol=1e-4)


def test_methods_are_compared_and_shown(bert_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(bert_folder, methods=["untuned", {"lora": {"r": 4}}], together=2, seeds=[0, 1])
    board = dt.compare(recipe, tmp_path / "out", quiet=True)
    rows = {row.name: row for row in board.rows}
    assert set(rows) == {"untuned", "lora"}, "there is no head, and no baseline of one"
    for row in rows.values():
        assert row.rank is not None
        assert row.interval is not None
        assert row.metrics is not None
        assert row.interval[0] <= row.metrics["mrr_at_10"] <= row.interval[1]
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "MRR@10" in page
    assert "the books are" in page


@pytest.mark.slow
def test_memory_is_predicted_in_micro_batches(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    config = load_base(recipe.model, recipe.task, None).model.config
    from deltatune.tasks.shapes import BatchShape

    setup = Setup(config, "embedding", METHODS.get("lora")(), BatchShape(16, 64, texts=2))
    whole, parts = predict(setup), predict(setup.changed(shape=BatchShape(4, 64, texts=2), micro_batches=4))
    assert parts.memory.total < whole.memory.total / 2
    assert parts.total_parameters == whole.total_parameters


@pytest.mark.slow
def test_metrics_of_negatives_need_some(bert_folder: Path, tmp_path: Path) -> None:
    told = "is about negatives, and the rows have none"
    with pytest.raises(DeltatuneError, match=told):
        dt.compare(
            recipe_of(bert_folder, evaluation={"primary": "triplet_accuracy"}), tmp_path / "out", quiet=True
        )
    with pytest.raises(DeltatuneError, match=told):
        dt.train(
            recipe_of(bert_folder, evaluation={"select_by": "triplet_accuracy"}), tmp_path / "run", quiet=True
        )
