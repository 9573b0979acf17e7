"""Vectors of texts: what is learned, found and written is what Sentence Transformers computes."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.core.pooling import pooled
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data, prompt_row
from deltatune.errors import DeltatuneError, TargetError
from deltatune.memory.predict import Setup, predict
from deltatune.methods import METHODS
from deltatune.models.load import load_base
from deltatune.models.pooling import pooling_of
from deltatune.models.source import locate
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import Prediction, read_predictions
from deltatune.tasks import TASKS, vectors
from deltatune.testing import task_checks
from deltatune.testing.folders import save_tiny
from deltatune.training import run as run_entry
from deltatune.training.loop.losses import Losses
from tests.contract.cases import CASES

WORDS, NOUNS = ("bad", "fair", "good", "great"), ("books", "ships", "songs", "stars")


def pairs(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    """Queries of which noun, word and number tell the text that belongs to it."""
    return [
        {
            "query": f"{n} {WORDS[n % 4]} {NOUNS[n // 4 % 4]}",
            "positive": f"the {NOUNS[n // 4 % 4]} are {WORDS[n % 4]} {n}",
            **{name: value.format(n=n) for name, value in more.items()},
        }
        for n in range(count)
    ]


def scored(count: int = 60) -> list[dict[str, Any]]:
    """Two texts each, whose score is the number of words that they share."""
    draw, rows = random.Random(0), []
    for n in range(count):
        first, second = ([draw.choice(WORDS), draw.choice(NOUNS)] for _ in range(2))
        score = sum(a == b for a, b in zip(first, second, strict=True)) * 2.5
        rows.append(
            {"sentence1": f"{n} {' '.join(first)}", "sentence2": f"the {' '.join(second)}", "score": score}
        )
    return rows


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def recipe_of(folder: Path, rows: Any = None, task: str = "embedding", **changes: Any) -> Recipe:
    given = rows or (pairs() if task == "embedding" else scored())
    data = given if isinstance(given, dict) else {"source": given, "split": {"validation": 0.2, "test": 0.3}}
    sections: dict[str, Any] = {
        "task": task,
        "model": str(folder),
        "data": data,
        "methods": ["lora"],
        "train": {"max_steps": 4, "batch_size": 8, "precision": "fp32"},
        "evaluation": {"batch_size": 8},
    }
    return dt.make_recipe(**(sections | changes))


def loaded(recipe: Recipe) -> tuple[AdaptedModel, Encoder, Any]:
    """The base without a delta, its encoder and the data."""
    base, data = load_base(recipe.model, recipe.task, None), load_data(recipe.data, recipe.task)
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor, pooling=base.pooling)
    return model, Encoder(recipe.task, base.processor, recipe.data, None, base.facts), data


SLOW = {"methods_are_compared", "check_and_plan_know_it"}
SLOW_TWICE = SLOW | {"a_run_proves_itself", "evaluating_again_gives_the_same", "it_answers"}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{task}-{check}", marks=[pytest.mark.slow] if check.name in slow else [])
        for task, rows, slow in (
            ("embedding", pairs(40), SLOW),
            ("text-similarity", scored(40), SLOW_TWICE),
        )
        for check in task_checks(TASKS.get(task), rows)
    ],
)
def test_they_keep_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def units(*size: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*size, generator=torch.Generator().manual_seed(seed)), dim=-1)


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


def dt_tensors(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter/adapter_model.safetensors")


def sentence_transformer(folder: Path) -> Any:
    module = pytest.importorskip("sentence_transformers")
    return module.SentenceTransformer(str(folder), device="cpu")


def test_search_is_scored_as_by_sentence_transformers(bert_folder: Path, tmp_path: Path) -> None:
    evaluators = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    rows = pairs(80, negative="no {n} trains")
    for row in rows[::5]:
        row["query"] = rows[0]["query"]  # several right texts of one query
    rows[3]["positive"] = rows[4]["positive"]
    recipe = recipe_of(bert_folder, rows, methods=["untuned"])
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    test = load_data(recipe.data, recipe.task).test
    model = sentence_transformer(bert_folder)
    corpus = {text: text for text in dict.fromkeys(row.target for row in test)}
    right = {row.id: {other.target for other in test if other.input == row.input} for row in test}
    theirs = evaluators.InformationRetrievalEvaluator(
        {row.id: row.input for row in test}, corpus, right, mrr_at_k=[10], precision_recall_at_k=[1, 5, 10],
        main_score_function="cosine", write_csv=False,
    )(model)  # fmt: skip
    found = result.metrics.test
    assert found["mrr_at_10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-6)
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(theirs[f"cosine_recall@{k}"], abs=1e-6)
    triplets = evaluators.TripletEvaluator(
        [r.input for r in test], [r.target for r in test], [r.negatives[0] for r in test], write_csv=False
    )(model)
    assert found["triplet_accuracy"] == pytest.approx(triplets["cosine_accuracy"], abs=1e-6)
    lines = read_predictions(tmp_path / "run/predictions.jsonl", remedy="")
    assert all(len(line.nearest or ()) == 3 and line.prediction == line.nearest[0] for line in lines)
    assert sum(line.scores["mrr_at_10"] for line in lines) / len(lines) == pytest.approx(found["mrr_at_10"])
    assert len({line.group for line in lines}) < len(lines), "rows of one query count as one"


def test_similarity_is_scored_as_by_sentence_transformers(bert_folder: Path, tmp_path: Path) -> None:
    evaluators = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    recipe = recipe_of(bert_folder, task="text-similarity")
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    dt.merge(tmp_path / "run", tmp_path / "merged")
    model = sentence_transformer(tmp_path / "merged")
    test = load_data(recipe.data, recipe.task).test
    theirs = evaluators.EmbeddingSimilarityEvaluator(
        [r.input for r in test], [r.pair for r in test], [float(r.target) for r in test], write_csv=False
    )(model)
    found = result.metrics.test
    assert set(found) == {"spearman", "pearson", "loss"}
    assert found["spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-4)
    assert found["pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-4)
    row = {"sentence1": test[0].input, "sentence2": test[0].pair}
    told, refused = dt.predict(tmp_path / "run", [row, "one text alone"])
    assert isinstance(told, Prediction)
    lines = read_predictions(tmp_path / "run/predictions.jsonl", remedy="")
    assert told.prediction == lines[0].prediction
    assert "is one text, and the run reads sentence1, sentence2" in refused.error


SLOWLY = [pytest.param(None, marks=pytest.mark.slow), "cls", pytest.param("last", marks=pytest.mark.slow)]


@pytest.mark.parametrize("pooling", SLOWLY)
def test_sentence_transformers_loads_what_is_merged(
    bert_folder: Path, tmp_path: Path, pooling: str | None
) -> None:
    data = {
        "source": pairs(),
        "split": {"test": 0.1},
        "template": "query: {input}",
        "target_template": "a {target}",
    }
    model = {"name": str(bert_folder), "pooling": pooling}
    train = {"max_steps": 4, "batch_size": 8, "precision": "fp32", "lr": 0.01}
    recipe = recipe_of(bert_folder, data, model=model, train=train)
    dt.train(recipe, tmp_path / "run", quiet=True)
    dt.merge(tmp_path / "run", tmp_path / "merged")
    texts = ["3 good books", "a longer text about ships, songs and stars"]
    theirs = sentence_transformer(tmp_path / "merged")
    assert theirs.max_seq_length == 512
    ours = torch.tensor([answer.vector for answer in dt.predict(tmp_path / "run", texts)])
    torch.testing.assert_close(
        torch.tensor(theirs.encode(texts, prompt_name="query")), ours, atol=1e-5, rtol=1e-5
    )
    assert theirs.prompts["document"] == "a "
    again = load_base(recipe_of(tmp_path / "merged").model, "embedding", None)
    assert again.pooling == (pooling or "mean"), "the merged model is a base that says how it pools"
    dt.merge(tmp_path / "run", tmp_path / "merged")  # a merged model is replaced, its folders too


@pytest.mark.slow
def test_a_delta_alone_works_in_sentence_transformers(bert_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    train = {"max_steps": 4, "batch_size": 8, "precision": "fp32", "lr": 0.01}
    dt.train(recipe_of(bert_folder, train=train), tmp_path / "run", quiet=True)
    texts = ["3 good books", "a longer text about ships, songs and stars"]
    model = sentence_transformer(bert_folder)
    plain = torch.tensor(model.encode(texts, normalize_embeddings=True))
    model.load_adapter(str(tmp_path / "run/adapter"))
    theirs = torch.tensor(model.encode(texts, normalize_embeddings=True))
    ours = torch.tensor([answer.vector for answer in dt.predict(tmp_path / "run", texts)])
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (plain - ours).abs().max() > 1e-3


def test_texts_to_be_found_are_embedded_with_their_template(bert_folder: Path, tmp_path: Path) -> None:
    data = {"source": pairs(), "split": {"test": 0.1}, "target_template": "a {target}"}
    dt.train(recipe_of(bert_folder, data), tmp_path / "run", quiet=True)
    asked = [{"positive": "good books"}, {"query": "a good books"}, "a good books", {"other": "x"}]
    found, query, text, refused, in_json, other = dt.predict(
        tmp_path / "run", [*asked, '{"positive": "good books"}', '{"other": "x"}']
    )
    assert isinstance(found, Prediction)
    assert found.vector == query.vector == text.vector == in_json.vector
    assert other.input == '{"other": "x"}'  # a text like any other
    assert "has no column" in refused.error


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


class StopAfter(Silent):
    """Interrupts the run after some training steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task == "Training" and numbers:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_pooling_is_that_of_sentence_transformers() -> None:
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    states = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6, [1, 0, 0, 0, 0, 0]])
    for ours, theirs in (("mean", "mean"), ("cls", "cls"), ("last", "lasttoken")):
        wanted = modules.Pooling(4, pooling_mode=theirs)({"token_embeddings": states, "attention_mask": mask})
        torch.testing.assert_close(pooled(states, mask, ours), wanted["sentence_embedding"])


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "mean"), ("bert", "cls"), ("llama", "mean"), ("llama", "last")]
)
def test_a_prompt_counts_as_text_as_in_peft(kind: Any, pooling: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    folder = save_tiny(kind, tmp_path / kind)
    model, encoder, data = loaded(recipe_of(folder, model={"name": str(folder), "pooling": pooling}))
    model.attach("p", METHODS.get("prompt")(n_tokens=3))
    model.eval()
    model.save(tmp_path / "saved", "p")
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "saved").eval()
    batch = encoder.collate(encoder.encode(data.train[:4]).features)
    flat = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = theirs(**flat).last_hidden_state
        mask = F.pad(flat["attention_mask"], (3, 0), value=1)
        wanted = F.normalize(pooled(states, mask, pooling), dim=-1).unflatten(0, (4, 2))
        torch.testing.assert_close(model.text_vectors(batch), wanted, atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_max_tokens": True}, None),
    ],
)
def test_a_base_says_how_it_pools(tmp_path: Path, files: dict[str, Any], told: str | None) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(files), "utf-8")
    if told is None:
        with pytest.raises(DeltatuneError, match="pools by max_tokens; deltatune has mean, cls and last"):
            load_base(recipe_of(folder).model, "embedding", None)
        return
    base = load_base(recipe_of(folder).model, "embedding", None)
    assert base.pooling == told
    assert any("Dense" in text for text in base.warnings)


