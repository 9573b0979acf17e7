"""The page's setup, run once, and its sections, each behind the setup and independent of the others."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from packaging.version import parse

from tests.pitfalls.page import SECTIONS, Read, Shared, play


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """The folder that all sections work in, and the names that the page's setup defines."""
    pytest.importorskip("bitsandbytes", reason="the page shows a quantized base too")
    if parse(version("transformers")) < parse("5.23"):
        pytest.skip("the page tells of Transformers 5.23")
    folder = tmp_path_factory.mktemp("pitfalls")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcome = play(SECTIONS["Setup"], {"__name__": "pitfalls"})
    return folder, outcome.names


@pytest.fixture
def shared(setup: Shared, monkeypatch: pytest.MonkeyPatch) -> Shared:
    """The same, and the test is in that folder."""
    monkeypatch.chdir(setup[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the page shows numbers of a CPU
    return setup


@pytest.fixture
def read(shared: Shared) -> Read:
    """Run the section with this heading."""
    return lambda heading: play(SECTIONS[heading], dict(shared[1]))
