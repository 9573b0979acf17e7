from __future__ import annotations

import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.utils import logging

from deltatune.errors import DeltatuneError, ModelError, RecipeError
from deltatune.models import source
from deltatune.models.load import load_base
from deltatune.models.processor import load_processor
from deltatune.recipe.base_sections import ModelSpec
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from tests.models.conftest import spec

CLASSES = ["no", "yes"]


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "task", "labels", "new"),
    [
        ("t5", "text-to-text", None, []),
        ("llama", "causal-lm", None, []),
        ("llama", "text-classification", CLASSES, ["score"]),
        ("bert", "text-classification", CLASSES, ["classifier"]),
        ("bert-without-pooler", "text-classification", CLASSES, ["bert.pooler.dense", "classifier"]),
        ("vit", "image-classification", CLASSES, ["classifier"]),
    ],
)
def test_base_is_frozen_and_new_modules_are_named(checkpoints, name, task, labels, new):
    base = load_base(spec(checkpoints[name]), task, labels)
    assert base.new_modules == new
    assert all(base.model.get_submodule(path) is not None for path in new)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    if labels:
        assert base.model.config.id2label == {0: "no", 1: "yes"}
        assert base.model.config.label2id == {"no": 0, "yes": 1}


def test_stored_weights_are_what_is_loaded(checkpoints):
    model = load_base(spec(checkpoints["llama"]), "causal-lm", None).model
    stored = load_file(checkpoints["llama"] / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


def test_dtype(checkpoints):
    model = load_base(spec(checkpoints["t5"]), "text-to-text", None, dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_attention_comes_from_the_spec(checkpoints):
    model = load_base(spec(checkpoints["llama"], attention="eager"), "causal-lm", None).model
    assert model.config._attn_implementation == "eager"


def test_new_head_depends_on_the_seed_alone(checkpoints):
    def head(seed: int) -> torch.Tensor:
        model = load_base(spec(checkpoints["bert"]), "text-classification", CLASSES, seed=seed).model
        return model.classifier.weight

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = head(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(head(0), first)
    assert not torch.equal(head(1), first)


def test_stored_head_is_kept_for_its_own_labels_only(checkpoints):
    folder = checkpoints["bert-classifier"]
    stored = load_file(folder / "model.safetensors")["classifier.weight"]

    def load_for(labels):
        return load_base(spec(folder), "text-classification", labels)

    same = load_for(["bad", "good"])
    assert same.new_modules == []
    assert torch.equal(same.model.classifier.weight, stored)
    for labels in (["good", "worse"], CLASSES, ["bad", "good", "worse"], ["good", "Good"]):
        other = load_for(labels)
        assert other.labels == labels
        assert any("tells other classes apart (bad, good)" in warning for warning in other.warnings)
        assert other.new_modules == ["classifier"]
        assert other.model.classifier.weight.shape[0] == len(labels)
        assert not torch.equal(other.model.classifier.weight[:2], stored)
        assert torch.equal(other.model.classifier.weight, load_for(labels).model.classifier.weight)


@pytest.mark.parametrize("labels", [["good", "bad"], ["Bad", "GOOD"], ["good", "bad "]])
def test_a_stored_head_is_matched_by_names_whatever_their_order_and_capitals(checkpoints, labels):
    folder = checkpoints["bert-classifier"]
    stored = load_file(folder / "model.safetensors")["classifier.weight"]
    base = load_base(spec(folder), "text-classification", labels)
    assert torch.equal(base.model.classifier.weight, stored)
    assert (base.new_modules, base.warnings) == ([], [])
    assert base.labels == sorted(labels, key=str.casefold)  # the base's order, the data's spelling
    assert list(base.model.config.id2label.values()) == base.labels
    before = load_base(spec(folder), "text-classification", labels, as_spelled=True)
    assert (before.labels, before.new_modules) == (labels, ["classifier"])


def test_a_head_that_a_checkpoint_lacks_is_no_surprise(checkpoints):
    assert load_base(spec(checkpoints["bert"]), "text-classification", CLASSES).warnings == []


def test_a_padding_token_beyond_the_embeddings_is_replaced(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    base = load_base(spec(folder), "causal-lm", None)
    assert base.processor.pad_token_id == base.model.config.pad_token_id == 1
    assert "'[PAD]'" in base.warnings[0]
    assert "(8) lies beyond its 8 embeddings" in base.warnings[0]
    assert base.facts.vocabulary == 8
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"10 tokens .* 8 embeddings"):
        load_base(spec(folder), "causal-lm", None)


def test_model_and_tokenizer_have_one_padding_token(checkpoints, tmp_path):
    """A decoder that classifies reads the last token of a row before the padding that its config names."""
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "llama")
    edit_config(folder, pad_token_id=5)
    base = load_base(spec(folder), "text-classification", ["no", "yes"])
    assert base.model.config.pad_token_id == base.processor.pad_token_id == 1


def test_end_tokens_of_all_files_are_known(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "llama")
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(
        json.dumps(written | {"eos_token_id": [4, 1]}), encoding="utf-8"
    )
    base = load_base(spec(folder), "causal-lm", None)
    assert base.facts.end_ids == (4, 1)
    assert load_processor(spec(folder), "causal-lm")[1].end_ids == (4, 1)
    (folder / "generation_config.json").unlink()
    assert load_base(spec(folder), "causal-lm", None).facts.end_ids == (1,)


def test_padding_token_is_set_where_it_is_missing(checkpoints):
    base = load_base(spec(checkpoints["llama"]), "causal-lm", None)
    assert base.processor.pad_token == "</s>"
    assert base.model.config.pad_token_id == base.model.generation_config.pad_token_id == 1


def test_generation_settings_are_plain(checkpoints):
    base = load_base(spec(checkpoints["llama"]), "causal-lm", None)
    settings = base.model.generation_config
    assert settings.do_sample is False
    assert (settings.temperature, settings.top_p, settings.max_length) == (None, None, None)
    prompt = torch.tensor([[3, 4]])
    out = base.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, min_new_tokens=30
    )
    assert out.shape == (1, 32)


def test_loading_is_silent_and_restores_the_loggers(checkpoints, capfd):
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_base(spec(checkpoints["bert"]), "text-classification", CLASSES)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


@pytest.mark.parametrize(
    ("name", "task", "labels", "words"),
    [
        ("t5", "causal-lm", None, ["encoder-decoder", "text-to-text"]),
        ("llama", "text-to-text", None, ["decoder-only", "causal-lm"]),
        ("bert", "causal-lm", None, ["bert", "text-classification"]),
        ("bert", "image-classification", CLASSES, ["bert", "text-classification"]),
        ("vit", "text-classification", CLASSES, ["vit", "image-classification"]),
        ("bert", "text-clasification", CLASSES, ["Did you mean 'text-classification'"]),
        ("bert", "text-classification", None, ["names of the classes"]),
    ],
)
def test_task_that_the_model_cannot_do(checkpoints, name, task, labels, words):
    with pytest.raises((ModelError, RecipeError)) as caught:
        load_base(spec(checkpoints[name]), task, labels)
    assert caught.value.field == "task"
    assert all(word in str(caught.value) for word in words)


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")


def lost_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def delta_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


def no_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] = {"</s>": 1, "<unk>": 2}
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_weights, ["damaged", "again"]),
        (empty_weights, ["damaged"]),
        (pickled_weights, ["safetensors", "save_pretrained"]),
        (lost_weights, ["lacks 1 weights", "model.layers.0.mlp.up_proj.weight", "complete"]),
        (lambda folder: edit_config(folder, intermediate_size=8), ["lacks 3 weights", "mlp"]),
        (lambda folder: edit_config(folder, model_type="zorg"), ["architecture", "Update Transformers"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["not valid JSON"]),
        (lambda folder: (folder / "config.json").unlink(), ["no config.json", "save_pretrained"]),
        (delta_folder, ["saved delta", "base model"]),
        (no_vocabulary, ["0 of them words", "tokenizer.json"]),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), ["not valid JSON"]),
    ],
)
def test_damaged_folder_gives_one_clear_error(checkpoints, tmp_path, damage, words):
    folder = copy(checkpoints["llama"], tmp_path)
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load_base(spec(folder), "causal-lm", None)
    error = caught.value
    assert error.field == "model"
    assert error.remedy
    assert str(folder) in str(error)
    assert "\n" not in str(error)
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "nowhere.gguf"])
def test_missing_folder(name):
    with pytest.raises(ModelError, match=r"no model folder .*bundled:<name>"):
        load_base(spec(name), "causal-lm", None)


