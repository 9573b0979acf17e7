"""GGUF files as bases: as they are, and in few bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from deltatune import quant
from deltatune.models.bundled import BUNDLED_MODELS
from deltatune.models.fingerprint import fingerprint
from deltatune.models.load import LoadedBase, load_base
from deltatune.models.original import OriginalWeights
from deltatune.models.source import locate
from deltatune.quant.inplace import quantize_
from deltatune.recipe.base_sections import ModelSpec
from tests.quant.conftest import FORMATS, original, quantized


def smollm2(*, file: bool) -> ModelSpec:
    """The bundled SmolLM2 by the GGUF file that it comes in, or converted to a Transformers folder."""
    model = BUNDLED_MODELS.get("smollm2-135m")
    (name,) = [name for name in model.files if name.endswith(".gguf")]
    return ModelSpec(name=str(model._package_folder() / name) if file else "bundled:smollm2-135m")


def load(*, file: bool, format_name: str) -> LoadedBase:
    return load_base(smollm2(file=file), "causal-lm", None, quantization=FORMATS[format_name])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_quantizing_late_gives_what_quantizing_while_reading_gives(architecture: str, name: str) -> None:
    expected = quantized(architecture, name)
    model = original(architecture)
    kept = [path for path, module in expected.named_modules() if type(module) is torch.nn.Linear]
    quantize_(model, kept, FORMATS[name])
    assert quant.describe(model) == quant.describe(expected)
    assert fingerprint(model) == fingerprint(expected)


@pytest.mark.slow
def test_the_weights_of_a_gguf_file_are_the_base(tmp_path: Path) -> None:
    """The bundled folder holds the same weights, rounded to bfloat16."""
    found = load_base(smollm2(file=True), "causal-lm", None, dtype="bfloat16")
    expected = load_base(smollm2(file=False), "causal-lm", None, dtype="bfloat16")
    assert fingerprint(found.model) == fingerprint(expected.model)
    found.model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert fingerprint(again) == fingerprint(expected.model)
    assert found.processor("A film.").input_ids == expected.processor("A film.").input_ids


@pytest.mark.slow
def test_a_gguf_file_is_quantized_anew() -> None:
    nf4 = load(file=True, format_name="nf4")
    assert quant.describe(nf4.model) == "nf4 double"
    assert quant.codec_of(nf4.model.lm_head) is None
    path = "model.layers.3.mlp.up_proj"
    exact = OriginalWeights(smollm2(file=True), "causal-lm", None)(path)
    error = (quant.read_weight(nf4.model.get_submodule(path)) - exact).norm() / exact.norm()
    assert 0.05 < error < 0.11
    ids = torch.tensor([nf4.processor("The capital of France is").input_ids])
    with torch.inference_mode():
        token = nf4.model(input_ids=ids).logits[0, -1].argmax()
    assert nf4.processor.decode(token).strip() == "Paris"


def test_a_bare_file_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert locate(ModelSpec(name="model.gguf")).options["gguf_file"] == "model.gguf"
