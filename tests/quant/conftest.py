"""Tiny models, quantized as a recipe would have it."""

from __future__ import annotations

import copy
import functools
import tempfile
from typing import Any

import pytest
import torch
from torch import nn

from deltatune.quant import settle_
from deltatune.quant.loading import loading_options
from deltatune.recipe.base_sections import QuantizationSpec
from deltatune.testing import tiny

pytest.importorskip("bitsandbytes", reason="quantized bases need the extra `quant`")

FORMATS = {
    "nf4": QuantizationSpec(format="nf4", compute="fp32"),
    "fp4-single": QuantizationSpec(format="fp4", double=False, compute="fp32"),
    "int8": QuantizationSpec(format="int8", compute="fp32"),
}
original = tiny.model


@functools.cache
def _quantized(name: str, format_name: str, dropout: float, attention: str) -> nn.Module:
    plain = original(name, dropout=dropout, attention=attention)
    output = plain.get_output_embeddings()
    kept = [path for path, module in plain.named_modules() if module is output]
    with tempfile.TemporaryDirectory() as folder:
        plain.save_pretrained(folder)
        options = loading_options(FORMATS[format_name], [*kept, *tiny.heads(name)])
        model: nn.Module = type(plain).from_pretrained(folder, attn_implementation=attention, **options)
    settle_(model)
    return model.eval()


def quantized(name: str, format_name: str, *, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    """A fresh copy of the tiny model `name`, in few bits."""
    model = copy.deepcopy(_quantized(name, format_name, dropout, attention))
    return model.requires_grad_(False)


def _hand_out(monkeypatch: pytest.MonkeyPatch, format_name: str) -> None:
    def model(name: str, *, dropout: float = 0.0, attention: str = "sdpa") -> Any:
        return quantized(name, format_name, dropout=dropout, attention=attention)

    monkeypatch.setattr(tiny, "model", model)


@pytest.fixture
def nf4_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for a tiny model gets it in NF4."""
    _hand_out(monkeypatch, "nf4")


@pytest.fixture
def int8_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for a tiny model gets it in 8 bits."""
    _hand_out(monkeypatch, "int8")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