@pytest.mark.parametrize(
    "modules",
    [
        "{",
        "[3]",
        "{}",
        '[{"type": "a.Pooling", "path": "../elsewhere"}]',
        '[{"type": "a.Pooling", "path": "/etc"}]',
    ],
)
def test_files_of_a_base_that_say_nothing_lead_nowhere(tmp_path: Path, modules: str) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text('{"pooling_mode": "cls"}', "utf-8")
    (folder / "modules.json").write_text(modules, "utf-8")
    source = locate(recipe_of(folder).model)
    if "Pooling" in modules:
        with pytest.raises(DeltatuneError, match="pools by nothing that is known"):
            pooling_of(source, None, "embedding")
    else:
        assert pooling_of(source, None, "embedding") == ("mean", [])
    assert pooling_of(source, "last", "embedding") == ("last", [])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("anchor", "positive"), ("anchor", "positive")),
        (("question", "answer"), ("question", "answer")),
        (("input", "target"), ("input", "target")),
        (("query", "positive", "negative_1", "negative_2"), ("query", "positive")),
    ],
)
def test_columns_are_known_by_their_names(
    bert_folder: Path, names: tuple[str, ...], found: tuple[str, str]
) -> None:
    rows = [{name: f"{name} {n}" for name in names} for n in range(20)]
    [row, *_] = load_data(recipe_of(bert_folder, rows).data, "embedding").train
    number = row.id
    assert (row.input, row.target) == (f"{found[0]} {number}", f"{found[1]} {number}")
    assert len(row.negatives) == len(names) - 2


