"""Conversations from a recipe to predictions, with every method, on tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import deltatune as dt
from deltatune import AdaptedModel
from deltatune.data.conversations import conversation_rows
from deltatune.data.encode import Encoder
from deltatune.data.rows import Record
from deltatune.errors import DataError, RecipeError
from deltatune.recipe import DataSpec, Recipe, parse_recipe
from deltatune.recipe.given import Given
from deltatune.tasks import TASKS
from tests.chat_templates import MANY_TURNS, ONE_TURN, WITH_SYSTEM, WITH_TOOLS, tokenizer_of
from tests.contract.cases import CASES, Case

WORDS = ("medals", "goals", "songs", "ships")
METHODS = {case.method: case for case in reversed(CASES)}
"""A case of each method."""
CLASSES = ("majority", "head")
"""Methods for classifiers."""


def tiny_llama(tokenizer: Any) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama with a chat template that knows tools."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    tokenizer = tokenizer_of("qwen", marked=False)
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chats(count: int = 24) -> list[dict[str, Any]]:
    """Conversations of two turns, some with a system message."""
    made = []
    for number in range(count):
        first, second = WORDS[number % 4], WORDS[number // 4 % 4]
        talk = [
            {"role": "user", "content": f"{number} {first}?"},
            {"role": "assistant", "content": first},
            {"role": "user", "content": f"and {second}?"},
            {"role": "assistant", "content": second},
        ]
        system = [{"role": "system", "content": "Be short."}] * (number % 2)
        made.append({"messages": [*system, *talk]})
    return made


@pytest.fixture
def content(chat_folder: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats())), encoding="utf-8")
    return {
        "task": "conversation",
        "model": str(chat_folder),
        "data": {"source": "chats.jsonl", "split": {"validation": 0.2, "test": 0.2}},
        "methods": ["untuned", {"lora": {"r": 2}}],
        "train": {"max_steps": 2, "batch_size": 4},
        "evaluation": {"max_new_tokens": 4},
    }


def write(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_check_plan_compare_report_evaluate_and_predict(
    content: dict[str, Any], run: Callable, tmp_path: Path
) -> None:
    recipe, out = write(content, tmp_path), tmp_path / "out"
    checked = json.loads(run("check", recipe, "--json").out)
    assert checked["conversations"]["forms"] == ["messages (column 'messages')"]
    assert checked["conversations"]["learned_answers"] == 48
    sample = checked["samples"][0]["tokens"]
    assert sum(token["text"] == "<|im_end|>" and token["supervised"] for token in sample) == 2
    assert "messages (column 'messages'); 4.5 messages (median)" in run("check", recipe).out
    assert run("plan", recipe).code == 0
    compared = run("compare", recipe, "--out", out)
    assert compared.code == 0, compared.err
    board = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    [lora] = [row for row in board["rows"] if row["name"] == "lora"]
    assert {"rougeL_f", "bleu", "exact_match", "stop_rate", "loss", "perplexity"} <= set(lora["metrics"])
    assert run("report", out).code == 0
    finished = out / "runs" / "lora-s0"
    assert run("evaluate", finished).code == 0
    asked = run("predict", finished, "medals?", "--json")
    assert (asked.code, json.loads(asked.out)["input"]) == (0, "medals?")
    rows = tmp_path / "asked.jsonl"
    rows.write_text("\n".join(map(json.dumps, chats(2))), encoding="utf-8")
    answers = [
        json.loads(line) for line in run("predict", finished, "--file", rows, "--json").out.splitlines()
    ]
    assert [answer["input"] for answer in answers] == [
        "user: 0 medals?\nassistant: medals\nuser: and medals?",
        "system: Be short.\nuser: 1 goals?\nassistant: goals\nuser: and medals?",
    ]
    lines = (finished / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["reference"] for line in lines} <= set(WORDS)


def test_rows_in_memory_and_answers_in_python(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = dt.make_recipe({**content, "methods": ["lora"]}, data=chats())
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    assert result.metrics is not None
    asked = {"messages": [{"role": "user", "content": "songs?"}]}
    [answer] = dt.predict(tmp_path / "run", asked)
    assert answer.input == "songs?"
    # The delta alone, which does not say which of the tasks of such models it is for.
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved" / "adapter", tmp_path / "alone")
    given = Given(base=content["model"], recipe=tmp_path / "moved" / "recipe.yaml")
    assert dt.predict(tmp_path / "alone", asked, given=given)[0].prediction == answer.prediction


def test_a_template_of_the_recipes_own_stays_with_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        encoding="utf-8",
    )
    content["data"] |= {"chat_template": "own.jinja"}
    recipe = dt.make_recipe(write({**content, "methods": ["lora"]}, tmp_path))
    assert parse_recipe(recipe.dump()) == recipe
    dt.train(recipe, tmp_path / "run", quiet=True)
    template.unlink()
    dt.merge(tmp_path / "run", tmp_path / "merged")
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert merged.chat_template == recipe.data.chat_template
    loaded = dt.load(tmp_path / "run")
    assert loaded.recipe.data.chat_template.startswith("{% for m in messages %}<{{ m.role }}>")
    [_] = dt.predict(tmp_path / "run", ["songs?"])
    with pytest.raises(RecipeError, match=r"data.chat_template: \(own.jinja\) cannot be read as a file"):
        dt.make_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "case", [METHODS[name] for name in METHODS if name not in CLASSES], ids=lambda c: c.method
)
def test_every_method_learns_conversations(case: Case) -> None:
    if case.refused("llama"):
        pytest.skip("this method refuses the architecture")
    tokenizer = tokenizer_of("qwen", marked=False)
    spec = DataSpec(source="x")
    encoder = Encoder("conversation", tokenizer, spec)
    talks = [ONE_TURN, MANY_TURNS, WITH_SYSTEM, WITH_TOOLS]
    records = [Record(str(number), dict(talk)) for number, talk in enumerate(talks)]
    batch = encoder.collate(encoder.encode(conversation_rows(records, spec)).features)
    model = AdaptedModel(tiny_llama(tokenizer))
    adapter = model.attach("a", case.settings(), seed=0).train()
    model.train()

    def loss() -> torch.Tensor:
        logits, targets = TASKS.get("conversation").logits(model, batch)
        assert len(targets) == int(TASKS.get("conversation").count(batch["labels"]).sum())
        return F.cross_entropy(logits.float(), targets)

    parameters = [parameter for _, parameter in adapter.trainable()]
    if not parameters or case.method == "hard_prompt":  # nothing is trained, or by a search
        assert torch.isfinite(loss())
        return
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    before = [parameter.detach().clone() for parameter in parameters]
    loss().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert torch.isfinite(loss())


@pytest.mark.slow
def test_whole_runs_of_every_method(content: dict[str, Any], tmp_path: Path) -> None:
    methods = [
        {case.method: dict(case.config), "name": case.method}
        for name, case in METHODS.items()
        if name not in CLASSES and not case.refused("llama")
    ]
    train = {"max_steps": 2, "batch_size": 4, "lr": 0.01}
    board = dt.compare(
        dt.make_recipe({**content, "methods": methods, "train": train}, data=chats()),
        tmp_path / "out",
        quiet=True,
    )
    assert [row.name for row in board.rows if row.status != "done"] == []


def recipe(**sections: Any) -> Recipe:
    given = {"task": "conversation", "model": "x", "data": "a.jsonl", "methods": ["lora"]} | sections
    given["data"] = {"source": "a.jsonl", "split": {"test": 0.1}} | dict(given.pop("more", {}))
    return parse_recipe(given)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"more": {"template": "chat"}}, "data.template: is for one text; the task conversation writes"),
        ({"more": {"template": "{q}"}}, "data.template: is for one text"),
        ({"more": {"target_template": " {target}"}}, "data.target_template: is for one text"),
        ({"more": {"columns": {"target": None}}}, "data.columns.target: is null, but conversation needs"),
        ({"more": {"train_on": "user"}}, "data.train_on"),
        ({"more": {"format": "npz"}}, "has format npz, which holds images"),
        (
            {"task": "causal-lm", "more": {"train_on": "all"}},
            r"data.train_on: \(all\) is for the task conversation; causal-lm reads none",
        ),
        (
            {"task": "text-to-text", "more": {"chat_template": "plain"}},
            r"data.chat_template: \(plain\) is for",
        ),
        ({"task": "causal-lm", "more": {"format": "alpaca"}}, r"data.format: \(alpaca\) is for the task"),
    ],
)
def test_what_makes_no_sense_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**sections)


def test_recipes_of_other_tasks_are_written_down_as_before() -> None:
    other = recipe(task="causal-lm").dump()["data"]
    assert not {"train_on", "chat_template"} & set(other)
    assert recipe(more={"train_on": "all"}).dump()["data"]["train_on"] == "all"


def test_an_encoder_without_conversations_says_so() -> None:
    with pytest.raises(DataError, match="has no conversations"):
        _ = Encoder("causal-lm", tokenizer_of("qwen", marked=False), DataSpec(source="x")).chats
