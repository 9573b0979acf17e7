"""What all tests share: no network, no wide terminal, no user settings."""

from __future__ import annotations

import os

# set before anything imports a library that reads them
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_COLOR="1", COLUMNS="100"
)
os.environ.pop("DELTATUNE_DEBUG", None)

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changed;
# HYPOTHESIS_PROFILE=default draws others.
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests/gpu_shaped run on a real GPU."""
    parser.addoption(
        "--device", metavar="KIND", help="cuda, mps or xpu: tests/gpu_shaped pretend nothing, and run there"
    )
