"""What comes from peft: each setting has a counterpart or a reason, and configs become methods."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import peft
import pytest

import deltatune as dt
from deltatune.errors import AdapterError, DeltatuneError, ModelError, RecipeError, TargetError
from deltatune.integrations.adapting import of_peft
from deltatune.integrations.peft_settings import SETTINGS, counterpart
from deltatune.testing import tiny
from tests.from_peft_page import PAGE, rendered

QV = ["q_proj", "v_proj"]


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_of_peft_is_accounted_for(kind: str) -> None:
    """A new one in a new version of peft fails here."""
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    fields = {f.name for f in dataclasses.fields(config)}
    fields -= {f.name for f in dataclasses.fields(peft.PeftConfig)}
    assert {field for field in fields if counterpart(kind, field) is None} == set()
    assert SETTINGS[kind].keys() <= fields


def test_the_page_is_what_is_known() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page, "write it: python -m tests.from_peft_page"
    names: dict[str, Any] = {"base": tiny.model("llama")}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(block, names)
        names["base"] = tiny.model("llama")
    assert names["model"].configs["default"].r == 8


TAKEN = {
    "lora": (peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=QV),
             dt.LoraConfig(r=4, alpha=3, rslora=True, targets=tuple(QV))),
    "all linear": (peft.LoraConfig(target_modules="all-linear"),
                   dt.LoraConfig(alpha=8, targets=("all-linear",))),
    "dora": (peft.LoraConfig(use_dora=True, target_modules=QV), dt.DoraConfig(alpha=8, targets=tuple(QV))),
    "pissa": (peft.LoraConfig(init_lora_weights="pissa", target_modules=QV),
              dt.PissaConfig(alpha=8, targets=tuple(QV))),
    "adalora": (peft.AdaLoraConfig(init_r=6, target_r=3, tinit=5, tfinal=7, deltaT=2, beta1=0.7, beta2=0.8,
                                   orth_reg_weight=0.3, total_step=50, target_modules=QV),
                dt.AdaLoraConfig(init_r=6, target_r=3, alpha=8, tinit=5, tfinal=7, interval=2, beta1=0.7,
                                 beta2=0.8, orth_reg=0.3, targets=tuple(QV))),
    "ia3": (peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            dt.Ia3Config(targets=("k_proj",), feedforward=("down_proj",))),
    "vera": (peft.VeraConfig(r=8, d_initial=0.2, target_modules=QV),
             dt.VeraConfig(r=8, d_initial=0.2, targets=tuple(QV))),
    "prompt": (peft.PromptTuningConfig(num_virtual_tokens=5), dt.PromptConfig(n_tokens=5, init="random")),
}  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), TAKEN.values(), ids=TAKEN)
def test_a_config_of_peft_is_the_method(theirs: Any, ours: Any) -> None:
    assert of_peft(theirs) == ours


def test_adapting_trains_as_much_as_peft() -> None:
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = dt.adapt(tiny.model("bert"), copy.deepcopy(config))
    theirs = peft.get_peft_model(tiny.model("bert"), config)
    assert dt.trainable(model).trained == theirs.get_nb_trainable_parameters()[0]
    config = peft.LoraConfig(r=4, target_modules=QV, modules_to_save=["embed_tokens"])
    assert dt.trainable(dt.adapt(tiny.model("llama"), config)).heads == ("model.embed_tokens",)
    bridged = dt.adapt(tiny.model("llama"), peft.LoHaConfig(r=2, target_modules=QV, layers_to_transform=[1]))
    assert bridged.configs["default"].name == "peft"
    assert all(".1." in path for path in bridged.adapter("default").deltas)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=QV, rank_pattern={"q_proj": 2}),
        peft.LoraConfig(target_modules=QV, layers_to_transform=[1]),
        peft.LoraConfig(target_modules=QV, bias="all"),
        peft.LoraConfig(target_modules=QV, init_lora_weights="gaussian"),
        peft.LoraConfig(target_modules=QV, exclude_modules=["lm_head"]),
        peft.LoraConfig(),
        peft.PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True),
        peft.OSFConfig(target_modules=QV),
        {"r": 8},
    ],
    ids=lambda config: type(config).__name__,
)
def test_nothing_is_left_out_in_silence(config: Any) -> None:
    with pytest.raises((RecipeError, DeltatuneError)) as refusal:
        of_peft(config)
    assert refusal.value.remedy


def test_a_module_that_is_not_there_is_an_error() -> None:
    base = tiny.model("llama")
    with pytest.raises(TargetError, match="'nope'"):
        dt.adapt(base, peft.LoraConfig(target_modules=QV, modules_to_save=["lm_head", "nope"]))
    with pytest.raises(TargetError, match="'nope'"):
        dt.adapt(base, dt.LoraConfig(r=2), heads=["nope"])
    text = peft.LoraConfig(target_modules=QV, modules_to_save="lm_head")
    assert dt.trainable(dt.adapt(base, text)).heads == ("lm_head",)
    with pytest.raises(ModelError, match="NoneType"):
        dt.adapt(None, dt.LoraConfig(r=2))
    with pytest.raises(ModelError, match="PeftModel"):
        dt.adapt(peft.get_peft_model(tiny.model("llama"), text), dt.LoraConfig(r=2))
    with pytest.raises(AdapterError, match="no delta"):
        dt.trainable(base)
    with pytest.raises(RecipeError, match=r"LORA\.dropout"):
        of_peft(peft.LoraConfig(target_modules=QV, lora_dropout=1.5))
