"""Runs that start from a saved delta: of a run, of an adapter's folder, of peft; and longer training."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertModel

from deltatune.cli.app import app
from deltatune.comparison.runner import compare
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, ChangedError, DeltatuneError, RecipeError
from deltatune.evaluation import loss_on
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe, load_recipe
from deltatune.recipe.baselines import TRAIN_NOTHING
from deltatune.recipe.written import as_written
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import Context, plan, run
from deltatune.training.given.extend import extension, open_extension
from deltatune.training.given.start import other_head
from deltatune.training.single.opening import open_run
from deltatune.training.single.parts import Run
from tests.train.test_run import StopAfter, lines, without_times

Make = Callable[..., Recipe]
TENSORS = "adapter/adapter_model.safetensors"


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


_TRAINED: dict[str, Path] = {}
"""Runs to start from, by what they are; a test gets a copy."""


def first(make_recipe: Make, folder: Path, *overrides: str, method: Any = None) -> None:
    recipe = make_recipe("train.max_steps=2", *overrides, methods=[method or {"lora": {"r": 4}}])
    known = _TRAINED.setdefault(f"{overrides} {method}", folder.with_name(f"kept-{len(_TRAINED)}"))
    if not known.exists():
        run(recipe, recipe.methods[0], 0, known)
    shutil.copytree(known, folder)


def going_on(make_recipe: Make, start: Path, *overrides: str, settings: Any = None, **rest: Any) -> Recipe:
    entry = {"lora": settings or {}, "name": "continued", "from": str(start), **rest}
    return make_recipe("train.max_steps=4", "train.checkpoint_every=1", *overrides, methods=[entry])


@pytest.mark.parametrize("inner", ["", "adapter"])
def test_a_continued_run_starts_with_the_saved_tensors(make_recipe: Make, tmp_path: Path, inner: str) -> None:
    first(make_recipe, tmp_path / "first")
    result = json.loads((tmp_path / "first/result.json").read_text(encoding="utf-8"))
    recipe = going_on(make_recipe, tmp_path / "first" / inner)
    opened = open_run(recipe, recipe.methods[0], 0, tmp_path / "second")
    assert isinstance(opened, Run)
    try:
        saved = load_file(tmp_path / "first" / TENSORS)
        stored = opened.adapter.stored()
        assert {key.removeprefix("base_model.model."): 0 for key in saved}.keys() == stored.keys()
        assert all(torch.equal(saved[f"base_model.model.{key}"], stored[key]) for key in stored)
        opened.model.eval()
        loss = loss_on(opened.model, opened.data.encoded("validation"), opened.encoder, 8)
        assert loss["loss"] == result["metrics"]["validation"]["loss"]
        assert opened.config.model_dump()["r"] == 4
    finally:
        opened.close()


def test_its_result_tells_where_it_started(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    recipe, heard = going_on(make_recipe, tmp_path / "first"), Heard()
    planned = plan(recipe, recipe.methods[0], 0)
    assert planned["from"] == str(tmp_path / "first")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "second", observer=heard)
    assert result.origin.path == str(tmp_path / "first")
    assert result.origin.sha256 == json.loads(
        (tmp_path / "first/adapter/deltatune.json").read_text(encoding="utf-8")
    )["sha256"]  # fmt: skip
    assert "looked at before" in result.origin.warning
    assert any("looked at before" in warning for warning in heard.warnings)
    assert result.config["r"] == 4
    again = load_recipe(tmp_path / "second/recipe.yaml")
    assert again.methods[0].start == str(tmp_path / "first")
    assert again.methods[0].config == {}


def test_training_that_only_worsens_keeps_the_start(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    before = json.loads((tmp_path / "first/result.json").read_text(encoding="utf-8"))
    heard = Heard()
    recipe = going_on(make_recipe, tmp_path / "first", "train.lr=30", "train.warmup=0")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "second", observer=heard)
    assert (result.selected.step, result.cost.steps) == (0, 4)
    assert result.metrics.validation["loss"] == before["metrics"]["validation"]["loss"]
    assert any("stays what it started from" in warning for warning in heard.warnings)
    saved, kept = (load_file(tmp_path / name / TENSORS) for name in ("first", "second"))
    assert all(torch.equal(saved[key], kept[key]) for key in saved)
    assert lines(tmp_path / "second/metrics.jsonl")[0]["step"] == 0


def test_resumed_it_is_the_same_bit_for_bit(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    recipe = going_on(make_recipe, tmp_path / "first")
    entry = recipe.methods[0]
    run(recipe, entry, 0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, entry, 0, tmp_path / "parts", observer=StopAfter(2))
    run(recipe, entry, 0, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / TENSORS) for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    logs = [without_times(lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_changed_delta_is_refused_on_resume(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    recipe = going_on(make_recipe, tmp_path / "first")
    entry = recipe.methods[0]
    with pytest.raises(KeyboardInterrupt):
        run(recipe, entry, 0, tmp_path / "second", observer=StopAfter(2))
    shutil.rmtree(tmp_path / "first")
    first(make_recipe, tmp_path / "first", "train.lr=0.001")
    with pytest.raises(ChangedError, match="the delta that it started from has changed"):
        run(recipe, entry, 0, tmp_path / "second", resume=True)


def test_the_delta_of_peft_is_trained_on(make_recipe: Make, tmp_path: Path, llama_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    theirs = peft.get_peft_model(
        base, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["v_proj", "q_proj"], init_lora_weights=False)
    )
    theirs.save_pretrained(tmp_path / "theirs")
    options: dict[str, Any] = {"task": "causal-lm", "model": str(llama_folder)}
    entry = {"lora": {"r": 2, "targets": ["q_proj", "v_proj"]}, "from": str(tmp_path / "theirs")}
    recipe = make_recipe("train.max_steps=2", methods=[entry], **options)
    heard = Heard()
    opened = open_run(recipe, recipe.methods[0], 0, tmp_path / "out", observer=heard)
    assert isinstance(opened, Run)
    saved = load_file(tmp_path / "theirs/adapter_model.safetensors")
    stored = opened.adapter.stored()
    assert all(torch.equal(saved[f"base_model.model.{key}"], stored[key]) for key in stored)
    assert len(stored) == len(saved)
    opened.close()
    assert any("not known" in warning for warning in heard.warnings)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "out", overwrite=True)
    assert (result.config["r"], result.config["alpha"]) == (2, 4.0)
    wrong = make_recipe(methods=[{"lora": {"r": 8}, "from": str(tmp_path / "theirs")}], **options)
    with pytest.raises(RecipeError, match=r"lora\.r: is 8, and the delta .* has 2"):
        run(wrong, wrong.methods[0], 0, tmp_path / "wrong")


def test_settings_that_contradict_are_refused_before_the_data_are_read(
    make_recipe: Make, tmp_path: Path
) -> None:
    first(make_recipe, tmp_path / "first")
    fits = going_on(make_recipe, tmp_path / "first", settings={"r": 4})
    plan(fits, fits.methods[0], 0)
    for settings, words in (({"r": 8}, r"lora\.r: is 8"), ({"alpha": 3}, r"lora\.alpha: is 3\.0")):
        wrong = going_on(make_recipe, tmp_path / "first", settings=settings)
        with pytest.raises(RecipeError, match=words):
            Context.open(wrong, Silent())
    other = make_recipe(methods=[{"ia3": {}, "from": str(tmp_path / "first")}])
    with pytest.raises(RecipeError, match=r"from: the delta .* is one of lora.*Write the entry as lora"):
        Context.open(other, Silent())
    nowhere = going_on(make_recipe, tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="from: there is no folder"):
        Context.open(nowhere, Silent())


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"untuned": {}, "from": "x"}, "methods.0.from: has no effect on untuned"),
        ({"lora": {}, "from": "x", "budget": 1000}, "methods.0.budget: .* the saved delta has its size"),
    ],
)
def test_what_cannot_start_from_a_delta(make_recipe: Make, entry: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make_recipe(methods=[entry])


def test_settings_of_a_delta_cannot_be_searched(make_recipe: Make) -> None:
    entry = {"lora": {}, "from": "x", "space": {"r": [2, 4]}}
    with pytest.raises(RecipeError, match=r"methods\.0\.space\.r: cannot be searched beside from"):
        make_recipe(methods=[entry], search={"trials": 2})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"prefix": {"projection": True, "projection_size": 8, "n_tokens": 2}}, "network"),
        ({"adalora": {"init_r": 3, "target_r": 2, "tinit": 0, "tfinal": 0}}, "pruned for good"),
    ],
)
def test_a_delta_that_lost_what_trains_it_is_refused(
    make_recipe: Make, tmp_path: Path, method: Any, words: str
) -> None:
    first(make_recipe, tmp_path / "first", method=method)
    [name] = method
    recipe = make_recipe(methods=[{name: {}, "from": str(tmp_path / "first")}])
    with pytest.raises(AdapterError, match=rf"from: .*cannot be trained on: .*{words}.*Train it anew"):
        plan(recipe, recipe.methods[0], 0)


NOT_HERE = (*TRAIN_NOTHING, "loftq", "head")
"""What trains nothing, needs a quantized base, or one that tells classes apart."""


@pytest.mark.parametrize("name", [name for name in METHODS.names() if name not in NOT_HERE])
def test_a_loaded_delta_trains_what_the_saved_one_did_or_says_why_not(
    t5_folder: Path, tmp_path: Path, name: str
) -> None:
    model = AdaptedModel(
        AutoModelForSeq2SeqLM.from_pretrained(t5_folder),
        processor=AutoTokenizer.from_pretrained(t5_folder),
    )
    config = METHODS.get(name)(**({"peft_type": "LOHA"} if name == "peft" else {}))
    trained = {key: p.shape for key, p in model.attach("saved", config).trainable()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedules that have not run
        model.save(tmp_path / "delta", "saved")
    model.load(tmp_path / "delta", "loaded")
    loaded = {key: p.shape for key, p in model.adapter("loaded").trainable()}
    lost = config.lost_when_saved() or model.configs["loaded"].lost_when_saved()
    assert bool(lost) or loaded == trained
    assert bool(lost) == (name in ("adalora", "diff_pruning", "hard_prompt", "p_tuning"))


def test_a_run_is_never_written_over_its_own_start(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    recipe = going_on(make_recipe, tmp_path / "first" / "adapter")
    with pytest.raises(RecipeError, match="holds the delta that the run starts from"):
        run(recipe, recipe.methods[0], 0, tmp_path / "first", overwrite=True)
    assert (tmp_path / "first" / TENSORS).exists()


@pytest.mark.slow
def test_a_comparison_tells_of_it_and_keeps_the_start(make_recipe: Make, tmp_path: Path) -> None:
    first(make_recipe, tmp_path / "first")
    entry = {"lora": {}, "name": "continued", "from": str(tmp_path / "first")}
    recipe = make_recipe("train.max_steps=1", methods=[entry, "lora"], seeds=[0, 1], together=2)
    board = compare(recipe, tmp_path / "out")
    assert [row.status for row in board.rows] == ["done", "done"]
    assert sum("looked at before" in warning for warning in board.warnings) == 1
    with pytest.raises(RecipeError, match="holds the delta that the run starts from"):
        compare(recipe, tmp_path, overwrite=True)
    shutil.rmtree(tmp_path / "first")
    first(make_recipe, tmp_path / "first", "train.lr=0.001")
    shutil.rmtree(tmp_path / "out/runs/continued-s1")
    with pytest.raises(ChangedError, match=r"settings and tensors at the start of continued \(seed 1\)"):
        compare(recipe, tmp_path / "out")


def test_a_new_head_goes_on_from_the_saved_one(make_recipe: Make, tmp_path: Path, rows: Path) -> None:
    tokenizer = tiny_tokenizer("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")

    def classifying(method: Any) -> Recipe:
        return make_recipe(
            "train.max_steps=1", task="text-classification", model=str(tmp_path / "bert"),
            methods=[method], evaluation={"batch_size": 8},
        )  # fmt: skip

    recipe = classifying("lora")
    first = run(recipe, recipe.methods[0], 0, tmp_path / "first")
    assert other_head(first, "text-classification", first.data.labels) is None
    assert "is of the task text-class" in (
        other_head(first, "multi-label-classification", first.data.labels) or ""
    )
    assert "is of the task text-class" in (other_head(first, "embedding", None) or "")
    recipe = classifying({"lora": {}, "from": str(tmp_path / "first")})
    opened = open_run(recipe, recipe.methods[0], 1, tmp_path / "second")
    assert isinstance(opened, Run)
    saved, stored = load_file(tmp_path / "first" / TENSORS), opened.adapter.stored()
    opened.close()
    assert opened.adapter.heads() == ["classifier"]
    assert all(torch.equal(saved[f"base_model.model.{key}"], stored[key]) for key in stored)
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    renamed = [json.dumps(line | {"title": f"the {line['title']}"}) for line in lines]
    rows.write_text("\n".join(renamed), encoding="utf-8")
    with pytest.raises(RecipeError, match="tells other classes apart"):
        plan(recipe, recipe.methods[0], 0)


def test_an_unfinished_or_damaged_run_is_no_start(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.checkpoint_every=1")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "first", observer=StopAfter(2))
    with pytest.raises(DeltatuneError, match=r"from: .*is no finished run.*Finish it first"):
        Context.open(going_on(make_recipe, tmp_path / "first"), Silent())
    run(recipe, recipe.methods[0], 0, tmp_path / "first", resume=True)
    tensors = load_file(tmp_path / "first" / TENSORS)
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, tmp_path / "first" / TENSORS)
    with pytest.raises(AdapterError, match=r"from: .*checksum differs"):
        Context.open(going_on(make_recipe, tmp_path / "first"), Silent())


def test_longer_training_has_the_same_rows(make_recipe: Make, tmp_path: Path, rows: Path) -> None:
    recipe = make_recipe("train.max_steps=2")
    run(recipe, recipe.methods[0], 0, tmp_path / "first")
    longer = extension(tmp_path / "first", ["train.max_steps=3"])
    assert longer.methods[0].start == str(tmp_path / "first")
    assert (longer.train.max_steps, longer.seeds) == (3, [0])
    open_extension(longer, longer.methods[0], 0, Silent())
    content = rows.read_text(encoding="utf-8")
    rows.write_text(content + "\n" + content.splitlines()[0].replace('"0', '"99'), encoding="utf-8")
    with pytest.raises(ChangedError, match=r"--extend: the rows have changed \(.* then, .* now"):
        open_extension(longer, longer.methods[0], 0, Silent())
    rows.write_text(content, encoding="utf-8")
    shorter = extension(tmp_path / "first", ["data.max_target_tokens=2"])
    with pytest.raises(ChangedError, match="the limits of data"):
        open_extension(shorter, shorter.methods[0], 0, Silent())


def test_longer_training_from_a_special_start_is_of_the_saved_method(
    make_recipe: Make, tmp_path: Path
) -> None:
    entry = {"prompt": {"n_tokens": 2, "init": "text", "text": "of the"}}
    first(make_recipe, tmp_path / "first", method=entry)
    longer = extension(tmp_path / "first", ["train.max_steps=1"])
    result = run(longer, longer.methods[0], 0, tmp_path / "second")
    assert result.config["init"] == "random"
    assert result.cost.steps == 1


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        app([str(argument) for argument in arguments], prog_name="deltatune")
    return int(stop.value.code or 0), " ".join("".join(capsys.readouterr()).split())


def test_the_command_that_longer_training_names_goes_on(
    make_recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make_recipe("train.epochs=1").dump()
    for epochs in (1, 2):
        content["train"]["epochs"] = epochs
        (tmp_path / f"{epochs}.yaml").write_text(as_written(content), encoding="utf-8")
    run_folder, longer = tmp_path / "run", tmp_path / "longer"
    assert command(capsys, "train", tmp_path / "1.yaml", "--out", run_folder)[0] == 0
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    code, said = command(capsys, "train", tmp_path / "2.yaml", "--out", run_folder, "--resume")
    assert code == 2
    assert "train.epochs 1 there, 2 here" in said
    assert f"deltatune train --extend {run_folder} --out NEW --set train.epochs=N" in said
    extend = ("train", "--extend", run_folder, "--set", "train.epochs=2")
    code, said = command(capsys, *extend, "--dry-run")
    assert code == 0
    assert f"starts from {run_folder}" in said
    code, said = command(capsys, *extend, "--out", run_folder, "--overwrite")
    assert code == 2
    assert "a finished run is never changed" in said
    code, said = command(capsys, *extend)
    assert (code, "needs a folder for the new run" in said) == (2, True)
    code, said = command(capsys, *extend, "--out", longer)
    assert code == 0, said
    assert "with a fresh optimizer" in said
    assert "they have been looked at before" in said
    result = json.loads((longer / "result.json").read_text(encoding="utf-8"))
    assert result["cost"]["steps"] == 8
    assert result["from"]["path"] == str(run_folder)
    assert before == {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert command(capsys, *extend, "--out", longer, "--resume")[0] == 0  # it is finished
    code, said = command(capsys, "train", tmp_path / "1.yaml", *extend[1:], "--out", longer)
    assert (code, "RECIPE: it stands beside --extend" in said) == (2, True)
