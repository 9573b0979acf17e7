"""Few-shot prompts: what is read is the prompt that a person would write, and nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from deltatune.checkpoint.saved import read_adapter
from deltatune.data.load import load_data
from deltatune.data.tokens import TextTokens
from deltatune.errors import AdapterError, DeltatuneError, RecipeError
from deltatune.methods.bm25 import BM25, words
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.results import RunResult
from deltatune.runs import Failed, evaluate_run, merge, predict
from deltatune.runs.load import load_run
from deltatune.serve.deltas.pool import Pool
from deltatune.sharing.push import Asked, push
from deltatune.tasks.task import Shot
from deltatune.training import run

Make = Callable[..., Recipe]
DECODER: dict[str, Any] = {"task": "causal-lm", "train": {"precision": "fp32"}}
FEW = "data.limit={validation: 1, test: 3}"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]


def done(recipe: Recipe, out: Path, seed: int = 0) -> RunResult:
    result = run(recipe, recipe.methods[0], seed, out)
    assert isinstance(result, RunResult)
    return result


def kept(folder: Path) -> list[Shot]:
    """The rows in a run's file."""
    tensors = read_adapter(folder / "adapter").tensors
    [content] = tensors.values()
    return [Shot(*pair) for pair in json.loads(content.numpy().tobytes())]


