"""The chart of memory: drawn if runs measured it, with the prediction beside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from deltatune.report import render
from deltatune.report.stacked import PARTS, Bar, standalone
from tests.report.synthetic import write_comparison


def test_a_report_without_measurements_has_no_chart_of_them(tmp_path: Path) -> None:
    page = render(write_comparison(tmp_path))
    assert "Memory of a training step" not in page


def test_predicted_stands_beside_measured(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path)
    measured = {part: 10**8 for part in PARTS} | {"total": 7 * 10**8, "kind": "tensors"}
    predicted = measured | {"total": int(7.07 * 10**8)}
    for path in folder.glob("runs/*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        result["memory"] = {"predicted": predicted, "measured": measured}
        path.write_text(json.dumps(result), encoding="utf-8")
    page = render(folder)
    assert "Memory of a training step" in page
    assert "off by 1.00% at most" in page
    assert page.count(">predicted<") >= 2


def test_a_long_name_has_room_before_its_bar() -> None:
    name = "lora r=4 targets=query+value"
    root = ElementTree.fromstring(standalone([("", [Bar(name, {"weights": 600})])], "title"))
    text = next(e for e in root.iter() if (e.text or "").startswith("lora"))
    assert float(text.get("x", 0)) >= 8 * len(text.text or "")


def test_a_bar_is_as_long_as_its_bytes() -> None:
    bars = [Bar("a <b>", {"weights": 600, "activations": 200}), Bar("c", {"weights": 400})]
    svg = standalone([("group", bars)], "title")
    root = ElementTree.fromstring(svg)
    widths = [float(e.get("width", 0)) for e in root.iter() if re.fullmatch(r"p[04]", e.get("class", ""))]
    first, second, third = widths[:3]
    assert abs(first / second - 3) < 0.01
    assert abs(first / third - 1.5) < 0.01
    assert "a &lt;b&gt;" in svg
