"""Progress: plain lines without a terminal, bars with one."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from deltatune.cli.progress import Bars, Displayed, Lines


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_plain_lines_are_few_and_without_control_characters() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(Console(file=stream, width=40), now=clock)
    lines.stage("training lora")
    lines.start("train", 1000)
    for step in range(1000):
        clock.time += 0.5
        lines.advance("train", 1, {"loss": 4.0 - step / 1000})
    lines.finish("train")
    printed = stream.getvalue().splitlines()
    assert len(printed) == 11
    assert printed[1] == "  train: 100/1000  loss 3.901, 2.0 it/s, 7 min 30 s left"
    assert printed[-1] == "  train: 1000/1000  loss 3.001, 2.0 it/s"
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_short_tasks_and_empty_tasks() -> None:
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=40), now=Clock())
    lines.start("a", 2)
    lines.advance("a")
    lines.advance("a")
    lines.start("b", 0)
    lines.finish("b")
    lines.finish("never started")
    assert stream.getvalue().splitlines() == ["  a: 1/2  ", "  a: 2/2  "]


def test_slow_work_shows_seconds_a_step() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(Console(file=stream, width=40), now=clock)
    lines.start("train", 2)
    clock.time = 4.0
    lines.advance("train")
    assert stream.getvalue() == "  train: 1/2  4.0 s/it, 4.0 s left\n"


def test_the_rate_of_a_resumed_run_counts_what_this_process_does() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(Console(file=stream, width=40), now=clock)
    lines.start("train", 1000, 900)
    for _ in range(100):
        clock.time += 0.5
        lines.advance("train")
    assert stream.getvalue() == "  train: 1000/1000  2.0 it/s\n"


def test_bars_show_numbers_and_take_finished_tasks_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with Bars(console) as bars:
        bars.stage("training lora [r 8]")
        bars.start("train", 10)
        bars.advance("train", 4, {"loss": 1.25})
        bars.progress.refresh()
        bars.warn("odd")
        assert bars.progress.tasks[0].completed == 4
        bars.start("train", 5)
        assert bars.progress.tasks[0].completed == 0
        bars.finish("train")
        assert bars.progress.tasks == []
    printed = stream.getvalue()
    assert "training lora [r 8]" in printed
    assert "loss 1.25" in printed
    assert "4/10" in printed
    assert "Warning: odd" in printed


class Handle:
    """Stands for what IPython updates."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, content: Any) -> None:
        self.shown.append(content.data)


def test_bars_of_a_notebook_are_one_output_that_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    clock, handle = Clock(), Handle()

    def show(content: Any, *, display_id: bool) -> Handle:
        assert display_id
        handle.update(content)
        return handle

    monkeypatch.setattr(display, "display", show)
    with Displayed(now=clock) as bars:
        bars.stage("training <lora>")
        bars.start("train", 100)
        for _ in range(100):
            clock.time += 0.05
            bars.advance("train", 1, {"loss": 2.0})
        assert '<progress value="98" max="100"></progress> 98/100 loss 2, 20.0 it/s' in handle.shown[-1]
        assert "training &lt;lora&gt;" in handle.shown[-1]
        bars.warn("a \x1b[31mred one")
        bars.finish("train")
    assert len(handle.shown) < 40, "it is drawn some times a second"
    assert handle.shown[-1].startswith("<div>Warning: a ")
    assert "\x1b" not in handle.shown[-1]
    assert "progress" not in handle.shown[-1]


def test_nothing_is_displayed_where_nothing_was_said() -> None:
    with Displayed() as bars:
        assert bars.handle is None
