from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltatune.testing.folders import save_tiny

os.environ.setdefault("CI", "1")  # TRL reports its use to nobody


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama") / "base")


@pytest.fixture
def llama(llama_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(llama_folder)


@pytest.fixture(scope="session")
def tokenizer(llama_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(llama_folder)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Tokenised rows of one length, in no order."""
    ids = torch.randint(5, 60, (12, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
