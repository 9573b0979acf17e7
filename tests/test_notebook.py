"""The notebook of docs/ works, shows what it says, and its stored outputs are those of its cells."""

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


@pytest.mark.timeout(900)  # half a minute of one core, which a busy machine may stretch
def test_it_runs_and_shows_results_as_pages(tmp_path: Path) -> None:
    shown = {cell.source.splitlines()[-1]: cell for cell in cells(notebook.executed(tmp_path))}
    assert "tokens, 1 learned" in framed(shown["look"])
    assert "108 MB" in framed(shown["plan"])
    assert "checks passed" in framed(shown["run"])
    assert "Validation loss" in framed(shown["run"])
    assert "Leaderboard" in framed(shown["board"])
    assert "image/svg+xml" in kinds(shown["chart"])
    assert (tmp_path / "quality.pdf").read_bytes().startswith(b"%PDF")
    progress = [output.data["text/html"] for output in shown["board"].outputs if "progress" in str(output)]
    assert not progress, "bars go when the work is over"


def test_its_stored_outputs_are_complete_and_of_no_machine() -> None:
    stored = notebook.read()
    silent = ("import deltatune as dt", "chart.save", ")")
    for cell in cells(stored):
        assert cell.execution_count is not None, "run `make notebook`"
        assert cell.outputs or cell.source.splitlines()[-1].startswith(silent), "run `make notebook`"
        assert not [output for output in cell.outputs if output.output_type == "error"]
    folders = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|work|Users)/[\w./-]+")
    assert folders.findall(notebook.PAGE.read_text("utf-8")) == []
