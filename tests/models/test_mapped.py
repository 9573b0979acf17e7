"""Weights in mapped files: where they are, what is written, and that no number differs."""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from deltatune.core.offload import Offload, offload_of
from deltatune.errors import ModelError
from deltatune.models.fingerprint import fingerprint
from deltatune.models.load import load_base
from deltatune.models.mapped import MappedWeights, all_from_files
from deltatune.recipe.base_sections import ModelSpec
from deltatune.testing.folders import save_tiny

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system tells no mappings")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float32."""
    return save_tiny("llama", tmp_path_factory.mktemp("mapped") / "llama")


@pytest.fixture(scope="module")
def narrow(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in bfloat16."""
    folder = tmp_path_factory.mktemp("narrow") / "llama"
    shutil.copytree(llama, folder)
    AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, still empty."""
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_of_the_files_own_type_are_read_from_there(llama: Path, cache: Path) -> None:
    plain = load_base(ModelSpec(name=str(llama)), "causal-lm", None)
    mapped = load_base(ModelSpec(name=str(llama)), "causal-lm", None, offload="disk")
    assert fingerprint(mapped.model) == fingerprint(plain.model)
    assert all_from_files(mapped.model)
    assert not cache.exists(), "nothing is written"
    before, here = (base.model.lm_head.weight.data_ptr() % mmap.PAGESIZE for base in (plain, mapped))
    assert before == here, "a product of other alignment may round otherwise"


def test_narrower_weights_are_widened_in_a_file_of_ours(narrow: Path, cache: Path) -> None:
    plain = load_base(ModelSpec(name=str(narrow)), "causal-lm", None)
    mapped = load_base(ModelSpec(name=str(narrow)), "causal-lm", None, offload="disk")
    assert {p.dtype for p in mapped.model.parameters()} == {torch.float32} == {mapped.model.dtype}
    assert fingerprint(mapped.model) == fingerprint(plain.model)
    assert mapped.model.config.to_dict() == plain.model.config.to_dict()
    assert list((cache / "offload").iterdir()) == [], "it has no name, and goes with the process"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_made_at_loading_is_made_as_ever(narrow: Path, cache: Path, dtype: str) -> None:
    """A new head has the numbers that it has without offload, though the file is of another type."""
    about: Any = (ModelSpec(name=str(narrow)), "text-classification", ["a", "b"])
    plain = load_base(*about, dtype=dtype)
    mapped = load_base(*about, dtype=dtype, offload="disk")
    assert mapped.new_modules == plain.new_modules != []
    assert fingerprint(mapped.model) == fingerprint(plain.model)


def test_what_was_written_into_is_not_taken_from_the_file(llama: Path, cache: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    wanted = fingerprint(model)
    MappedWeights(model, torch.float32)
    assert fingerprint(model) == wanted


def test_tied_weights_stay_tied(cache: Path) -> None:
    model = nn.ModuleList([nn.Linear(3, 5), nn.Linear(3, 5)])
    model[1].weight = model[0].weight
    wanted = model[0].weight.detach().clone()
    MappedWeights(model, torch.float32)
    assert model[1].weight is model[0].weight
    assert torch.equal(model[0].weight, wanted)


def test_pages_that_are_given_back_are_read_again(llama: Path, cache: Path) -> None:
    base = load_base(ModelSpec(name=str(llama)), "causal-lm", None, offload="disk")
    wanted = fingerprint(base.model)
    offload = offload_of(base.model)
    assert offload is not None
    offload.forget(list(base.model.parameters()))
    assert fingerprint(base.model) == wanted


def test_a_disk_without_room_is_named(narrow: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match=r"writing the base's weights takes .* has 1\.00 kB") as raised:
        load_base(ModelSpec(name=str(narrow)), "causal-lm", None, offload="disk")
    assert raised.value.field == "train.offload"


def test_a_base_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="has no stack of layers") as raised:
        Offload(nn.Sequential(nn.Linear(2, 2)))
    assert raised.value.field == "train.offload"
