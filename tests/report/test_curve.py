"""Curves in words, as a chart and as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltatune.errors import DeltatuneError
from deltatune.report import render
from deltatune.report.curve import drawn, said
from deltatune.report.load import read_curves
from deltatune.report.words import plain
from deltatune.results import Curves

from .synthetic import HOSTILE, write_comparison


def point(at: int, score: float | None, **more: Any) -> dict[str, Any]:
    interval = None if score is None else [score - 0.02, score + 0.02]
    status = "failed" if score is None else "done"
    return {"at": at, "status": status, "score": score, "interval": interval, "steps": 80.0} | more


def gain(before: int, to: int, *numbers: float) -> dict[str, Any]:
    return {"from": before, "to": to} | dict(zip(("gain", "low", "high"), numbers, strict=True))


def of_rows(**changes: Any) -> Curves:
    points = [point(50, 0.61), point(200, 0.7), point(800, 0.76), point(1600, 0.781)]
    line = [{"at": at, "score": 0.6, "low": 0.5, "high": 0.7} for at in (50, 800, 3200)]
    law = {"asymptote": 0.9, "scale": 2.0, "exponent": 0.4, "p": 0.6, "line": line}
    law["next"] = gain(1600, 3200, 0.012, 0.003, 0.024)
    curve = {
        "axis": "rows", "name": "lora r8", "own": 1600, "points": points, "least": 1600,
        "last": gain(800, 1600, 0.021, 0.009, 0.033), "law": law,
    } | changes  # fmt: skip
    return Curves.of(
        {"primary_metric": "accuracy", "higher_is_better": True, "seeds": [0, 1, 2], "curves": [curve]},
        "it",
        remedy="",
    )


def words(curves: Curves, worth: float | None = None) -> str:
    return plain(said(curves, curves.curves[0].axis, worth)).replace("\u00a0", " ").replace("\u202f", " ")


def test_another_so_many_rows_would_gain_so_much() -> None:
    assert words(of_rows()) == (
        "lora r8 reaches accuracy 61.0 % with 50 rows and 78.1 % with 1,600 rows. From 800 to 1,600 rows it "
        "gains 2.1 accuracy points [0.9, 3.3]. Each smaller number of rows is beaten by a larger one. "
        "Another 1,600 rows (3,200 in all) would gain 1.2 accuracy points [0.3, 2.4]."
    )


def test_it_says_when_it_cannot_tell() -> None:
    law = of_rows().curves[0].law
    assert law is not None
    flat = law.as_dict() | {"next": gain(1600, 3200, 0.004, 0.0, 0.008)}
    none = gain(800, 1600, 0.002, -0.01, 0.013)
    text = words(of_rows(law=flat, last=none, least=200))
    assert "From 800 to 1,600 rows no difference is shown: 0.2 accuracy points [\u22121.0, 1.3]." in text
    assert "No other number of rows is shown to beat 200." in text
    assert text.endswith("[0.0, 0.8]: these rows and seeds cannot tell whether it is anything.")
    assert words(of_rows(law=flat), worth=0.01).endswith(
        "[0.0, 0.8]: less than matters (1.0 accuracy points)."
    )
    lawless = law.as_dict() | {"next": None, "p": 0.002}
    worse = gain(800, 1600, -0.03, -0.05, -0.01)
    text = words(of_rows(law=lawless, last=worse))
    assert "From 800 to 1,600 rows it loses 3.0 accuracy points [1.0, 5.0]." in text
    assert text.endswith(
        "do not follow a power law (p = .002), so what more rows would gain is not predicted."
    )
    level = law.as_dict() | {"scale": 0.0, "next": None}
    assert words(of_rows(law=level)).endswith(
        "The scores get no better with more rows, so they do not tell what further rows would gain."
    )
    few = of_rows(law=None, points=[point(50, 0.61), point(200, None, error=HOSTILE), point(1600, 0.78)])
    assert words(few).endswith("a power law needs 4 numbers of rows, and there are 2.")
    assert words(few).startswith(f"lora r8 failed with 200 rows: {HOSTILE}")
    once = of_rows().model_copy(update={"seeds": [0]})
    assert words(once).endswith(
        "leave out the luck of training and of which rows were drawn: they are too narrow."
    )


def test_ranks() -> None:
    points = [point(2, 0.7), point(8, 0.73)]
    curves = of_rows(axis="rank", own=8, points=points, least=2, last=gain(2, 8, 0.03, -0.01, 0.07), law=None)
    assert words(curves) == (
        "lora r8 reaches accuracy 70.0 % with rank 2 and 73.0 % with rank 8. From rank 2 to 8 no difference "
        "is shown: 3.0 accuracy points [\u22121.0, 7.0]. "
        "The smallest rank that no other is shown to beat is 2."
    )
    assert [curve.title for curve in drawn(curves, {})] == ["Which rank?"]


@pytest.mark.parametrize("law", [True, False])
def test_it_has_a_place_in_every_form_of_the_report(tmp_path: Path, law: bool) -> None:
    folder = write_comparison(tmp_path)
    assert "How many rows?" not in render(folder, "html")
    curves = of_rows(**({} if law else {"law": None, "name": HOSTILE}))
    (folder / "curve.json").write_text(json.dumps(curves.as_dict()), encoding="utf-8")
    html = render(folder, "html")
    assert "How many rows?" in html
    assert "<script>alert" not in html
    assert ("Behind the dashed line" in html) is law
    assert "## How many rows?" in render(folder, "md")
    assert "Each smaller number" in json.loads(render(folder, "json"))["curve"]
    (folder / "curve.json").write_text('{"curves": 3}', encoding="utf-8")
    with pytest.raises(DeltatuneError, match=r"curve.json' .*primary_metric"):
        read_curves(folder)
