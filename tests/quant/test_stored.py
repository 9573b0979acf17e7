"""Bases whose checkpoints are quantized: loaded as Transformers loads them, tried, and trained on."""

from __future__ import annotations

import json
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from deltatune import quant
from deltatune.checkpoint.store import structure
from deltatune.core.model import AdaptedModel
from deltatune.errors import ModelError, TargetError
from deltatune.memory.base import fake_base, fake_mode
from deltatune.methods import METHODS
from deltatune.models.fingerprint import checksum, fingerprint
from deltatune.models.load import load_base, read_config
from deltatune.quant.inplace import dequantize_
from deltatune.quant.layers import StoredLinear
from deltatune.quant.stored import bits_of, format_of
from deltatune.recipe import Recipe
from deltatune.recipe.base_sections import ModelSpec, QuantizationSpec
from deltatune.runs import merge, predict
from deltatune.training import run
from tests.tiny_recipe import llama_folder, make_recipe, rows, t5_folder, unpredicted

__all__ = ["llama_folder", "make_recipe", "rows", "t5_folder", "unpredicted"]

LAYER = "model.layers.0.mlp.down_proj"


class Rows(nn.Module):
    """Eight bits for each weight and a scale for each row, in a layer that is no `nn.Linear`.

    As with some published kernels, there is a gradient only in training mode.
    """

    def __init__(self, plain: nn.Linear, fault: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.fault = plain.in_features, plain.out_features, fault
        sizes = (plain.out_features, plain.in_features)
        self.register_buffer("packed", torch.zeros(sizes, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(sizes[0], 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.packed.to(x.dtype) * self.scale.to(x.dtype)  # type: ignore[operator]
        if self.fault == "blind" or not self.training:
            x = x.detach()
        if self.fault == "doubled":
            x = 2 * x - x.detach()
        return F.linear(x, weight)


class RowsConfig(QuantizationConfigMixin):
    def __init__(self, fault: str = "", plain: str = "none", **_: Any) -> None:
        self.quant_method: Any = "rows"
        self.fault, self.plain = fault, plain


class RowsQuantizer(HfQuantizer):
    quantization_config: RowsConfig

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        for path, module in list(model.named_modules()):
            kept = module is model.get_output_embeddings() or self.quantization_config.plain in path
            if type(module) is nn.Linear and not kept:
                model.set_submodule(path, Rows(module, self.quantization_config.fault))

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _known_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUTO_QUANTIZATION_CONFIG_MAPPING, "rows", RowsConfig)
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "rows", RowsQuantizer)


@pytest.fixture
def stored(llama_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny Llama in rows of eight bits, as a publisher would, with a fault of its layers."""

    def write(fault: str = "", plain: str = "none") -> Path:
        folder = tmp_path / f"rows-{fault}-{plain}"
        folder.mkdir()
        for file in llama_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(folder / "model.safetensors")
        for key in [key for key in tensors if "_proj." in key and plain not in key]:
            weight = tensors.pop(key)
            scale = weight.abs().amax(1, keepdim=True) / 127
            path = key.removesuffix(".weight")
            tensors |= {f"{path}.packed": (weight / scale).round().to(torch.int8), f"{path}.scale": scale}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        _quantized_by(folder, {"quant_method": "rows", "fault": fault, "plain": plain})
        return folder

    return write


def _quantized_by(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"quantization_config": settings}), encoding="utf-8")


def _load(folder: Path, **options: Any) -> Any:
    dequantize = options.pop("dequantize", None)
    return load_base(ModelSpec(name=str(folder), dequantize=dequantize), "causal-lm", None, **options)


def test_a_layer_of_an_unknown_backend_is_read_by_what_it_computes(
    stored: Callable[..., Path], llama_folder: Path
) -> None:
    folder = stored()
    tensors = load_file(folder / "model.safetensors")
    wanted = tensors[f"{LAYER}.packed"].float() * tensors[f"{LAYER}.scale"]
    base, plain = _load(folder), _load(llama_folder)
    layer = base.model.get_submodule(LAYER)
    assert isinstance(layer, StoredLinear)
    assert torch.equal(quant.read_weight(layer), wanted)
    assert quant.describe(base.model) == "rows"
    assert structure(base.model) == structure(plain.model)
    assert quant.parameter_count(base.model) == quant.parameter_count(plain.model)
    again = _load(folder)
    assert fingerprint(base.model) == fingerprint(again.model) != fingerprint(plain.model)
    assert checksum(base.model) == checksum(again.model)


def test_a_base_that_came_quantized_is_trained_merged_and_used(
    stored: Callable[..., Path], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(
        "train.max_steps=2", "train.precision=fp32", "evaluation.max_new_tokens=2",
        task="causal-lm", model=str(stored()), methods=[{"lora": {"targets": ["all-linear"]}}],
    )  # fmt: skip
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.status == "done"
    assert result.model.quantization == "rows"
    assert len(list(predict(tmp_path / "run", ["3 of the goals"]))) == 1
    done = merge(tmp_path / "run", tmp_path / "merged")
    assert done.max_abs_logit_difference < 1e-5
    assert done.max_abs_difference_to_quantized is not None
    assert done.max_abs_difference_to_quantized < 1e-3
    config = json.loads((tmp_path / "merged/config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(again.get_submodule(LAYER)) is nn.Linear


@pytest.mark.parametrize(("fault", "said"), [("blind", "no gradient"), ("doubled", "off by")])
def test_layers_without_right_gradients_are_refused_and_may_be_unpacked(
    stored: Callable[..., Path], fault: str, said: str
) -> None:
    folder = stored(fault)
    with pytest.raises(ModelError, match=rf"(?s)quantized \(rows\).*{said}.*dequantize: true"):
        _load(folder)
    base = _load(folder, dequantize=True)
    assert quant.describe(base.model) is None
    assert base.model.config.to_dict().get("quantization_config") is None
    ids = torch.arange(1, 7)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.allclose(base.model(ids).logits, plain(ids).logits, atol=1e-5)


def test_an_unpacked_base_may_rest_on_the_disk(stored: Callable[..., Path]) -> None:
    folder = stored()
    with pytest.raises(ModelError, match=r"scales.*dequantize: true"):
        _load(folder, offload="disk")
    base, wanted = _load(folder, dequantize=True, offload="disk"), _load(folder, dequantize=True)
    assert base.settle(torch.device("cpu")) == wanted.settle(torch.device("cpu"))
    ids = torch.arange(1, 7)[None]
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, wanted.model(ids).logits)


def test_unpacking_takes_off_what_a_backend_put_around_other_modules() -> None:
    norm = nn.LayerNorm(4)
    x, wanted, weight = torch.arange(4.0), norm(torch.arange(4.0)), norm.weight
    changed: Any = norm
    changed._parameters, changed._buffers = UserDict(norm._parameters), UserDict(norm._buffers)
    changed.forward = lambda x: x
    dequantize_(nn.Sequential(norm), torch.float32)
    assert type(norm._parameters) is type(norm._buffers) is dict
    assert norm.weight is weight
    assert torch.equal(norm(x), wanted)


def test_it_is_said_which_layers_are_not_quantized(stored: Callable[..., Path]) -> None:
    assert _load(stored()).warnings == []
    [warning] = _load(stored(plain="v_proj")).warnings
    assert "2 of 14 linear layers" in warning
    assert "model.layers.0.self_attn.v_proj, model.layers.1.self_attn.v_proj" in warning


def test_missing_packages_are_named_before_weights_are_read(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_folder / name).read_bytes())
    _quantized_by(tmp_path, {"quant_method": "vptq"})
    with pytest.raises(ModelError, match=r"\(vptq\).*not installed: vptq.*pip install vptq"):
        _load(tmp_path)


def test_what_came_quantized_is_neither_quantized_again_nor_trained_whole(
    stored: Callable[..., Path],
) -> None:
    folder = stored()
    with pytest.raises(ModelError, match="comes quantized"):
        _load(folder, quantization=QuantizationSpec(format="nf4"))
    model = AdaptedModel(_load(folder).model)
    with pytest.raises(TargetError, match=r"rows.*dequantize"):
        model.attach("all", METHODS.get("full")())


@pytest.mark.parametrize(
    "options", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}]
)
def test_a_checkpoint_of_bitsandbytes_is_the_base_that_a_recipe_would_make(
    tmp_path: Path, options: dict[str, Any], wide_llama: Path
) -> None:
    made = AutoModelForCausalLM.from_pretrained(wide_llama, quantization_config=BitsAndBytesConfig(**options))
    made.save_pretrained(tmp_path / "stored")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "stored" / name).write_bytes((wide_llama / name).read_bytes())
    spec = QuantizationSpec(
        format="int8" if "load_in_8bit" in options else "nf4", double=False, compute="fp32"
    )
    base, wanted = _load(tmp_path / "stored"), _load(wide_llama, quantization=spec)
    assert quant.describe(base.model) == quant.describe(wanted.model)
    assert fingerprint(base.model) == fingerprint(wanted.model)
    config = read_config(ModelSpec(name=str(tmp_path / "stored")))
    with fake_mode():
        planned = sum(tensor.nbytes for tensor in quant.held(fake_base(config, "causal-lm")))
    held = sum(tensor.nbytes for tensor in quant.held(wanted.model))
    assert planned == pytest.approx(held, rel=0.05)
    weight = quant.read_weight(wanted.model.get_submodule(LAYER))
    unpacked = _load(tmp_path / "stored", dequantize=True).model
    unpacked.save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").get_submodule(LAYER)
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, weight)


@pytest.fixture(scope="module")
def wide_llama(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose layers are multiples of 64 wide."""
    folder = tmp_path_factory.mktemp("wide")
    for file in llama_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    config = type(model.config).from_dict(model.config.to_dict() | sizes)
    torch.manual_seed(0)
    type(model)(config).save_pretrained(folder)
    return folder


def test_formats_have_names_and_sizes() -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    torchao = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}
    assert format_of(gptq) == "gptq 4 bit"
    assert format_of(torchao) == "torchao Int4WeightOnlyConfig"
    assert bits_of(gptq, "cpu") == pytest.approx(4 + 20 / 128)
    assert bits_of(torchao, "cpu") == 4.25
    assert bits_of({"quant_method": "fp8"}, "cpu") is None
    assert bits_of({"quant_method": "fp8"}, "cuda") == 8.0
    assert bits_of({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "cuda") is None