def written(base: Path, prompts: list[list[int]], new: int = 8) -> list[str]:
    """What Transformers writes behind prompts, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    decoder = "Llama" in (base / "config.json").read_text("utf-8")
    kind = AutoModelForCausalLM if decoder else AutoModelForSeq2SeqLM
    model, texts = kind.from_pretrained(base), []
    for ids in prompts:
        with torch.inference_mode():
            given = torch.tensor([ids])
            [found] = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        said = tokenizer.decode(found[len(ids) if decoder else 1 :], skip_special_tokens=True)
        texts.append(said.partition("\n\n")[0].strip())
    return texts


def test_a_decoder_reads_the_prompt_that_a_person_writes(
    make_recipe: Make, llama_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(
        FEW, r'data.template="Text: {input}\nTitle:"', 'data.target_template=" {target}"',
        methods=[{"few_shot": {"k": 3}}], model=str(llama_folder), **DECODER,
    )  # fmt: skip
    result = done(recipe, tmp_path / "run")
    assert result.cost.trained_parameters == result.cost.steps == 0
    assert all(line.passed for line in result.certificate)
    shots = kept(tmp_path / "run")
    assert len(shots) == 3
    before = "".join(f"{shot.input}{shot.target}\n\n" for shot in shots)
    assert before.startswith("Text: ")
    rows, tokenizer = lines(tmp_path / "run"), AutoTokenizer.from_pretrained(llama_folder)
    assert all(row["input"].startswith("Text: ") and "\n\n" not in row["input"] for row in rows)
    prompts = [tokenizer(before + row["input"])["input_ids"] for row in rows]
    assert [row["prediction"] for row in rows] == written(llama_folder, prompts)
    # The loss of a target is that behind the same prompt.
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    row, ids = rows[0], prompts[0]
    target = [*tokenizer(row["reference"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if target[0] != tokenizer.bos_token_id:
        labels = torch.tensor([[-100] * len(ids) + target])
        loss = model(torch.tensor([[*ids, *target]]), labels=labels).loss
        assert row["nll"] == pytest.approx(float(loss) * len(target), rel=1e-4)
    # Each seed shows others; the same seed the same; the files answer as the run did.
    adapter, train = (
        load_run(tmp_path / "run").model.adapter("run"),
        load_data(recipe.data, recipe.task).train,
    )
    for seed in (0, 1):
        adapter.clock.seed = seed
        adapter.see_rows(train, lambda: [])
        assert (adapter.kept == shots) == (seed == 0)
    # One that is too long by itself does not keep the others out, wherever it stands.
    loaded = load_run(tmp_path / "run")
    for long in (0, 3):
        mixed = [*shots[:long], Shot("long " * 300, "x"), *shots[long:]]
        loaded.model.adapter("run").keep(mixed)
        assert loaded.encoder.encode(load_data(recipe.data, recipe.task).test).report.shown == [3, 3, 3]
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-5, abs=1e-5)
    texts = [row["input"].removeprefix("Text: ").removesuffix("\nTitle:") for row in rows]
    again = list(predict(tmp_path / "run", texts))
    assert [p.prediction for p in again if not isinstance(p, Failed)] == [r["prediction"] for r in rows]


def test_a_text_ends_where_those_that_are_shown_end(llama_folder: Path) -> None:
    """What a base writes behind its answer are rows of its own making."""
    tokens = TextTokens(AutoTokenizer.from_pretrained(llama_folder))
    for text in ("an answer\n\nText: b", "an answer\n\n", "a\n\nb\n\nc", "\n\nText"):
        ids = tokens.bare(text)
        before = tokens.before(ids, "\n\n")
        assert before == ids[: len(before or ())]
        assert tokens.decode(before or []) == text.partition("\n\n")[0]
    assert tokens.before(tokens.bare("an\nanswer"), "\n\n") is None


@pytest.mark.slow
def test_shots_are_turns_of_a_chat(make_recipe: Make, llama_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        FEW, "data.template=chat", methods=[{"few_shot": {"k": 2}}], model=str(llama_folder), **DECODER
    )
    done(recipe, tmp_path / "run")
    tokenizer, rows = AutoTokenizer.from_pretrained(llama_folder), lines(tmp_path / "run")
    said = [
        {"role": role, "content": text}
        for shot in kept(tmp_path / "run")
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [*said, {"role": "user", "content": row["input"]}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for row in rows
    ]
    assert [row["prediction"] for row in rows] == written(llama_folder, prompts)


@pytest.mark.slow
def test_the_nearest_rows_stand_last(make_recipe: Make, t5_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        FEW, methods=[{"few_shot": {"k": 2, "choose": "nearest"}}], train={"precision": "fp32"}
    )
    done(recipe, tmp_path / "run")
    pool, rows = kept(tmp_path / "run"), lines(tmp_path / "run")
    train = load_data(recipe.data, recipe.task).train
    assert pool == [Shot(str(row.input), row.target) for row in train]
    tokenizer, prompts = AutoTokenizer.from_pretrained(t5_folder), []
    for row in rows:
        scores = bm25_by_hand([shot.input for shot in pool], row["input"])
        first, second = sorted(range(len(pool)), key=lambda place: -scores[place])[:2]
        shown = "".join(f"{pool[place].input}\n{pool[place].target}\n\n" for place in (second, first))
        prompts.append(tokenizer(shown + row["input"])["input_ids"])
    assert [row["prediction"] for row in rows] == written(t5_folder, prompts)


def bm25_by_hand(texts: list[str], query: str) -> list[float]:
    """Word by word, as the formula is written."""
    import math

    documents = [words(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words(query):
            n, f = sum(word in other for other in documents), document.count(word)
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            score += idf * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(document) / mean))
        scores.append(score)
    return scores


def test_bm25_is_its_formula() -> None:
    texts = ["ships and rivers", "the the the", "ships", "", "rivers of gold and ships of gold"]
    for query in ("ships", "Gold, gold and the RIVERS", "nothing of it", ""):
        assert BM25(texts).scores(query) == pytest.approx(bm25_by_hand(texts, query))
    assert BM25(texts).nearest("ships", 2) == [2, 0]
    assert BM25([]).nearest("ships", 2) == []
    assert words("東京 und Zürich") == ["東", "京", "und", "zürich"]


@pytest.mark.slow
def test_rows_that_do_not_fit_are_left_out_and_counted(
    make_recipe: Make, llama_folder: Path, tmp_path: Path
) -> None:
    """Its 256 positions are for the prompt and for what is written; its own text keeps its limit."""
    recipe = make_recipe(
        FEW, "data.max_input_tokens=18", "evaluation.metrics=[loss, exact_match]",
        methods=[{"few_shot": {"k": 16}}], model=str(llama_folder), **DECODER,
    )  # fmt: skip
    result = done(recipe, tmp_path / "run")
    [said] = [
        text
        for text in result.data.warnings
        if "shown fewer than 16 training rows" in text and "test" in text
    ]
    assert said.startswith("3 of 3 test rows")
    loaded = load_run(tmp_path / "run")
    rows = load_data(recipe.data, recipe.task).test
    encoded, plain = loaded.encoder.encode(rows), loaded.encoder.with_beside(None).encode(rows)
    assert all(0 < count < 16 for count in encoded.report.shown)
    for shown, own in zip(encoded.features, plain.features, strict=True):
        assert own["prompt_length"] <= 18
        assert shown["prompt_length"] + 16 <= 256
        assert shown["input_ids"][1 - len(own["input_ids"]) :] == own["input_ids"][1:]
    assert encoded.report.truncated_inputs == plain.report.truncated_inputs > 0


@pytest.mark.slow
def test_what_cannot_be_done_with_it_is_said(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("evaluation.metrics=[loss]", methods=["few_shot"], train={"precision": "fp32"})
    done(recipe, tmp_path / "run")
    with pytest.raises(AdapterError, match="cannot be written into weights"):
        merge(tmp_path / "run", tmp_path / "merged")
    with pytest.raises(DeltatuneError, match="holds training rows"):
        push(tmp_path / "run", Asked("user/name"), out=tmp_path / "pushed")
    with pytest.raises(AdapterError, match="is not served"):
        Pool(load_run(tmp_path / "run"), "run", 1, lambda _: None)


@pytest.mark.parametrize(
    ("task", "target", "says"),
    [
        ("conversation", None, r"methods\.1: .*before a text; that is for the task .*not for conversation"),
        ("text-classification", "label", r"methods\.1: .*not for text-classification: take it out"),
        ("causal-lm", None, r"methods\.1: .*data\.columns\.target is null"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused_by_the_recipe(
    task: str, target: str | None, says: str
) -> None:
    columns = {} if task == "conversation" else {"columns": {"input": "text", "target": target}}
    data = {"source": "rows.jsonl", "split": {"validation": 0.2, "test": 0.2}, **columns}
    with pytest.raises(RecipeError, match=says):
        parse_recipe({"task": task, "model": "a/model", "data": data, "methods": ["lora", "few_shot"]})


class InTheMidst(Silent):
    """Presses Ctrl-C while test rows are evaluated."""

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task.startswith("Evaluating"):
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("method", ["few_shot", "knn"])
def test_interrupted_it_begins_again_and_says_the_same(
    make_recipe: Make, tmp_path: Path, method: str
) -> None:
    recipe = make_recipe(FEW, methods=[method], train={"precision": "fp32"})
    done(recipe, tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 3, tmp_path / "parts", observer=InTheMidst())
    torch.manual_seed(1234)
    run(recipe, recipe.methods[0], 3, tmp_path / "parts", resume=True)
    for name in ("adapter/adapter_model.safetensors", "predictions.jsonl", "certificate.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