def broken(row: dict[str, Any]) -> list[dict[str, Any]]:
    rows = pairs(20, negative="no {n}")
    rows[3] |= row
    return rows


@pytest.mark.parametrize(
    ("rows", "task", "told"),
    [
        (broken({"query": " "}), "embedding", "row 3.*has an empty input|empty input"),
        (broken({"positive": ""}), "embedding", "empty target"),
        (broken({"negative": None}), "embedding", "no text in the column 'negative', as have 1 of 20"),
        ([*pairs(2), *pairs(18, negative="no {n}")], "embedding", "'negative', as have 2 of 20 rows"),
        ([{**row, "query": "one"} for row in pairs(20)], "embedding", "one anchor .'one'.: there is noth"),
        ([{**row, "positive": "one"} for row in pairs(20)], "embedding", "have one positive"),
        (scored(20), "embedding", "has the column 'score'.*Set task: text-similarity"),
        ([{**row, "score": 3} for row in scored(20)], "text-similarity", "are all 3: there is no order"),
        ([*scored(20), {**scored(1)[0], "score": "nan"}], "text-similarity", "no finite number"),
        ([{"input": f"{n}", "target": n} for n in range(20)], "text-similarity", "has one text, and two"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_rows_is_said_once(bert_folder: Path, rows: Any, task: str, told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        dt.check(recipe_of(bert_folder, rows, task), quiet=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"batch_size": 1}}, "leaves nothing to compare"),
        ({"task": "text-classification", "model": {"name": "x", "pooling": "cls"}}, "is for the tasks emb"),
        (
            {"task": "text-to-text", "data": {"source": [{"a": 1}], "columns": {"negative": "n"}}},
            "for the task embedding",
        ),
        ({"evaluation": {"primary": "accuracy"}}, "for other tasks"),
        ({"train": {"head_lr": 0.1}}, "new heads"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_meant_are_refused(bert_folder: Path, changes: Any, told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        recipe_of(bert_folder, **changes)


@pytest.mark.slow
def test_long_odd_and_equal_texts_are_embedded(bert_folder: Path, tmp_path: Path) -> None:
    rows = pairs(20)
    rows[2]["positive"] = "book " * 20_000
    rows[4] |= {"query": "\U0001f600 \u05d0 books", "positive": rows[4]["query"]}
    recipe = recipe_of(
        bert_folder,
        rows,
        train={"max_steps": 2, "batch_size": 19, "precision": "fp32", "micro_batch_size": 4},
    )
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    assert result.status == "done"
    empty, odd = dt.predict(tmp_path / "run", [" ", "\U0001f600"])
    assert "empty input" in empty.error
    assert isinstance(odd, Prediction)
    assert odd.vector is not None
    assert sum(x * x for x in odd.vector) == pytest.approx(1, rel=1e-5)


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


def test_two_texts_that_are_compared_have_one_template(bert_folder: Path) -> None:
    data = {"source": scored(20), "split": {"test": 0.1}, "template": "query: {input}"}
    recipe = recipe_of(bert_folder, data, "text-similarity")
    row = load_data(recipe.data, recipe.task).train[0]
    assert (row.input, row.pair) == tuple(
        f"query: {row.columns[name]}" for name in ("sentence1", "sentence2")
    )
    asked = prompt_row({"sentence1": "a", "sentence2": "b"}, recipe.data, recipe.task)
    assert (asked.input, asked.pair) == ("query: a", "query: b")


def test_all_texts_have_the_limit_of_inputs(bert_folder: Path) -> None:
    rows = pairs(20)
    rows[3]["positive"] *= 9
    data = {"source": rows, "split": {"test": 0.1}, "max_input_tokens": 40}
    _, encoder, dataset = loaded(recipe_of(bert_folder, data))
    encoded = encoder.encode([*dataset.train, *dataset.validation, *dataset.test])
    assert (encoded.report.truncated_inputs, encoded.report.truncated_targets) == (1, 0)
    assert max(len(ids) for feature in encoded.features for ids in vectors.texts_of(feature)) == 40


def test_check_says_which_columns_are_compared(bert_folder: Path) -> None:
    assert dt.check(recipe_of(bert_folder), quiet=True).pair == ["query", "positive"]
    found = dt.check(recipe_of(bert_folder, task="text-similarity"), quiet=True)
    assert found.pair == ["sentence1", "sentence2"]
    assert not [text for text in found.warnings if "class" in text]


def test_parts_have_as_many_negatives(bert_folder: Path) -> None:
    rows = pairs(20, negative="no {n}")
    plain = [{name: text for name, text in row.items() if name != "negative"} for row in pairs(6)]
    recipe = recipe_of(bert_folder, {"train": rows, "validation": rows[:9], "test": plain})
    told = r"the test rows.*have 0 negatives each, and the training rows 1"
    with pytest.raises(DeltatuneError, match=told):
        load_data(recipe.data, recipe.task)
