"""Progress on stderr: bars in a terminal, a few plain lines elsewhere; in a notebook bars below the cell."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from deltatune import units
from deltatune.cli import output
from deltatune.launched import rank
from deltatune.observer import Observer, Silent
from deltatune.printable import printable

PLAIN_STEPS = 10  # a line about every tenth of a task
REDRAWN = 0.2  # seconds between two drawings in a notebook


@contextlib.contextmanager
def watching(*, quiet: bool = False) -> Iterator[Observer]:
    """Give the observer that fits stderr: bars, plain lines, or (quiet) nothing but warnings."""
    console = output.stderr()
    if rank() > 0:  # the first of several processes tells of all
        yield Silent()
    elif quiet:
        yield Quiet(console)
    elif in_notebook():
        with Displayed() as displayed:
            yield displayed
    elif console.is_terminal:
        with Bars(console) as bars:
            yield bars
    else:
        yield Lines(console)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return hasattr(shell, "kernel")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(output.text(text, style), soft_wrap=True)


@dataclass
class _Counter:
    """How far a task is, and how fast it goes."""

    total: int
    now: Callable[[], float]
    before: int = 0
    """What an earlier process had done of it."""
    shown: int = 0
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begun = self.now()
        self.done = self.before

    def advance(self, amount: int, numbers: dict[str, float] | None) -> None:
        self.done += amount
        self.numbers.update(numbers or {})

    @property
    def rate(self) -> float:
        """Units a second of this process; 0 when it cannot be told yet."""
        elapsed = self.now() - self.begun
        return (self.done - self.before) / elapsed if elapsed > 0 else 0.0

    def remaining(self) -> str:
        """The time left, as `1 min 20 s left`; nothing when it is over or cannot be told."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else 0
        return f"{units.duration(left)} left" if left > 0 else ""

    def describe(self) -> str:
        """The numbers and the rate, as `loss 2.31, 3.2 it/s`."""
        numbers = [f"{name} {value:.4g}" for name, value in self.numbers.items()]
        rate = self.rate
        speed = [f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"] if rate else []
        return ", ".join(numbers + speed)


class Quiet(Silent):
    """Shows warnings only."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def warn(self, text: str) -> None:
        """Print a warning."""
        _line(self.console, f"Warning: {text}", "yellow")


class Lines(Quiet):
    """Plain lines, for logs and pipes: no control characters, at most one line for a tenth of a task."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self.now = now
        self.tasks: dict[str, _Counter] = {}

    def stage(self, text: str) -> None:
        """Print the new phase."""
        _line(self.console, text)

    def log(self, text: str) -> None:
        """Print the line."""
        _line(self.console, text)

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Begin to count."""
        shown = PLAIN_STEPS * done // max(total, 1)
        self.tasks[task] = _Counter(total, self.now, done, shown)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Count, and print a line when another tenth is done."""
        counter = self.tasks[task]
        counter.advance(amount, numbers)
        tenth = PLAIN_STEPS * counter.done // max(counter.total, 1)
        if tenth > counter.shown:
            counter.shown = tenth
            parts = [part for part in (counter.describe(), counter.remaining()) if part]
            _line(self.console, f"  {task}: {counter.done}/{counter.total}  {', '.join(parts)}")

    def finish(self, task: str) -> None:
        """Forget the task."""
        self.tasks.pop(task, None)


def emit_event(event: dict[str, Any]) -> None:
    """Write a JSON object a line on stdout, for programs that show progress in their own way."""
    output.emit_json(event, indent=None)
    sys.stdout.flush()


class Bars(Quiet):
    """Rich progress bars with the numbers of each task, its rate and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", style="cyan", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, tuple[TaskID, _Counter]] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def stage(self, text: str) -> None:
        """Print the new phase above the bars."""
        _line(self.console, text, "bold")

    def log(self, text: str) -> None:
        """Print the line above the bars."""
        _line(self.console, text)

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Add a bar; a task that starts again begins at what was done."""
        self.finish(task)
        identity = self.progress.add_task(printable(task), total=total, completed=done, numbers="", left="")
        self.tasks[task] = (identity, _Counter(total, time.monotonic, done))

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Move the bar."""
        identity, counter = self.tasks[task]
        counter.advance(amount, numbers)
        self.progress.update(identity, advance=amount, numbers=counter.describe(), left=counter.remaining())

    def finish(self, task: str) -> None:
        """Take the bar away."""
        if task in self.tasks:
            self.progress.remove_task(self.tasks.pop(task)[0])


class Displayed(Silent):
    """Bars in a notebook: one output that is drawn anew. Lines and warnings stay when the work is over."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.said: list[str] = []
        self.phase = ""
        self.tasks: dict[str, _Counter] = {}
        self.handle: Any = None
        self.drawn = 0.0

    def __enter__(self) -> Displayed:
        return self

    def __exit__(self, *_: object) -> None:
        self.phase, self.tasks = "", {}
        if self.handle is not None:
            self._draw()

    def stage(self, text: str) -> None:
        """Show the new phase."""
        self.phase = text
        self._draw()

    def log(self, text: str) -> None:
        """Show the line above the bars."""
        self.said.append(text)
        self._draw()

    def warn(self, text: str) -> None:
        """Show the warning above the bars."""
        self.said.append(f"Warning: {text}")
        self._draw()

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Add a bar."""
        self.tasks[task] = _Counter(total, self.now, done)
        self._draw()

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Move the bar; it is drawn some times a second."""
        self.tasks[task].advance(amount, numbers)
        if self.now() - self.drawn > REDRAWN:
            self._draw()

    def finish(self, task: str) -> None:
        """Take the bar away."""
        self.tasks.pop(task, None)
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        self.drawn = self.now()
        shown = HTML(self._html())
        if self.handle is None:
            self.handle = display(shown, display_id=True)
        else:
            self.handle.update(shown)

    def _html(self) -> str:
        lines = [f"<div>{_escaped(text)}</div>" for text in self.said]
        if self.phase:
            lines.append(f"<div><b>{_escaped(self.phase)}</b></div>")
        for task, counter in self.tasks.items():
            told = ", ".join(filter(None, (counter.describe(), counter.remaining())))
            lines.append(
                f'<div>{_escaped(task)} <progress value="{counter.done}" max="{counter.total}"></progress> '
                f"{counter.done}/{counter.total} {_escaped(told)}</div>"
            )
        return "".join(lines)


def _escaped(text: str) -> str:
    return html.escape(printable(text))
