from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.report.charts import (
    AREA,
    NEUTRAL,
    Axis,
    Dot,
    Line,
    Scatter,
    interval_bar,
    line_chart,
    scatter,
    swatch,
)
from deltatune.report.figures import curves, over_seeds, pareto
from deltatune.report.labels import Box, beside_line, place, width
from deltatune.report.load import of_board
from deltatune.report.scales import fit
from deltatune.results import Leaderboard

NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_axes_show_every_value_and_have_ticks(values):
    scale = fit(values, 0, 100)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=20))
def test_logarithmic_axes_too(values):
    scale = fit(values, 0, 100, log=True)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)


POINTS = st.tuples(st.floats(AREA.left, AREA.right), st.floats(AREA.top, AREA.bottom))


@given(st.lists(st.tuples(POINTS, st.text(min_size=1, max_size=18)), max_size=12))
def test_names_never_run_into_each_other_or_out_of_the_chart(points):
    places, texts = [point for point, _ in points], [text for _, text in points]
    boxes = [box for box in place(places, texts, AREA) if box]
    for index, box in enumerate(boxes):
        assert box.within(AREA)
        assert not any(box.meets(other) for other in boxes[:index])
        assert not any(box.left < x < box.right and box.top < y < box.bottom for x, y in places)


def test_the_name_of_a_line_makes_way_for_points():
    free = beside_line(150, "untuned", AREA, [])
    assert free.right == AREA.right
    pole = Box(free.left + 5, AREA.top, free.left + 15, AREA.bottom)
    moved = beside_line(150, "untuned", AREA, [pole])
    assert moved.right < free.right
    assert not moved.meets(pole)


def test_five_methods_in_one_spot_are_all_named():
    spot = [(250.0 + 3 * i, 120.0 + 2 * i) for i in range(5)]
    boxes = place(spot, ["lora r8", "adalora", "prefix tuning", "prompt", "full"], AREA)
    assert all(boxes)
    assert width("lora r8") < width("prefix tuning")


def test_long_runs_are_thinned_to_means():
    points = [(float(step), float(step % 2)) for step in range(1, 1001)]
    found = over_seeds([points])
    assert len(found) <= 80
    assert sum(one.mean for one in found) / len(found) == pytest.approx(0.5, abs=0.05)
    assert [(one.step, one.mean) for one in over_seeds([points[:10]])] == points[:10]
    assert over_seeds([]) == []


def test_seeds_become_a_mean_and_a_band():
    found = over_seeds([[(1, 4.0), (2, 2.0), (3, 1.0)], [(1, 6.0), (2, 3.0)]])  # the second stopped early
    assert [tuple(one) for one in found] == [(1, 5.0, 4.0, 6.0), (2, 2.5, 2.0, 3.0), (3, 1.0, 1.0, 1.0)]


def test_a_run_that_logs_more_often_weighs_no_more():
    dense, sparse = [(float(step), 1.0) for step in range(1, 161)], [(160.0, 3.0)]
    assert over_seeds([dense, sparse])[-1].mean == 2.0


def test_the_front_has_what_nothing_beats_for_less():
    points = [(3.0, 0.5), (1.0, 0.3), (2.0, 0.3), (2.5, 0.6), (0.5, 0.1)]
    assert pareto(points, higher_is_better=True) == [(0.5, 0.1), (1.0, 0.3), (2.5, 0.6)]
    assert pareto(points, higher_is_better=True, floor=0.2) == [(1.0, 0.3), (2.5, 0.6)]
    assert pareto(points, higher_is_better=False) == [(0.5, 0.1)]
    assert pareto([], higher_is_better=True) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15))
def test_every_point_is_on_the_front_or_matched_by_it(points):
    front = pareto(points, higher_is_better=True)
    assert all(any(cost <= c and value >= v for cost, value in front) for c, v in points)
    assert not any(a != b and a[0] <= b[0] and a[1] >= b[1] for a in front for b in front)


def test_thirty_series_have_different_marks():
    assert len({str(swatch(series)) for series in range(32)}) >= 16
    assert len({str(swatch(series)) for series in (0, 8, 16, 24)}) == 4


@given(st.lists(st.tuples(st.floats(1e5, 1e6), st.floats(0.25, 0.35)), min_size=1, max_size=6))
def test_a_name_keeps_off_the_name_of_the_baseline(points):
    dots = [Dot(f"name {i}", i, x, y) for i, (x, y) in enumerate(points)]
    svg = scatter(Scatter(dots, Axis("Parameters"), Axis("ROUGE"), Dot("untuned", NEUTRAL, 0, 0.3)))
    names = {e.text: e for e in ET.fromstring(str(svg)).iter() if e.get("class") == "name"}
    base = names.pop("untuned")
    right, bottom = float(base.get("x")), float(base.get("y"))
    for text, name in names.items():
        x, half = float(name.get("x")), width(text) / 2
        level = abs(float(name.get("y")) - bottom) < 14
        apart = x - half > right + 7.8 or x + half < right - width("untuned") - 7.8
        assert not level or apart, text


