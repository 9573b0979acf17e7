"""All charts on one sheet: an SVG that any program can show, and a picture of it."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image
from typer.testing import CliRunner

from deltatune.cli.app import app
from deltatune.errors import DeltatuneError
from deltatune.report import render, write_chart
from deltatune.report.charts import NEUTRAL, Axis, Dot, Scatter
from deltatune.report.figures import Figure
from deltatune.report.load import load
from deltatune.report.pdf import pdf
from deltatune.report.sheet import chart_against, png
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


def words(content: bytes) -> str:
    """The letters of the fonts and pages of a PDF of ours, decompressed."""
    parts = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S)
    plain = []
    for part in parts:
        with contextlib.suppress(zlib.error):
            plain.append(zlib.decompress(part).decode("latin-1"))
    return "".join(re.findall(r"\(((?:[^()\\]|\\.)*)\)", "\n".join(plain))).replace("\0", "")


def test_a_pdf_has_letters_and_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = chart_against(load(write_comparison(tmp_path)), "trained_parameters")
    content = pdf(figure)
    assert content.startswith(b"%PDF")
    assert content == pdf(figure)
    text = words(content)
    assert figure.shown is not None
    for name in ("Trained parameters", *(dot.name for dot in figure.shown.dots)):
        drawn = name.replace("fi", "\x01").replace("(", r"\(").replace(")", r"\)")  # fi is one sign
        assert drawn in text, name


def test_names_of_any_kind_are_drawn_as_they_are() -> None:
    pytest.importorskip("matplotlib")
    names = ("$x^2$", "_hidden", "a_b", "plain")
    dots = [Dot(name, number, 10.0**number, number / 4) for number, name in enumerate(names)]
    baseline = Dot("$untuned", NEUTRAL, 0.0, 0.1, (0.05, 0.15))
    shown = Scatter(dots, Axis("Cost ($)", log=True), Axis("Score"), baseline, [(1.0, 0.0)])
    text = words(pdf(Figure("Score against cost", "", Markup(), shown)))
    for name in (*names, "$untuned", "Cost ($)"):
        assert name.replace("(", r"\(").replace(")", r"\)") in text, name


def test_a_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = chart_against(load(write_comparison(tmp_path)), "trained_parameters")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DeltatuneError, match="matplotlib") as caught:
        write_chart("<svg/>", figure, tmp_path / "chart.pdf")
    assert "deltatune[plots]" in (caught.value.remedy or "")
    with pytest.raises(DeltatuneError, match=r"neither \.svg, \.png nor \.pdf"):
        write_chart("<svg/>", figure, tmp_path / "chart.eps")
