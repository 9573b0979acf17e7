from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.report.charts import AREA, NEUTRAL, Axis, Dot, Line, interval_bar, line_chart, scatter, thin
from deltatune.report.labels import Box, beside_line, place, width
from deltatune.report.scales import fit

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
    points = [(float(step), float(step % 2)) for step in range(1000)]
    found = thin(points)
    assert len(found) <= 80
    assert sum(y for _, y in found) / len(found) == pytest.approx(0.5, abs=0.05)
    assert thin(points[:10]) == points[:10]


def test_charts_are_well_formed_and_in_bounds():
    curves = line_chart(
        [Line("a<b", 0, [(1, 30.0), (2, 0.5)]), Line("one point", 9, [(1, 2.0)]), Line("none", 2, [])],
        Axis("Step"), Axis("Loss"), marks=True,
    )  # fmt: skip
    dots = scatter(
        [Dot("lora", 0, 7e5, 0.6, (0.58, 0.62)), Dot('"><script>', 1, 1e6, 0.5)],
        Axis("Parameters", log=True), Axis("ROUGE"), baseline=Dot("untuned", NEUTRAL, 0, 0.3, (0.28, 0.32)),
    )  # fmt: skip
    bar = interval_bar(0.5, (0.4, 0.6), 0, 1, 3)
    for svg in (curves, dots, bar):
        root = ET.fromstring(str(svg))
        assert "script" not in {element.tag for element in root.iter()}
        for element in root.iter():
            for name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
                assert math.isfinite(float(element.get(name, 0)))
                assert -1 <= float(element.get(name, 0)) <= 441
    assert "Loss (log)" not in curves  # the y axis has no title in the picture
    assert 'class="sn"' in dots


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_single_dot_or_equal_values_make_a_chart(value):
    svg = scatter([Dot("only", 0, value, value)], Axis("Time"), Axis("Score"))
    assert ET.fromstring(str(svg)) is not None