def test_damaged_gguf_file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(spec(path), "causal-lm", None)


def test_unknown_bundled_model():
    with pytest.raises(RecipeError, match=r"Did you mean 't5-small'"):
        load_base(spec("bundled:t5-smal"), "text-to-text", None)


def test_code_of_a_checkpoint_runs_only_with_consent(checkpoints, tmp_path):
    folder = copy(checkpoints["bert"], tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\n")
    edit_config(folder, model_type="zorg", auto_map={"AutoConfig": "custom.Config"})
    with pytest.raises(ModelError, match="trust_remote_code: true"):
        load_base(spec(folder), "text-classification", CLASSES)
    assert not ran.exists()


def test_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(source, "_hub_answers", lambda: False)
    with pytest.raises(DeltatuneError) as caught:
        load_base(spec("nobody/never-downloaded-model"), "causal-lm", None)
    assert "cannot be reached" in str(caught.value)
    assert "bundled:t5-small" in str(caught.value)


class _NotFound(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_whether_the_hub_answers(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), _NotFound)
    monkeypatch.setattr(source.hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source.hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert source._hub_answers()
    monkeypatch.setattr(source.hub, "HF_HUB_OFFLINE", True)
    assert not source._hub_answers()
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(source.hub, "HF_HUB_OFFLINE", False)
    assert not source._hub_answers()


def test_what_cannot_be_computed_in_bfloat16_is_loaded_in_float32(tmp_path):
    """The first DeBERTa mixes precisions in its attention; the second does not."""
    size = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}  # fmt: skip
    for family, dtype in (("Deberta", torch.float32), ("DebertaV2", torch.bfloat16)):
        folder = tmp_path / family
        config = getattr(transformers, f"{family}Config")(**size)
        getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
        tiny_tokenizer("bert").save_pretrained(folder)
        base = load_base(ModelSpec(name=str(folder)), "text-classification", ["a", "b"], dtype="bfloat16")
        assert base.model.dtype == dtype


def test_a_delta_beside_a_model_is_not_attached_unasked(checkpoints, tmp_path, monkeypatch):
    """Transformers attaches one that it finds, and loads the base that the delta names, whatever that is."""
    peft = pytest.importorskip("peft")
    folder = copy(checkpoints["t5"], tmp_path / "t5")
    base = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q"])).save_pretrained(folder)
    with pytest.raises(ModelError, match="holds a model and a saved delta"):
        load_base(spec(folder), "text-to-text", None)
    monkeypatch.setattr(source, "_check_folder", lambda *_: None)  # the Hub's folders are not seen before
    with pytest.raises(ModelError, match="is a saved delta, not a base model"):
        load_base(spec(folder), "text-to-text", None)
