"""Vectors of texts: what is found and written is what Sentence Transformers computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import deltatune as dt
from deltatune.core.pooling import pooled
from deltatune.data.load import load_data
from deltatune.errors import DeltatuneError
from deltatune.methods import METHODS
from deltatune.models.load import load_base
from deltatune.models.pooling import pooling_of
from deltatune.models.source import locate
from deltatune.results import Prediction, read_predictions
from deltatune.tasks import TASKS
from deltatune.testing import task_checks
from deltatune.testing.folders import save_tiny
from tests.tasks.embedding import loaded, pairs, recipe_of, scored


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


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
