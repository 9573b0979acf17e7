"""A backend that deltatune has never heard of: one codec is all that every method needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune import quant
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods.lora import LoraConfig
from deltatune.quant import codec as codecs
from deltatune.testing import tiny
from tests.contract.cases import Case
from tests.quant.test_contract import CHECKS, table

original = tiny.model


class RowLinear(nn.Linear):
    """Keeps 8 bits for each weight and a scale for each row, and dequantizes when it is called."""

    scale: Tensor

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        weight = plain.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        packed = (weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class RowCodec:
    def owns(self, module: nn.Module) -> bool:
        return isinstance(module, RowLinear)

    def describe(self, module: Any) -> str:
        return "rows"

    def read(self, module: Any) -> Tensor:
        return module.weight.float() * module.scale

    def scales(self, module: Any) -> list[Tensor]:
        return []  # a buffer, which is counted anyway


def in_rows(name: str, *, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    model = original(name, dropout=dropout, attention=attention)
    kept = (model.get_output_embeddings(), *map(model.get_submodule, tiny.heads(name)))
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and module not in kept:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, RowLinear(module))
    return model.requires_grad_(False)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_others", [])
    quant.register(RowCodec())
    monkeypatch.setattr(tiny, "model", in_rows)


def over(check: Any) -> Any:
    @table(check.__name__, ("llama",))
    def test(case: Case, architecture: str) -> None:
        check(case, architecture)

    return test


for _check in CHECKS:
    globals()[f"test_{_check.__name__}"] = over(_check)


def test_counts_and_merging_go_by_the_codec() -> None:
    model, plain = in_rows("llama"), original("llama")
    assert quant.describe(model) == "rows"
    assert quant.parameter_count(model) == sum(p.numel() for p in plain.parameters())
    adapted = AdaptedModel(model)
    adapted.attach("a", LoraConfig(r=2))
    with pytest.raises(AdapterError, match=r"rows.*without quantization"):
        adapted.merged()