def test_charts_are_well_formed_and_in_bounds():
    curves = line_chart(
        [
            Line("a<b", 0, [(1, 30.0), (2, 0.5)], [(29.0, 31.0), (0.4, 0.6)]),
            Line("one point", 9, [(1, 2.0)]), Line("none", 2, []),
        ],
        Axis("Step"), Axis("Loss"), marks=True,
    )  # fmt: skip
    dots = scatter(Scatter(
        [Dot("lora", 0, 7e5, 0.6, (0.58, 0.62)), Dot('"><script>', 1, 1e6, 0.5)],
        Axis("Parameters", log=True), Axis("ROUGE"), baseline=Dot("untuned", NEUTRAL, 0, 0.3, (0.28, 0.32)),
        front=[(7e5, 0.6)],
    ))  # fmt: skip
    bar = interval_bar(0.5, (0.4, 0.6), 0, 1, 3)
    for svg in (curves, dots, bar):
        root = ET.fromstring(str(svg))
        assert "script" not in {element.tag for element in root.iter()}
        for element in root.iter():
            for name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
                assert math.isfinite(float(element.get(name, 0)))
                assert -9 <= float(element.get(name, 0)) <= 441
    assert "Loss (log)" not in curves  # the y axis has no title in the picture
    assert 'class="dot sn" data-m="-1"' in dots
    assert 'class="band"' in curves
    assert 'class="front"' in dots
    line = next(element for element in ET.fromstring(str(curves)).iter() if element.get("data-name") == "a<b")
    assert [point[1:] for point in json.loads(line.get("data-points"))] == [
        ["Step 1", "30 (29\u201331)"], ["Step 2", "0.5 (0.4\u20130.6)"]
    ]  # fmt: skip


def test_of_many_dots_those_on_the_front_are_named():
    dots = [Dot(f"m{i}", i, float(i + 1), i / 20) for i in range(12)]
    svg = str(scatter(Scatter(dots, Axis("Time"), Axis("Score"), front=[(3.0, 0.1)])))
    assert svg.count('class="name"') == 1
    assert svg.count("<title>") == 12


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_single_dot_or_equal_values_make_a_chart(value):
    svg = scatter(Scatter([Dot("only", 0, value, value)], Axis("Time"), Axis("Score")))
    assert ET.fromstring(str(svg)) is not None


def learned(folder, key, values, *, primary, higher=True):
    """Learning curves of one method whose seeds have `values` of `key` on the validation rows."""
    for seed, run in enumerate(values):
        lines = [
            {"step": 10 * (i + 1), "validation": {"loss": 1.0, key: value}} for i, value in enumerate(run)
        ]
        (folder / str(seed)).mkdir()
        (folder / str(seed) / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    row = {"name": "lora", "method": "lora", "status": "done", "runs": [str(s) for s in range(len(values))]}
    board = {"rows": [row], "primary_metric": primary, "higher_is_better": higher}
    comparison = of_board(Leaderboard.of(board, "leaderboard.json", remedy=""), folder)
    return {one.title: one for one in curves(comparison, comparison.methods, {"lora": 0})}


def test_the_deciding_metric_has_a_learning_curve_with_a_band(tmp_path):
    found = learned(tmp_path, "accuracy", [[0.02, 0.7], [0.04, 0.9]], primary="accuracy")
    assert list(found) == ["Validation loss", "Validation accuracy"]
    figure = found["Validation accuracy"]
    assert figure.note.startswith("In % on validation rows; the ranks come from the test rows. Higher is")
    assert "the band reaches" in figure.note
    svg = ET.fromstring(str(figure.svg))
    assert svg.get("aria-label") == "Accuracy by step"
    line = next(element for element in svg.iter() if element.get("data-name") == "lora")
    assert [point[1:] for point in json.loads(line.get("data-points"))] == [
        ["Step 10", "3 (2\u20134)"], ["Step 20", "80 (70\u201390)"]
    ]  # fmt: skip
    labels = [
        float(e.text)
        for e in svg.iter()
        if e.tag == "text" and e.get("text-anchor") == "end" and not e.get("class")
    ]
    assert labels == [0, 20, 40, 60, 80]  # not a logarithm, though 90 is more than twenty times 2


@pytest.mark.parametrize("primary", ["loss", "rougeL_f"])
def test_there_is_no_curve_of_a_metric_that_was_not_recorded(tmp_path, primary):
    found = learned(tmp_path, "perplexity", [[3.0, 2.0]], primary=primary)
    assert list(found) == ["Validation loss"]


def test_the_curve_of_a_metric_that_falls_says_so(tmp_path):
    figure = learned(tmp_path, "perplexity", [[90.0, 2.0]], primary="perplexity", higher=False)
    assert "Lower is better" in figure["Validation perplexity"].note
