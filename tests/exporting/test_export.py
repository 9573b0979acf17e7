"""Exports of trained runs: what other programs make of the folder, what is told, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import deltatune as dt
from deltatune.checkpoint.manifest import changed_files
from deltatune.cli.commands.export import export as command
from deltatune.errors import AdapterError, DeltatuneError, RecipeError, TrainingError
from deltatune.exporting import TARGETS, lora, rules
from deltatune.exporting.export import share
from deltatune.recipe import parse_recipe
from deltatune.runs import load_run
from deltatune.testing.folders import save_tiny
from deltatune.training import run as train_run
from deltatune.training.proof.equal_logits import Logits

WORDS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def recipe(place: Path) -> Any:
    """Makes recipes over tiny bases whose runs take a moment."""
    rows = [{"id": f"{i}", "text": f"{i} of the {WORDS[i % 8]}", "title": WORDS[i % 8]} for i in range(40)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def make(base: str, task: str, method: Any) -> Any:
        folder = place / f"tiny-{base}"
        if not folder.exists():
            save_tiny(base, folder)
        data = {
            "source": str(place / "rows.jsonl"),
            "columns": {"input": "text", "target": "title", "id": "id"},
            "split": {"validation": 0.2, "test": 0.3},
        }
        return parse_recipe(
            {
                "task": task,
                "model": str(folder),
                "data": data,
                "methods": [method],
                "train": {"max_steps": 3, "batch_size": 8, "lr": 0.05, "precision": "fp32"},
                "evaluation": {"batch_size": 12, "max_new_tokens": 4},
            }
        )

    return make


@pytest.fixture(scope="module")
def trained(place: Path, recipe: Any) -> Any:
    """Gives the folder of a run; each is trained once."""
    patch = pytest.MonkeyPatch()
    patch.setattr("deltatune.training.single.begin.predicted_run", lambda *_: None)

    def folder(base: str, task: str, method: Any) -> Path:
        name = method if isinstance(method, str) else "-".join(map(str, method))
        out = place / "runs" / f"{base}-{name}"
        if not out.exists():
            made = recipe(base, task, method)
            train_run(made, made.methods[0], 0, out)
        return out

    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def classifier(trained: Any) -> Path:
    return trained("bert", "text-classification", "dora")


@pytest.fixture(scope="module")
def talker(trained: Any) -> Path:
    return trained("llama", "causal-lm", {"lora": {"r": 3, "targets": ["query", "mlp"]}})


@pytest.mark.filterwarnings("ignore")
def test_peft_computes_what_numpy_says_of_a_cut_update(classifier: Path, tmp_path: Path) -> None:
    """The oracle: base weights plus the SVD truncated by numpy, beside what peft makes of the folder."""
    done = dt.export(classifier, tmp_path / "out", target="lora", rank=3, quiet=True)
    loaded = load_run(classifier)
    head = {k: v.clone() for k, v in loaded.model.merged().state_dict().items()}
    expected = AutoModelForSequenceClassification.from_pretrained(loaded.base.name, num_labels=8).eval()
    before = {k: v.clone() for k, v in expected.state_dict().items()}
    state = {}
    for name, weight in before.items():
        update = (head[name] - weight).double().numpy()
        if name.endswith(("query.weight", "value.weight")):
            u, s, vt = np.linalg.svd(update)
            state[name] = weight + torch.from_numpy((u[:, :3] * s[:3]) @ vt[:3]).float()
        else:
            state[name] = head[name] if name.startswith("classifier") else weight
    expected.load_state_dict(state)
    base = AutoModelForSequenceClassification.from_pretrained(loaded.base.name, num_labels=8)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, expected(ids).logits, rtol=1e-5, atol=1e-5)
    assert not done.exact
    assert 0 < done.kept < 1
    assert [each.computed_by.split()[0] for each in done.compared] == ["deltatune", "peft"]
    assert done.compared[1].largest_difference < 1e-5
    metric = done.metric
    assert metric is not None
    assert (metric.metric, metric.rows) == ("accuracy", 12)
    assert metric.low is not None and metric.high is not None  # noqa: PT018
    assert metric.low <= metric.difference <= metric.high
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert written == done.as_dict()
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["passed"]
    assert [line["check"] for line in proof["lines"]][-2:] == [lora.IN_PEFT, lora.KEPT]
    assert changed_files(tmp_path / "out") == []


@pytest.mark.filterwarnings("ignore")
def test_an_exact_export_is_the_run_in_both_and_can_be_exported_again(talker: Path, tmp_path: Path) -> None:
    done = dt.export(talker, tmp_path / "served", target="vllm", quiet=True)
    assert done.exact
    assert done.details["max_lora_rank"] == 8  # the least of theirs that holds rank 3
    assert not rules.broken_rules(tmp_path / "served")
    config = json.loads((tmp_path / "served" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 1
    tensors = load_file(tmp_path / "served" / "adapter_model.safetensors")
    assert {tuple(t.shape)["AB".index(k.split("lora_")[1][0])] for k, t in tensors.items()} == {8}
    loaded = load_run(talker)
    base = AutoModelForCausalLM.from_pretrained(loaded.base.name)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "served")).eval()
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, loaded.model(input_ids=ids).logits)
    again = dt.export(tmp_path / "served", tmp_path / "again", target="lora", quiet=True)
    assert again.exact
    assert again.metric is None
    assert any("no test rows" in note for note in again.notes)


@pytest.mark.slow
def test_what_a_server_cannot_read_is_left_out_and_told(trained: Any, tmp_path: Path) -> None:
    run = trained("llama", "causal-lm", "full")
    plan = dt.export(run, tmp_path / "out", target="vllm", rank=16, dry_run=True, quiet=True)
    assert not (tmp_path / "out").exists()
    assert not plan.exact
    assert {part.parameter.rpartition(".")[2] for part in plan.left_out} == {
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }
    whole = dt.export(run, tmp_path / "out", target="lora", rank=16, dry_run=True, quiet=True)
    assert {path.rpartition(".")[2] for path in whole.whole} >= {"norm"}
    assert not whole.left_out


def test_servers_are_spared_what_they_refuse(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="BertForSequenceClassification without LoRA"):
        dt.export(classifier, tmp_path / "out", target="vllm", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({"use_dora": True}, "Magnitudes"),
        ({"bias": "all"}, "No bias"),
        ({"modules_to_save": ["lm_head"]}, "saved whole"),
        ({"rank_pattern": {"q_proj": 4}}, "one rank"),
        ({"alpha_pattern": {"q_proj": 4}}, "one scale"),
        ({"use_rslora": True}, "lora_alpha / r"),
        ({"r": 7}, "max_lora_rank"),
        ({"target_modules": ".*q_proj"}, "list of names"),
        ({"peft_type": "LOHA"}, "plain LoRA"),
    ],
)
def test_each_rule_of_servers_is_looked_at(change: dict[str, Any], asks: str, tmp_path: Path) -> None:
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {key.format("A"): torch.zeros(8, 4), key.format("B"): torch.zeros(6, 8)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain))
    assert not rules.broken_rules(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain | change))
    assert any(asks in rule.asks for rule, _ in rules.broken_rules(tmp_path))


@pytest.mark.parametrize(
    ("keys", "asks"),
    [
        ({"model.layers.0.self_attn.q_proj.lora_A.weight": (8, 4)}, "Keys are"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (8, 4)}, "both factors"),
        ({"base_model.model.wpe.lora_embedding_A": (8, 4), "base_model.model.wpe.lora_embedding_B": (4, 8)},
         "Of embeddings"),
        ({"base_model.model.odd.lora_A.weight": (8, 4), "base_model.model.odd.lora_B.weight": (4, 8)},
         "has LoRA for"),
    ],
)  # fmt: skip
def test_each_rule_of_keys_is_looked_at(keys: dict[str, Any], asks: str, tmp_path: Path) -> None:
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain))
    save_file({k: torch.zeros(s) for k, s in keys.items()}, tmp_path / "adapter_model.safetensors")
    assert any(asks in rule.asks for rule, _ in rules.broken_rules(tmp_path))


def test_peft_gets_the_runs_own_delta(classifier: Path, tmp_path: Path) -> None:
    done = dt.export(classifier, tmp_path / "out", target="peft", quiet=True)
    assert done.details["labels"] == load_run(classifier).labels  # of which peft's files say nothing
    assert any("--labels" in note for note in done.notes)
    assert done.exact
    assert done.compared[0].computed_by.startswith("peft ")
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (classifier / "adapter" / name).read_bytes()


@pytest.mark.slow
def test_what_peft_has_not_is_refused(trained: Any, tmp_path: Path) -> None:
    run = trained("bert", "text-classification", "adapter")
    for target, what in (("peft", "peft has no method"), ("lora", "no change of its weight")):
        with pytest.raises(AdapterError, match=what):
            dt.export(run, tmp_path / "out", target=target, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 0}, "0 is no rank"),
        ({"rank": -3}, "-3 is no rank"),
        ({"keep": "99"}, "Write 99% if that is meant"),
        ({"keep": "0%"}, "no share"),
        ({"keep": "101%"}, "no share"),
        ({"keep": "much"}, "no share"),
        ({"keep": "nan"}, "no share"),
        ({"keep": 0.9, "rank": 4}, "one decides the other"),
        ({"rows": -1}, "no number of rows"),
        ({"dtype": "fp16"}, "asks for no dtype"),
        ({"target": "peft", "rank": 4}, "asks for no rank"),
        ({"target": "lore"}, "Did you mean 'lora'"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], what: str, tmp_path: Path) -> None:
    """Before the run is even looked for."""
    with pytest.raises((DeltatuneError, RecipeError), match=what):
        dt.export(tmp_path / "none", tmp_path / "out", **{"target": "lora", "quiet": True} | options)


def test_a_share_is_read() -> None:
    assert [share(text) for text in ("99%", "0.99", " 100% ", 1)] == [0.99, 0.99, 1.0, 1.0]


def test_only_an_export_is_replaced(classifier: Path, tmp_path: Path) -> None:
    for out in (classifier, classifier / "more", classifier.parent):
        with pytest.raises(DeltatuneError, match="one in the other"):
            dt.export(classifier, out, target="lora", quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text("mine")
    with pytest.raises(DeltatuneError, match="not an export"):
        dt.export(classifier, tmp_path / "mine", target="lora", quiet=True)
    dt.export(classifier, tmp_path / "out", target="peft", quiet=True)
    dt.export(classifier, tmp_path / "out", target="lora", rank=1, rows=0, quiet=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DeltatuneError, match=r"notes\.txt, which `export` did not write"):
        dt.export(classifier, tmp_path / "out", target="lora", quiet=True)
    assert (tmp_path / "mine" / "text").read_text() == "mine"


def test_a_stopped_export_leaves_nothing(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lora, "kept_metric", stop)
    with pytest.raises(KeyboardInterrupt):
        dt.export(classifier, tmp_path / "out", target="lora", quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_peft_would_misread_is_not_written(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(*_: object) -> tuple[Logits, torch.Tensor]:
        wanted = torch.zeros(3)
        return Logits(wanted, wanted + 1, "3 rows", 1e-4), wanted + 0.9

    monkeypatch.setattr(lora, "in_peft", misread)
    with pytest.raises(TrainingError, match="peft computes the same"):
        dt.export(classifier, tmp_path / "out", target="lora", quiet=True)
    assert not list(tmp_path.iterdir())


def test_every_target_explains_itself() -> None:
    for name, target in TARGETS.items():
        assert target.title.endswith(".")
        assert f"\n      {name} " in (command.__doc__ or ""), "deltatune export --help lists it"
