"""The notebooks of docs/ work, show what they say, and their stored outputs are those of their cells."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
pytest.importorskip("gguf", reason="the bundled MiniLM is needed")

from tests import notebook


def cells(page: Any) -> list[Any]:
    return [cell for cell in page.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a cell shows, by type."""
    return [kind for output in cell.outputs for kind in output.get("data", {output.output_type: 0})]


def framed(cell: Any) -> str:
    """The page that a cell shows in a frame."""
    [page] = [output.data["text/html"] for output in cell.outputs if "srcdoc" in str(output.get("data"))]
    return html.unescape(page)


PAGES = {page.stem: page for page in notebook.PAGES}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of one core, which a busy machine may stretch
def test_it_runs_and_shows_results_as_pages(tmp_path: Path) -> None:
    page = notebook.executed(PAGES["from-python"], tmp_path)
    shown = {cell.source.splitlines()[-1]: cell for cell in cells(page)}
    assert "tokens, 1 learned" in framed(shown["look"])
    assert "108 MB" in framed(shown["plan"])
    assert "checks passed" in framed(shown["run"])
    assert "Validation loss" in framed(shown["run"])
    assert "Leaderboard" in framed(shown["board"])
    assert "image/svg+xml" in kinds(shown["chart"])
    assert (tmp_path / "quality.pdf").read_bytes().startswith(b"%PDF")
    progress = [output.data["text/html"] for output in shown["board"].outputs if "progress" in str(output)]
    assert not progress, "bars go when the work is over"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pictures_become_a_model_that_needs_no_deltatune(tmp_path: Path) -> None:
    [*others, last] = cells(notebook.executed(PAGES["pictures"], tmp_path))
    assert "Leaderboard" in framed(next(cell for cell in others if cell.source.endswith("\nboard")))
    assert last.outputs[-1].data["text/plain"] == "'circle'"
    assert {"config.json", "model.safetensors"} < {path.name for path in (tmp_path / "merged").iterdir()}


@pytest.mark.parametrize("page", notebook.PAGES, ids=lambda page: page.stem)
def test_its_stored_outputs_are_complete_and_of_no_machine(page: Path) -> None:
    stored = notebook.read(page)
    silent = ("import deltatune as dt", "chart.save", ")")
    for cell in cells(stored):
        assert cell.execution_count is not None, "run `make notebook`"
        assert cell.outputs or cell.source.splitlines()[-1].startswith(silent), "run `make notebook`"
        assert not [output for output in cell.outputs if output.output_type == "error"]
    folders = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|work|Users)/[\w./-]+")
    assert folders.findall(page.read_text("utf-8")) == []
