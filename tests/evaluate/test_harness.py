"""Tasks of lm-evaluation-harness: rows score as with its own model, and files with code are refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.cli import show
from deltatune.comparison.runner import compare
from deltatune.core.model import AdaptedModel
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError, DeltatuneError, RecipeError
from deltatune.evaluation import harness
from deltatune.evaluation.harness import Scored, compared, lines, metrics_of, require_harness, run_tasks
from deltatune.evaluation.task_files import read_task_files
from deltatune.files import read_json
from deltatune.methods import METHODS
from deltatune.recipe import parse_recipe
from deltatune.report.html import render_html
from deltatune.report.load import load
from deltatune.report.tasks import on_tasks
from deltatune.report.text import render_markdown
from deltatune.results import RunResult
from deltatune.testing import tiny
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training.before.dry_run import plan
from tests.tiny_recipe import llama_folder, unpredicted

pytest.importorskip("lm_eval")
__all__ = ["llama_folder", "unpredicted"]

ROWS = [
    {
        "question": f"Which of these is {word}? " + "so on " * (number % 4),
        "options": ["medals", "goals and songs", word],
        "gold": 2,
        "answer": word,
    }
    for number, word in enumerate(["ships", "stars", "rivers", "books", "trains", "medals"])
]
COMMON: dict[str, Any] = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
}
CHOICE = {
    **COMMON,
    "task": "choose",
    "output_type": "multiple_choice",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                    for name in ("acc", "acc_norm")],
}  # fmt: skip
TASKS = {
    "choose": CHOICE,
    "shots": {**CHOICE, "task": "shots", "num_fewshot": 2, "fewshot_split": "test"},
    "likely": {
        **COMMON, "task": "likely", "output_type": "loglikelihood", "doc_to_target": " {{answer}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "text": {
        **COMMON, "task": "text", "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{question}} {{question}} {{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "write": {
        **COMMON, "task": "write", "output_type": "generate_until", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "s"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": "first", "filter": [
            {"function": "regex", "regex_pattern": "([a-z]+)"}, {"function": "take_first"},
        ]}],
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for name, content in TASKS.items():
        (made / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    return made


def tiny_llama() -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer("llama", chat=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.mark.parametrize(
    ("batch_size", "chat"),
    [
        (4, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, False), (1, True), (4, True))),
    ],
)
def test_rows_get_what_the_model_of_the_harness_gets_on_the_merged_base(
    folder: Path, tmp_path: Path, chat: bool, batch_size: int
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    base, tokenizer = tiny_llama()
    model = AdaptedModel(base)
    tiny.perturb(model.attach("a", METHODS.get("lora")(targets=("all-linear",))), seed=1)
    tasks = read_task_files([str(folder)])
    found = run_tasks(model, TextTokens(tokenizer), tasks, batch_size=batch_size, chat=chat, room=128)
    merged: Any = model.merged()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    theirs = HFLM(pretrained=str(tmp_path / "merged"), device="cpu", dtype="float32", batch_size=3)
    with harness._quiet(), tempfile.TemporaryDirectory() as cache:
        for task in tasks:
            loaded = harness._loaded(task, cache)
            one = {"tasks": {task.name: loaded}, "groups": {}, "group_map": {}}
            wanted = evaluate(
                theirs, one, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
            )
            assert wanted is not None
            for key, value in found[task.name].metrics.items():
                full = key if "," in key else f"{key},none"
                assert value == pytest.approx(wanted["results"][task.name][full], rel=1e-3)
                name = key.partition(",")[0]
                own = [row[name] for row in wanted["samples"][task.name]]
                for ours, other in zip(found[task.name].rows[key], own, strict=True):
                    assert ours == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert set(found) == set(TASKS)
    assert any(found["likely"].rows["perplexity"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_methods_without_a_merged_form_are_scored(folder: Path, method: str) -> None:
    base, tokenizer = tiny_llama()
    model = AdaptedModel(base)
    tiny.perturb(model.attach("a", METHODS.get(method)(n_tokens=3)), seed=1)
    tasks = read_task_files([str(folder)])
    scores = [
        run_tasks(model, TextTokens(tokenizer), tasks, batch_size=size, chat=False, room=120)
        for size in (1, 4)
    ]
    with model.using():
        plain = run_tasks(model, TextTokens(tokenizer), tasks, batch_size=4, chat=False, room=120)
    for name, scored in scores[0].items():
        for key, rows in scored.rows.items():
            for one, other in zip(rows, scores[1][name].rows[key], strict=True):
                assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
    assert scores[0]["likely"].rows != plain["likely"].rows


def test_a_run_scores_the_base_and_the_delta(
    folder: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"input": f"Which is {number}?", "target": "medals"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content = {
        "task": "causal-lm", "model": str(llama_folder), "methods": ["untuned", "lora"],
        "data": {"source": "rows.jsonl", "split": {"validation": 0, "test": 0.2}},
        "train": {"max_steps": 3, "lr": 0.05}, "evaluation": {"max_new_tokens": 4, "tasks": ["tasks"]},
    }  # fmt: skip
    recipe = parse_recipe(content, root=tmp_path)
    assert recipe.evaluation.tasks == [str(folder)]
    assert plan(recipe, recipe.methods[1], 0)["tasks"]["choose"] == ["acc", "acc_norm"]
    compare(recipe, tmp_path / "out")
    runs = {path.name.removesuffix("-s0"): path for path in (tmp_path / "out/runs").iterdir()}
    results = [
        RunResult.of(read_json(runs[name] / "result.json", remedy=""), "it", remedy="")
        for name in ("untuned", "lora")
    ]
    untuned, lora = ({(s.task, s.metric): s for s in result.tasks} for result in results)
    comparison = load(tmp_path / "out")
    assert len(on_tasks(comparison)) == 2 * len(lora)
    assert "Tasks of lm-evaluation-harness</h2>" in render_html(comparison)
    assert "| lora | 0 | choose | acc | 6 |" in render_markdown(comparison)
    show.result(results[1])
    assert "choose" in capsys.readouterr().out
    assert set(untuned) == set(lora)
    assert {name for name, _ in lora} == set(TASKS)
    assert all(score.difference == 0 for score in untuned.values())
    for key, score in lora.items():
        assert score.base == untuned[key].base
        assert score.difference == pytest.approx(score.delta - score.base)
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.high
    assert lora["likely", "perplexity"].delta != lora["likely", "perplexity"].base
    written = [
        json.loads(line) for line in (runs["lora"] / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    chosen = [line for line in written if (line["task"], line["metric"]) == ("choose", "acc")]
    assert [line["row"] for line in chosen] == list(range(len(ROWS)))
    assert sum(line["delta"] for line in chosen) / len(chosen) == lora["choose", "acc"].delta
    assert results[1].signatures["lm-eval"] == require_harness()


def test_intervals_are_of_pairs() -> None:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def scored(rows: list[float]) -> dict[str, Scored]:
        return {"t": Scored({"acc": mean(rows)}, {"acc": rows}, {"acc": mean}, {"acc": True})}

    base = [0.0, 1.0] * 50
    [same] = compared(scored(base), scored(base))
    assert (same.low, same.high, same.difference) == (0, 0, 0)
    [better] = compared(scored(base), scored([value + 1 for value in base]))
    assert (better.low, better.high) == (1, 1)
    [some] = compared(scored(base), scored([1.0] * 20 + base[20:]))
    assert some.difference == pytest.approx(0.1)
    assert 0 < some.low < 0.1 < some.high  # type: ignore[operator]
    [single] = compared(scored([1.0]), scored([0.0]))
    assert single.low is None
    assert lines(scored([1.0]), scored([0.0])) == [
        {"task": "t", "row": 0, "metric": "acc", "base": 1.0, "delta": 0.0}
    ]


HOSTILE: dict[str, tuple[Any, str]] = {
    "a function": ("task: t\nprocess_docs: !function utils.run\n", "runs Python code .!function utils.run"),
    "a Python object": ("task: !!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
    "an unknown tag": ("task: !env HOME\n", "cannot be read as YAML"),
    "no mapping": ("- a\n- b\n", "is no mapping"),
    "empty": ("", "is no mapping"),
    "not UTF-8": (b"task: \xff\xfe", "cannot be read as YAML"),
    "a bomb": ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
    ), "evaluation.tasks|Values|values|cannot"),
    "a group": ({"group": "g", "task": ["a"]}, "is a group"),
    "no name": ({**CHOICE, "task": None}, "has no name"),
    "code as a field": ({**CHOICE, "process_results": "x"}, "says process_results"),
    "a class": ({**CHOICE, "class": "x"}, "says class"),
    "unsafe code": ({**CHOICE, "unsafe_code": True}, "says unsafe_code"),
    "a prompt of others": ({**CHOICE, "use_prompt": "promptsource:*"}, "says use_prompt"),
    "images": ({**CHOICE, "doc_to_image": "x"}, "says doc_to_image"),
    "the hub": ({**CHOICE, "dataset_path": "cais/mmlu"}, "takes its data from elsewhere"),
    "a pickle": ({**CHOICE, "dataset_path": "pandas"}, "takes its data from elsewhere"),
    "remote code": (
        {**CHOICE, "dataset_kwargs": {"data_files": "a", "trust_remote_code": True}}, "dataset_kwargs",
    ),
    "other options": ({**CHOICE, "dataset_kwargs": {"data_dir": "/"}}, "dataset_kwargs"),
    "a URL": ({**CHOICE, "dataset_kwargs": {"data_files": "https://a.b/c.json"}}, "no local file"),
    "outside": ({**CHOICE, "dataset_kwargs": {"data_files": "../../secret.jsonl"}}, "lies outside"),
    "absolute": ({**CHOICE, "dataset_kwargs": {"data_files": "/etc/passwd"}}, "lies outside"),
    "missing": ({**CHOICE, "dataset_kwargs": {"data_files": "none.jsonl"}}, "is no file"),
    "a glob": ({**CHOICE, "dataset_kwargs": {"data_files": "*.jsonl"}}, "is no file"),
    "an include outside": ({**CHOICE, "include": "../../other.yaml"}, "lies outside"),
    "no rows": ({**CHOICE, "test_split": None}, "names no rows"),
    "sampling": (
        {**TASKS["write"], "generation_kwargs": {"do_sample": True}}, "generation_kwargs: do_sample: True",
    ),
    "several answers": ({**TASKS["write"], "repeats": 4}, "repeats"),
    "output": ({**CHOICE, "output_type": "guess"}, "output_type"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_more_than_data_are_refused(folder: Path, name: str) -> None:
    content, message = HOSTILE[name]
    path = folder / "hostile.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    (folder / "utils.py").write_text("raise SystemExit('run')")
    with pytest.raises(DeltatuneError, match=message) as caught:
        read_task_files([str(path)])
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"metric_list": [{"metric": "squad"}]}, "the metric squad, which is not the harness's own"),
    ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "which is not the harness's own"),
    ({"metric_list": [{"metric": "acc", "aggregation": "worst"}]}, "sums up by worst"),
    ({"doc_to_text": "{{ nothing }}"}, "is not taken by lm-evaluation-harness .UndefinedError"),
    ({"doc_to_text": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}, "SecurityError"),
    ({"doc_to_target": "{{ question.__init__.__globals__ }}"}, "SecurityError"),
    ({"test_split": "validation"}, "is not taken"),
])  # fmt: skip
def test_what_cannot_be_scored_is_told_before_the_start(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    (folder / "choose.yaml").write_text(json.dumps(CHOICE | changes), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        metrics_of(read_task_files([str(folder / "choose.yaml")]))


def test_includes_and_folders(folder: Path) -> None:
    shared = {key: value for key, value in CHOICE.items() if key != "task"}
    (folder / "_shared.yaml").write_text(json.dumps(shared), encoding="utf-8")
    (folder / "other.yaml").write_text("include: _shared.yaml\ntask: other\n", encoding="utf-8")
    tasks = {task.name: task for task in read_task_files([str(folder)])}
    assert set(tasks) == {*TASKS, "other"}
    assert tasks["other"].content["doc_to_choice"] == "{{options}}"
    (folder / "twice.yaml").write_text("include: twice.yaml\ntask: t\n", encoding="utf-8")
    with pytest.raises(DataError, match="includes itself"):
        read_task_files([str(folder / "twice.yaml")])
    with pytest.raises(DataError, match="second task that is called other"):
        read_task_files([str(folder / "other.yaml"), str(folder / "other.yaml")])
    for wrong in (folder / "none.yaml", folder.parent / "empty"):
        (folder.parent / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"evaluation\.tasks"):
            read_task_files([str(wrong)])


def test_tasks_are_for_decoders_and_need_the_package() -> None:
    content = {
        "task": "text-to-text", "model": "t5", "methods": ["lora"],
        "data": {"source": "rows.jsonl", "split": {}}, "evaluation": {"tasks": ["a.yaml"]},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="is for the task causal-lm or conversation"):
        parse_recipe(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(DeltatuneError, match=r"deltatune\[lm-eval\]"):
            require_harness()
