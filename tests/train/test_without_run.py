"""Adapters of peft, used where ours takes a run: what they compute is what peft computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from deltatune.cli.app import app
from deltatune.errors import AdapterError, DataError, DeltatuneError
from deltatune.recipe import Recipe
from deltatune.runs import Given, evaluate_run, load_run, merge, predict
from deltatune.testing.building import close
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import run
from tests.oracle.bridge import perturb_trainable
from tests.tiny_recipe import WORDS

Make = Callable[..., Recipe]
TEXTS = ["0 of the medals", "1 of the quick brown fox and so on"]
KINDS: dict[str, tuple[Any, str, list[str]]] = {
    "t5": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM", ["q", "v"]),
    "llama": (AutoModelForCausalLM, "CAUSAL_LM", ["q_proj", "v_proj"]),
    "bert": (AutoModelForSequenceClassification, "SEQ_CLS", ["query", "value"]),
}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny classifier of two classes without names."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny-bert"), tiny_tokenizer("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bases(t5_folder: Path, llama_folder: Path, bert_folder: Path) -> dict[str, Path]:
    return {"t5": t5_folder, "llama": llama_folder, "bert": bert_folder}


def write(folder: Path, base: Path, kind: str, config: Any = None, **options: Any) -> Any:
    """Write an adapter of peft's that acts, and give peft's own model, loaded again."""
    auto, task, targets = KINDS[kind]
    config = config or LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type=task)
    theirs: Any = get_peft_model(auto.from_pretrained(base, **options), config)
    perturb_trainable(theirs, 1)
    theirs.save_pretrained(folder)
    return PeftModel.from_pretrained(auto.from_pretrained(base, **options), str(folder)).eval()


@torch.no_grad()
def logits(model: Any, kind: str, base: Path) -> Tensor:
    ids = tiny_tokenizer("t5" if kind == "t5" else kind)(TEXTS[0], return_tensors="pt")["input_ids"]  # type: ignore[arg-type]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "t5":
        batch["decoder_input_ids"] = ids[:, :4]
    found: Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_lora_of_peft_is_used_and_merged(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, adapter = bases[kind], tmp_path / "theirs"
    theirs = write(adapter, base, kind)
    given = Given(str(base))
    wanted = logits(theirs, kind, base)
    close(logits(load_run(adapter, given=given).model, kind, base), wanted)
    with torch.no_grad():
        plain = logits(KINDS[kind][0].from_pretrained(base), kind, base)
    assert (wanted - plain).abs().max() > 1e-2
    told = merge(adapter, tmp_path / "merged", given=given)
    assert told.compared_on == "random inputs (the data are not named)"
    merged = KINDS[kind][0].from_pretrained(tmp_path / "merged")
    for name, weight in theirs.merge_and_unload().named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_it_generates_what_peft_generates(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, adapter = bases[kind], tmp_path / "theirs"
    theirs, tokenizer = write(adapter, base, kind), tiny_tokenizer("t5" if kind == "t5" else "llama")
    found = [line.prediction for line in predict(adapter, TEXTS[:1], given=Given(template="say {input}"))]
    inputs = tokenizer("say " + TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        ids = theirs.generate(**inputs, max_new_tokens=64, do_sample=False, pad_token_id=0)[0]
    ids = ids if kind == "t5" else ids[inputs["input_ids"].shape[1] :]
    assert [tokenizer.decode(ids, skip_special_tokens=True).strip()] == [text.strip() for text in found]


def test_classes_are_those_of_the_head(bert_folder: Path, tmp_path: Path) -> None:
    """A head of three classes over a base that names two."""
    theirs = write(tmp_path / "theirs", bert_folder, "bert", num_labels=3, ignore_mismatched_sizes=True)
    names = ("no", "perhaps", "yes")
    given = Given(str(bert_folder), labels=names)
    with torch.no_grad():
        shares = theirs(**tiny_tokenizer("bert")(TEXTS[0], return_tensors="pt")).logits.softmax(-1)[0]
    [line] = predict(tmp_path / "theirs", TEXTS[:1], given=given)
    assert line.prediction == names[int(shares.argmax())]
    assert line.probabilities == pytest.approx(dict(zip(names, shares.tolist(), strict=True)), abs=1e-5)
    with pytest.raises(AdapterError, match=r"2 classes \(LABEL_0, LABEL_1\).*--labels"):
        load_run(tmp_path / "theirs", given=Given(str(bert_folder)))


def test_a_trained_head_of_the_base_keeps_its_weights_under_other_names(
    bert_folder: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["query"])  # without a task, so without a head
    theirs = write(tmp_path / "theirs", bert_folder, "bert", config)
    given = Given(str(bert_folder), "text-classification", ("bad", "good"))
    loaded = load_run(tmp_path / "theirs", given=given)
    close(logits(loaded.model, "bert", bert_folder), logits(theirs, "bert", bert_folder))
    merge(tmp_path / "theirs", tmp_path / "merged", given=given)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "bad", 1: "good"}
    with pytest.raises(AdapterError, match="would be random"):
        load_run(tmp_path / "theirs", given=Given(str(bert_folder), "text-classification", ("a", "b", "c")))


def test_a_delta_of_ours_that_lies_elsewhere(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=2", "train.lr=0.05", "train.precision=fp32", methods=["lora"])
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    path = tmp_path / "recipe.yaml"
    (tmp_path / "run" / "recipe.yaml").rename(path)
    (tmp_path / "run" / "adapter").rename(tmp_path / "moved")
    found = evaluate_run(tmp_path / "moved", given=Given(recipe=path))
    assert found == pytest.approx(result.metrics.test, rel=1e-5, abs=1e-5)
    with pytest.raises(DataError, match=r"--recipe: .* names rows"):
        evaluate_run(tmp_path / "moved")


def test_rows_spell_the_classes_and_the_head_orders_them(
    make_recipe: Make, bert_folder: Path, tmp_path: Path
) -> None:
    """Accuracy of peft's own answers; the order of the rows' labels is another."""
    names = tuple(word.upper() for word in reversed(WORDS))
    theirs = write(
        tmp_path / "theirs", bert_folder, "bert", num_labels=len(names), ignore_mismatched_sizes=True
    )
    recipe = make_recipe(task="text-classification", methods=["lora"])
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.dump()), encoding="utf-8")
    given = Given(str(bert_folder), labels=names, recipe=path)
    lines = tmp_path / "predictions.jsonl"
    found = evaluate_run(tmp_path / "theirs", predictions=lines, given=given)
    right = 0
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        batch = tiny_tokenizer("bert")(row["input"], return_tensors="pt")
        with torch.no_grad():
            best = int(theirs(**batch).logits.argmax())
        assert row["prediction"] == names[best].lower()
        right += names[best].lower() == row["reference"]
    assert found["accuracy"] == pytest.approx(right / len(rows))
    with pytest.raises(DeltatuneError, match="none of the classes"):
        evaluate_run(
            tmp_path / "theirs", given=Given(str(bert_folder), labels=tuple("abcdefgh"), recipe=path)
        )


def test_what_cannot_be_used_is_one_error(bases: dict[str, Path], make_recipe: Make, tmp_path: Path) -> None:
    adapter, llama = tmp_path / "theirs", bases["llama"]
    write(adapter, llama, "llama")
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))

    def named(base: str | None, task: str | None = "CAUSAL_LM") -> Path:
        path.write_text(json.dumps({**config, "base_model_name_or_path": base, "task_type": task}))
        return adapter

    with pytest.raises(AdapterError, match=r"--base: .* names no base"):
        load_run(named(None))
    with pytest.raises(AdapterError, match=r"--base: .* cannot be loaded: there is no model folder"):
        load_run(named("/nowhere/llama"))
    with pytest.raises(AdapterError, match=r"--base: .* leads out of its folder"):
        load_run(named("../llama"))
    with pytest.raises(AdapterError, match=r"--task: .* does not tell what it is for"):
        load_run(named(str(llama), None))
    with pytest.raises(AdapterError, match=r"--task: 'causal' is no task.*causal-lm"):
        load_run(named(str(llama)), given=Given(task="causal"))
    with pytest.raises(AdapterError, match=r"--base: the adapter does not fit the base"):
        load_run(named(str(llama), None), given=Given(str(bases["t5"]), "text-to-text"))
    small = AutoConfig.from_pretrained(llama, hidden_size=16)
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path / "small")
    tiny_tokenizer("llama").save_pretrained(tmp_path / "small")
    with pytest.raises(AdapterError, match=r"--base: the adapter does not fit.*has the shape"):
        load_run(named(str(llama)), given=Given(str(tmp_path / "small")))
    prompt = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    write(tmp_path / "prompt", llama, "llama", prompt)
    with pytest.raises(AdapterError, match="adds tokens and cannot be written into weights"):
        merge(tmp_path / "prompt", tmp_path / "merged")
    recipe = make_recipe("train.max_steps=1", methods=["lora"])
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    with pytest.raises(DeltatuneError, match=r"--base: .* is a run"):
        load_run(tmp_path / "run", given=Given("bundled:t5-small"))


def test_the_base_that_the_adapter_names_is_taken_and_said(llama_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "theirs", llama_folder, "llama")
    with pytest.warns(UserWarning, match=f"taking the base that the adapter names: '{llama_folder}'"):
        load_run(tmp_path / "theirs")


def test_code_of_the_base_runs_only_where_the_user_says_so(llama_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "theirs", llama_folder, "llama")
    base = tmp_path / "theirs" / "base"
    shutil.copytree(llama_folder, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (base / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    path = tmp_path / "theirs" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": "./base"}), encoding="utf-8")
    with pytest.raises(DeltatuneError):
        load_run(tmp_path / "theirs")
    assert not (tmp_path / "ran").exists()


def test_commands_take_the_options(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "theirs", bert_folder, "bert")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app([*arguments, "--base", str(bert_folder), "--labels", "bad,good"], prog_name="deltatune")
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    folder = str(tmp_path / "theirs")
    code, out, _ = call("predict", folder, TEXTS[0])
    assert code == 0
    assert set(json.loads(out)["probabilities"]) == {"bad", "good"}
    code, out, _ = call("inspect", folder, "--json")
    assert code == 0
    assert json.loads(out)["fits"]["classes"] == ["bad", "good"]
    assert call("merge", folder, "--out", str(tmp_path / "merged"))[0] == 0
    code, _, err = call("evaluate", folder)
    assert code == 2
    assert "--recipe" in err
