"""Files to read, and a reader of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.data import Dataset, load_data
from deltatune.recipe import DataSpec
from tests.data.files import SPLIT, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    def load_from(task: str = "text-to-text", **spec: Any) -> Dataset:
        return load_data(DataSpec(**({"split": SPLIT} | spec)), task, tmp_path)

    return load_from
