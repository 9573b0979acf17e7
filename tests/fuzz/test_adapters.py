"""Whatever lies in the folder of a delta, it is loaded, or refused and nothing stays attached."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from deltatune.checkpoint.inspection import inspect
from deltatune.checkpoint.saved import CONFIG, OURS, TENSORS
from deltatune.checkpoint.store import load_adapter, save_adapter
from deltatune.cli import show
from deltatune.core.model import AdaptedModel
from deltatune.errors import DeltatuneError
from deltatune.methods.lora import LoraConfig
from tests.fuzz import mutations

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def model() -> AdaptedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return AdaptedModel(BertForSequenceClassification(config).eval(), ["classifier"])


@pytest.fixture(scope="module")
def saved(model: AdaptedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    model.attach("source", LoraConfig(r=4), seed=0)
    save_adapter(model, "source", folder, base_name="tiny", fingerprint=None)
    model.detach("source")
    return folder


def accepted(model: AdaptedModel, folder: Path) -> bool:
    """Whether the folder is loaded. What is loaded is finite, and what is refused leaves nothing behind."""
    with contextlib.suppress(DeltatuneError), contextlib.redirect_stdout(io.StringIO()):
        show.delta("folder", inspect(folder))
    try:
        load_adapter(model, folder, "mutant")
    except DeltatuneError:
        assert "mutant" not in model.configs
        return False
    finite = all(torch.isfinite(p).all() for p in model.adapter("mutant").parameters())
    model.detach("mutant")
    assert finite
    return True


def copied(saved: Path, folder: Path, *, ours: bool) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    if not ours:  # as peft writes it: no checksum stands in the way of what follows
        (folder / OURS).unlink()
    return folder


def with_config(saved: Path, folder: Path, change: dict[str, object]) -> None:
    copied(saved, folder, ours=False)
    content = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(content))


def with_ours(saved: Path, folder: Path, change: dict[str, object]) -> None:
    copied(saved, folder, ours=True)
    content = json.loads((folder / OURS).read_text()) | change
    (folder / OURS).write_text(json.dumps(content))


def with_bytes(saved: Path, folder: Path, content: bytes) -> None:
    (copied(saved, folder, ours=False) / TENSORS).write_bytes(content)


def header(content: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content)) + content + body


def mutate(saved: Path, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.random()
    if kind < 0.35:
        copied(saved, folder, ours=False)
        content = mutations.tree(json.loads((folder / CONFIG).read_text()), chance)
        (folder / CONFIG).write_text(json.dumps(content))
    elif kind < 0.6:
        copied(saved, folder, ours=True)
        content = mutations.tree(json.loads((folder / OURS).read_text()), chance)
        (folder / OURS).write_text(json.dumps(content))
    elif kind < 0.75:  # with a checksum that is right, as an attacker would make it
        copied(saved, folder, ours=True)
        tensors = mutations.raw((folder / TENSORS).read_bytes(), chance)
        (folder / TENSORS).write_bytes(tensors)
        content = json.loads((folder / OURS).read_text())
        (folder / OURS).write_text(json.dumps(content | {"sha256": hashlib.sha256(tensors).hexdigest()}))
    elif kind < 0.9:
        with_bytes(saved, folder, mutations.raw((saved / TENSORS).read_bytes(), chance))
    else:
        copied(saved, folder, ours=True)
        path = folder / chance.choice([CONFIG, OURS])
        path.write_bytes(mutations.raw(path.read_bytes(), chance))


LONG = "9" * 5000
CONFIGS: list[dict[str, object]] = [
    {"r": value} for value in (0, -1, 10**9, "8", None, 1e9)
] + [
    {"lora_alpha": float("nan")}, {"lora_alpha": 1e308}, {"lora_alpha": "x"}, {"lora_dropout": 2},
    {"target_modules": None}, {"target_modules": []}, {"target_modules": "(a+)+$"}, {"target_modules": [5]},
    {"target_modules": [["query"]]}, {"target_modules": ["*a" * 40 + "[!b]"]}, {"target_modules": {"a": 1}},
    {"modules_to_save": 5}, {"modules_to_save": "classifier"}, {"modules_to_save": ["zzz"]},
    {"peft_type": None}, {"peft_type": ["LORA"]}, {"peft_type": {"a": 1}}, {"peft_type": "PROMPT_TUNING"},
    {"peft_type": "ADALORA"}, {"peft_type": "VERA"}, {"peft_type": "OFT"}, {"peft_type": "IA3"},
    {"use_dora": True}, {"use_rslora": "yes"}, {"rank_pattern": {"x": 4}}, {"rank_pattern": 5},
    {"alpha_pattern": {"(a+)+$": 1}}, {"alpha_pattern": {"([a-z.A-Z0-9]+)+!": 1}},
    {"rank_pattern": {"([a-z.A-Z0-9]+)+!": 4}}, {"layers_to_transform": [0]}, {"exclude_modules": ["query"]},
    {"auto_mapping": {"base_model_class": "os.system"}}, {"task_type": 5}, {"bias": "all"},
]  # fmt: skip
OF_OURS: list[dict[str, object]] = [
    {"schema": "1"}, {"schema": 2}, {"method": ["lora"]}, {"method": {"a": 1}}, {"method": None},
    {"method": "prompt"}, {"method": "full"}, {"method": "os.system"}, {"config": []}, {"config": None},
    {"config": {}}, {"config": {"r": 10**9}}, {"config": {"self": 1}}, {"config": {"__class__": 1}},
    {"heads": 5}, {"heads": None}, {"heads": "classifier"}, {"heads": [5]}, {"heads": ["zzz"]},
    {"heads": [["a"]]}, {"heads": [""]}, {"heads": ["classifier", "classifier"]}, {"base": []},
    {"base": None},
    {"base": {"name": 5, "structure": None, "fingerprint": 5, "dtype": []}}, {"peft_compatible": "no"},
    {"peft_compatible": None}, {"sha256": 5}, {"sha256": None},
]  # fmt: skip
FILES: dict[str, bytes] = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "empty": b"",
    "seven bytes": b"1234567",
    "a shape that overflows": header(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', bytes(4)
    ),
    "a negative shape": header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
    "deep": header(b'{"a":' + b"[" * 100_000),
    "an unknown type": header(b'{"a":{"dtype":"X32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "no tensors": header(b"{}"),
}
DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "U64", "BOOL", "I8")
FILES |= {
    dtype: header(
        b'{"a":{"dtype":"%s","shape":[8],"data_offsets":[0,%d]}}' % (dtype.encode(), size), bytes(size)
    )
    for dtype, size in zip(DTYPES, (8, 8, 8, 4, 64, 64, 8, 8), strict=True)
}
DOCUMENTS = ("[]", "null", '{"a":' * 50_000, '{"peft_type": "LORA", "r": ' + LONG + "}", "", "\x00\x01")


def test_settings_of_strangers(model: AdaptedModel, saved: Path, tmp_path: Path) -> None:
    for change in CONFIGS:
        with_config(saved, tmp_path / "x", change)
        accepted(model, tmp_path / "x")
    for change in OF_OURS:
        with_ours(saved, tmp_path / "x", change)
        accepted(model, tmp_path / "x")
    for name in (CONFIG, OURS):
        for document in DOCUMENTS:
            copied(saved, tmp_path / "x", ours=True)
            (tmp_path / "x" / name).write_text(document)
            assert not accepted(model, tmp_path / "x")


def test_tensors_of_strangers(model: AdaptedModel, saved: Path, tmp_path: Path) -> None:
    for content in FILES.values():
        with_bytes(saved, tmp_path / "x", content)
        assert not accepted(model, tmp_path / "x")
    tensors = load_file(saved / TENSORS)
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "nan": lambda t: t * float("nan"),
        "beyond float32": lambda t: t.double() + 1e300,
        "complex": lambda t: t.to(torch.complex64),
        "transposed": lambda t: t.T.contiguous() if t.dim() == 2 else t[:1].clone(),
        "a number": lambda t: t.sum(),
    }
    for change in changes.values():
        copied(saved, tmp_path / "x", ours=False)
        save_file({name: change(t) for name, t in tensors.items()}, tmp_path / "x" / TENSORS)
        assert not accepted(model, tmp_path / "x")


@pytest.mark.parametrize("name", [CONFIG, OURS, TENSORS])
def test_files_that_are_none(model: AdaptedModel, saved: Path, tmp_path: Path, name: str) -> None:
    for make in (os.mkfifo, os.mkdir):
        path = copied(saved, tmp_path / "x", ours=True) / name
        path.unlink()
        make(path)
        assert not accepted(model, tmp_path / "x")


def test_mutated_folders_are_loaded_or_refused(model: AdaptedModel, saved: Path, tmp_path: Path) -> None:
    outcomes = []
    for seed in range(250):
        mutate(saved, tmp_path / "x", seed)
        outcomes.append(accepted(model, tmp_path / "x"))
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 11))
@pytest.mark.timeout(3600)
def test_many_mutated_folders_are_loaded_or_refused(
    model: AdaptedModel, saved: Path, tmp_path: Path, block: int
) -> None:
    for seed in range(block * 1_000, (block + 1) * 1_000):
        mutate(saved, tmp_path / "x", seed)
        accepted(model, tmp_path / "x")
