"""The same delta in peft and in ours."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from deltatune.core.model import AdaptedModel
from deltatune.testing import tiny

CACHE_IS_CALLED_CACHE = "cache" in inspect.signature(LlamaForCausalLM.forward).parameters
"""Since Transformers 5.24; peft 0.21 knows it as `past_key_values` only."""

TASKS = {
    **dict.fromkeys(tiny.SEQ2SEQ, "SEQ_2_SEQ_LM"),
    **dict.fromkeys(tiny.CAUSAL, "CAUSAL_LM"),
    **dict.fromkeys(tiny.TEXT_CLASSIFIERS, "SEQ_CLS"),
    **dict.fromkeys(tiny.VISION, None),
}


def in_peft(architecture: str, config: Any, *, act: bool = True, seed: int = 3) -> Any:
    """A tiny model wrapped by peft, with its trainable parameters moved away from their start."""
    torch.manual_seed(seed)
    config.task_type = TASKS[architecture]
    if architecture in tiny.VISION:
        config.modules_to_save = ["classifier"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(tiny.model(architecture), config)
    if act:
        perturb_trainable(wrapped, seed)
    return wrapped.eval()


@torch.no_grad()
def perturb_trainable(model: nn.Module, seed: int) -> None:
    """Add noise to everything that requires a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def load_in_peft(architecture: str, folder: Path) -> Any:
    """A folder of ours, loaded by peft onto a fresh base."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(tiny.model(architecture), str(folder)).eval()


def load_in_ours(architecture: str, folder: Path) -> AdaptedModel:
    """A folder of peft's, loaded by us onto a fresh base."""
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    model.load(folder)
    return model


@torch.no_grad()
def real_logits(model: Any, architecture: str, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits that depend on no padding: of real tokens, or of labelled positions, or of the classes."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if architecture in tiny.SEQ2SEQ:  # labels would make peft's AdaLoRA fail after loading
        inputs["decoder_input_ids"] = batch["labels"].clamp(min=3)
    logits: Tensor = model(**inputs).logits
    if architecture in tiny.CLASSIFIERS:
        return logits
    mask = batch["attention_mask"] if architecture in tiny.CAUSAL else batch["labels"] != -100
    return logits[:, -mask.shape[1] :][mask.bool()]  # peft keeps the virtual tokens before them
