"""Default roles on the architectures of Transformers; peft's tables are the oracle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT

from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.methods import METHODS
from deltatune.models.tasks import model_class
from deltatune.tasks import TASKS
from deltatune.testing import tiny
from deltatune.testing.building import close

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
POPULAR = [
    "albert",
    "bart",
    "bert",
    "bloom",
    "camembert",
    "codegen",
    "cohere",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "granite",
    "llama",
    "longformer",
    "marian",
    "mbart",
    "mistral",
    "mixtral",
    "modernbert",
    "mpnet",
    "mpt",
    "mt5",
    "olmo",
    "olmo2",
    "opt",
    "pegasus",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "roberta",
    "smollm3",
    "stablelm",
    "starcoder2",
    "t5",
    "umt5",
    "xlm-roberta",
    "beit",
    "deit",
    "dinov2",
    "siglip",
    "swin",
    "vit",
]
WITHOUT_ATTENTION = {
    *("mamba", "mamba2", "falcon_mamba", "xlstm", "rwkv", "recurrent_gemma", "fnet"),
    *("xlnet", "ibert", "squeezebert", "jetmoe"),  # attention without linear layers
    *("bit", "convnext", "convnextv2", "efficientnet", "focalnet", "hgnet_v2", "mobilenet_v1", "levit"),
    *("mobilenet_v2", "mobilevitv2", "poolformer", "pp_lcnet", "regnet", "resnet", "swiftformer", "textnet"),
    *("bamba", "jamba", "zamba2", "granitemoehybrid"),  # only in deeper layers than are built here
    "gemma4_unified_assistant",  # reads the keys and values of another model
    *("moshi", "nemo_speechlm", "axk2", "zaya"),  # layers of their own kind; models of speech
}


def shrunk(config: Any) -> Any:
    """The configuration with few layers, which are all alike."""
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(getattr(config, name), 4))
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:4]
    return config


def views(model_type: str) -> list[BaseView]:
    """The model types's classes for our tasks, without weights."""
    found = []
    for table in [model_class(task)._model_mapping for task in TASKS.names()]:
        for kind in table:
            if kind.model_type == model_type:
                made = table[kind][0] if isinstance(table[kind], tuple) else table[kind]
                with torch.device("meta"):
                    found.append(BaseView(made(shrunk(kind()))))
    return found


def test_a_popular_architecture_is_known() -> None:
    known = {kind.model_type for task in TASKS.names() for kind in model_class(task)._model_mapping}
    assert set(POPULAR) <= known


@pytest.mark.parametrize("model_type", POPULAR)
def test_every_role_finds_modules(model_type: str) -> None:
    for view in views(model_type)[:1]:
        roles = ("query", "key", "value", "output")
        if model_type != "mixtral":  # its experts are kept in one tensor
            roles += ("mlp_in", "mlp_out")
        reached = {role: set(view.by_role(role)) for role in roles}
        assert all(reached.values())
        every = set().union(*reached.values())
        wanted = PEFT.get(model_type, ())
        named = {p for p, m in view.modules.items() if f".{p}".endswith(tuple(f".{n}" for n in wanted))}
        linear = {p for p in named if isinstance(view.modules[p], torch.nn.Linear)}
        assert linear <= every


@pytest.mark.slow
def test_lora_reaches_attention_wherever_there_is_one() -> None:
    types = {
        kind.model_type for task in TASKS.names() for kind in model_class(task)._model_mapping
    } - WITHOUT_ATTENTION
    without = []
    for model_type in sorted(types):
        try:
            made = views(model_type)
        except Exception:  # a default configuration of Transformers that cannot be built, or needs a package
            continue
        without += [model_type for view in made if not (view.by_role("query") and view.by_role("value"))]
    assert not without


V = tiny.VOCABULARY
SIZE = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "pad_token_id": 0,
    "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
