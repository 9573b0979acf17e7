"""Files of models that tell of each token which class it is of go to peft and come from it (TOKEN_CLS)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tests.contract.cases import CASES, Case
from tests.contract.test_contract import FIRST
from tests.contract.test_tags import as_tagger
from tests.oracle.bridge import load_in_ours, load_in_peft, perturb_trainable
from torch import Tensor

from deltatune.testing import tiny
from deltatune.testing.building import adapted, close

TARGETS = {"bert-tags": ["query", "value"], "llama-tags": ["q_proj", "v_proj"]}


@torch.no_grad()
def at_labels(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits of the tokens with labels; peft keeps virtual tokens before them."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["labels"]
    logits: Tensor = model(**inputs).logits[:, -labels.shape[1] :]
    return logits[labels != -100]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lora", "prompt"])
@pytest.mark.parametrize("architecture", TARGETS)
def test_files_of_peft_give_its_logits(architecture: str, kind: str, tmp_path: Path) -> None:
    config: Any = (
        LoraConfig(r=2, target_modules=TARGETS[architecture], task_type="TOKEN_CLS")
        if kind == "lora"
        else PromptTuningConfig(num_virtual_tokens=3, task_type="TOKEN_CLS")
    )
    torch.manual_seed(3)
    theirs = get_peft_model(tiny.model(architecture), config)
    perturb_trainable(theirs, 3)
    theirs.eval().save_pretrained(tmp_path)
    batch = tiny.batch(architecture)
    ours = load_in_ours(architecture, tmp_path)
    with torch.no_grad():
        close(ours.labelled_logits(batch)[0], at_labels(theirs, batch))


NO_PAST = ("prefix", "p_tuning_v2")
"""peft gives these to classes whose `forward` takes past keys and values, which such a Llama's does not."""
OURS = [
    pytest.param(
        as_tagger(case, architecture),
        architecture,
        marks=[] if case.label in ("lora", "prompt") and architecture == "bert-tags" else [pytest.mark.slow],
        id=f"{case.label}-{architecture}",
    )
    for case in CASES
    for architecture in TARGETS
    if architecture.removesuffix("-tags") in case.peft
    and not as_tagger(case, architecture).refused(architecture)
    and FIRST[case.method] == case.label
    and not (case.method in NO_PAST and architecture == "llama-tags")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "architecture"), OURS)
def test_our_files_give_the_same_logits_in_peft(case: Case, architecture: str, tmp_path: Path) -> None:
    ours, batch = adapted(case, architecture), tiny.batch(architecture)
    ours.save(tmp_path / "delta")
    said = json.loads((tmp_path / "delta/adapter_config.json").read_text())
    assert said["task_type"] == "TOKEN_CLS"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = load_in_peft(architecture, tmp_path / "delta")
    with torch.no_grad():
        close(at_labels(theirs, batch), ours.labelled_logits(batch)[0])
