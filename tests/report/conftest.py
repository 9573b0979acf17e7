from __future__ import annotations

from pathlib import Path

import pytest

from .synthetic import write_comparison


@pytest.fixture(scope="session")
def comparison_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(tmp_path_factory.mktemp("comparison"))
