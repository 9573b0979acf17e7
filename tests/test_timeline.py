"""Time is counted once: phases within phases, several timelines, threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from deltatune import timeline
from deltatune.timeline import Timeline, phase


class Clock:
    """A clock that is moved by hand; two processors are busy all the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    times = SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: 2 * clock.now)
    monkeypatch.setattr(timeline, "time", times)
    return clock


def seconds(found: Timeline) -> dict[str, float]:
    return {name: spent.seconds for name, spent in found.so_far().items()}


def test_a_phase_within_another_takes_the_clock_from_it(clock: Clock) -> None:
    run = Timeline()
    with run.open():
        clock.work(1)
        with phase("training"):
            clock.work(10)
            with phase("validation"):
                clock.work(3)
            clock.work(5)
        with phase("validation"):
            clock.work(1)
    clock.work(1000)  # nobody's
    assert seconds(run) == {"training": 15, "validation": 4, "other": 1}
    assert {name: spent.processor for name, spent in run.so_far().items()} == {
        "training": 30, "validation": 8, "other": 2,
    }  # fmt: skip


def test_a_comparison_counts_what_its_runs_do(clock: Clock) -> None:
    whole, first, second = Timeline(), Timeline(), Timeline()

    @phase("test rows")
    def evaluate() -> None:
        clock.work(4)

    with whole.open():
        clock.work(1)
        for run in (first, second, first):  # taken up again, as the runs that share their steps are
            with run.open():
                evaluate()
    assert seconds(whole) == {"test rows": 12, "other": 1}
    assert seconds(first) == {"test rows": 8, "other": 0}
    assert seconds(second) == {"test rows": 4, "other": 0}


def test_an_error_ends_a_phase(clock: Clock) -> None:
    run = Timeline()

    @phase("training")
    def train() -> None:
        clock.work(2)
        raise ValueError("broken")

    with run.open():
        with pytest.raises(ValueError, match="broken"):
            train()
        clock.work(1)
    assert seconds(run) == {"training": 2, "other": 1}


def test_threads_have_clocks_of_their_own(clock: Clock) -> None:
    here, there = Timeline(), Timeline()

    def other() -> None:
        with there.open(), phase("training"):
            clock.work(5)

    with here.open(), phase("load base"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seconds(there) == {"training": 5, "other": 0}
    assert seconds(here) == {"load base": 5, "other": 0}  # it waited
