"""All charts on one sheet: an SVG that any program can show, and a picture of it."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from deltatune.cli.app import app
from deltatune.errors import DeltatuneError
from deltatune.report import render
from deltatune.report.sheet import png
from tests.report.synthetic import HOSTILE, write_comparison


def test_the_sheet_needs_no_browser(tmp_path: Path) -> None:
    text = render(write_comparison(tmp_path), "svg")
    assert "var(--" not in text  # Inkscape, LibreOffice and papers know no variables
    root = ElementTree.fromstring(text)
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "ROUGE-L F against memory of a step" in texts
    assert "Training loss" in texts
    assert any(text.startswith("adalora") for text in texts)
    assert HOSTILE not in text


def test_a_picture_shows_the_series_in_their_colours(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    text = render(write_comparison(tmp_path), "svg")
    pixels = np.asarray(Image.open(io.BytesIO(png(text, scale=1.0))).convert("RGB"))
    height, width, _ = pixels.shape
    assert (width, height) == tuple(
        round(float(n)) for n in re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', text).groups()
    )
    for colour in ("#2563c9", "#c2560c"):  # of the first two series
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - wanted).sum(axis=2) < 8).sum() > 50
    assert (pixels.sum(axis=2) > 740).mean() > 0.5  # a light sheet


def test_the_command_writes_the_picture_into_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    folder = write_comparison(tmp_path / "out")
    done = CliRunner().invoke(app, ["report", str(folder), "--format", "png"])
    assert done.exit_code == 0, done.output
    assert (folder / "charts.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DeltatuneError, match="resvg-py") as caught:
        png(render(write_comparison(tmp_path), "svg"))
    assert "deltatune[plots]" in (caught.value.remedy or "")