CAUSAL = SIZE | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "Phi3": ("ForCausalLM", CAUSAL),
    "Qwen3": ("ForCausalLM", CAUSAL | {"head_dim": 4}),
    "Gemma3Text": ("ForCausalLM", CAUSAL | {"head_dim": 4}),
    "Starcoder2": ("ForCausalLM", CAUSAL),
    "Olmo2": ("ForCausalLM", CAUSAL),
    "Mpt": ("ForCausalLM", {"d_model": 16, "n_heads": 4, "n_layers": 2, "vocab_size": V, "max_seq_len": 64}),
    "DistilBert": (
        "ForSequenceClassification",
        {"vocab_size": V, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32},
    ),
    "Albert": ("ForSequenceClassification", SIZE | {"embedding_size": 8}),
    "ModernBert": (
        "ForSequenceClassification",
        SIZE | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "MPNet": ("ForSequenceClassification", SIZE),
    "Deberta": ("ForSequenceClassification", SIZE),
}
OWN_ATTENTION = ("Mpt", "MPNet")


def built(name: str) -> Any:
    ending, settings = MADE[name]
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, name.removesuffix("Text") + ending)(config)
    with torch.no_grad():
        for parameter in model.parameters():  # wide, so that small differences show
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix", "adapter", "ia3", "p_tuning"])
@pytest.mark.parametrize("name", MADE)
def test_a_delta_acts_and_loads_again(name: str, method: str, tmp_path: Path) -> None:
    base = built(name)
    model = AdaptedModel(copy.deepcopy(base))
    ids = torch.randint(4, V, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = METHODS.get(method)(**({"n_tokens": 3} if method in ("prompt", "prefix", "p_tuning") else {}))
    if method == "prefix" and name in OWN_ATTENTION:
        with pytest.raises(TargetError, match="on its own"):
            model.attach("a", config)
        return
    adapter = model.attach("a", config)
    tiny.perturb(adapter)
    wanted = model(**batch).logits
    assert all(model.fired().values())
    with model.using():
        assert not torch.allclose(model(**batch).logits, wanted, atol=1e-4)
    model.save(tmp_path / "adapter")
    again = AdaptedModel(base)
    again.load(tmp_path / "adapter")
    close(again(**batch).logits, wanted)


@pytest.mark.parametrize("name", ["DistilBert", "Albert", "ModernBert", "MPNet"])
def test_a_prompt_before_a_padded_row_of_an_encoder_changes_nothing_of_it(name: str) -> None:
    """An encoder that the tables do not name is no decoder: its positions are its own."""
    model = AdaptedModel(built(name))
    assert not model.view.is_decoder_only
    tiny.perturb(model.attach("a", METHODS.get("prompt")(n_tokens=3)))
    ids = torch.randint(4, V, (1, 6), generator=torch.Generator().manual_seed(0))
    alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    padded = torch.nn.functional.pad(ids, (0, 3), value=model.base.config.pad_token_id)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    close(model(input_ids=padded, attention_mask=mask).logits, alone)


def gemma3() -> Any:
    """A model that reads images and texts."""
    text = CAUSAL | {"head_dim": 4, "sliding_window": 32}
    vision = {
        k: SIZE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 16, "patch_size": 4}, mm_tokens_per_image=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("targets", [("query", "value"), ("all-linear",), ("q_proj", "v_proj"), ("mlp",)])
def test_a_text_does_not_pass_through_the_tower_for_images(targets: tuple[str, ...]) -> None:
    model = AdaptedModel(gemma3())
    adapter = model.attach("a", METHODS.get("lora")(targets=targets))
    tiny.perturb(adapter)
    assert not [path for path in adapter.deltas if "language_model" not in path]
    ids = torch.randint(4, V, (2, 9), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert all(model.fired().values())


def test_a_glob_reaches_the_tower_for_images() -> None:
    model = AdaptedModel(gemma3())
    adapter = model.attach("a", METHODS.get("lora")(targets=("*vision_tower*q_proj",)))
    assert len(adapter.deltas) == 2


def test_a_refused_name_is_not_suggested() -> None:
    view = BaseView(built("Albert"))
    assert view.select(("query",))
    with pytest.raises(TargetError) as refusal:
        AdaptedModel(transformers.XLNetForSequenceClassification(
            transformers.XLNetConfig(vocab_size=V, d_model=16, n_layer=1, n_head=4, d_inner=32)
        )).attach("a", METHODS.get("lora")(targets=("output",)))  # fmt: skip
    assert "'output'" not in (refusal.value.remedy or "")
