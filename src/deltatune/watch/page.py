"""The page of a watch: the report so far below how far all came, made anew as little as possible."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError
from markupsafe import Markup

from deltatune import units
from deltatune.errors import DeltatuneError
from deltatune.printable import printable
from deltatune.report import display, figures
from deltatune.report.figures import Figure
from deltatune.report.html import Page, content, environment, said, shell
from deltatune.report.load import Comparison
from deltatune.watch.remaining import TO_DO, Remaining
from deltatune.watch.so_far import MOST_METHODS, so_far, whole
from deltatune.watch.standing import AT_WORK, PHASES, RunStanding, Standing, Watched

MOST_ROWS = 200
"""Runs in the table; those at work come first."""
MOST_BELOW = 8_000_000
"""Letters of the report so far."""
POLICY = "; connect-src 'self'; base-uri 'none'; form-action 'none'"
TAKES_AT_MOST = 0.05
"""Share of a processor that making the page may take while it changes."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Made:
    """A page, with what tells it from others."""

    html: bytes
    tag: str


@dataclass(frozen=True)
class Live:
    """What the upper part of the page says."""

    title: str
    words: str
    """Where all stand, in a sentence."""
    share: float
    left: str
    notes: list[str]
    command: str
    """That goes on with it; nothing where that is not wanted."""
    changed: str
    """When a file was last written, ISO."""
    rows: list[tuple[RunStanding, int]]
    """A run, or one of so many that are to come and have no folder yet."""
    more: int
    """Runs that the table leaves out."""
    over: bool


@cache
def _templates() -> Environment:
    return environment(_HERE)


class Pages:
    """Makes the page of a folder.

    Args:
        watched: The folder.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched, self._environment = watched, _templates()
        self._known: tuple[Any, Made] | None = None
        self._below: tuple[Any, Markup] | None = None
        self._next = 0.0
        script = (_HERE / "watch.js").read_text(encoding="utf-8")
        style = (_HERE / "watch.css").read_text(encoding="utf-8")
        self._shell = shell(style, script, POLICY)

    def page(self) -> Made:
        """The page as it is now, or as it was a moment ago where making it takes long."""
        if self._known and time.monotonic() < self._next:
            return self._known[1]
        started = time.thread_time()
        standing = self._watched.look()
        if self._known is None or self._known[0] != standing:
            html = printable(self._render(standing)).encode(errors="backslashreplace")
            self._known = (standing, Made(html, hashlib.sha256(html).hexdigest()[:24]))
        self._next = time.monotonic() + (time.thread_time() - started) / TAKES_AT_MOST
        return self._known[1]

    def _render(self, standing: Standing) -> str:
        live = live_part(standing, self._watched.path)
        comparison, problem = self._comparison(standing)
        page = Page(comparison)
        ended = standing.over and not problem and standing.kind == "comparison"
        drawn = [method for method in page.order if method.runs]
        curves = figures.curves(comparison, drawn, page.series) if drawn else []
        parts = {
            "page": page,
            "comparison": comparison,
            "board": comparison.board,
            "display": display,
            "live": live,
            "left": Remaining(standing),
            "to_do": TO_DO,
            "roughly": roughly,
            "curves": [] if ended else curves,  # they change with every step, and what is below seldom
            "sections": self._sections(standing, page, curves if ended else []),
            "problem": problem,
            "left_out": max(0, len({run.name for run in standing.runs}) - MOST_METHODS),
            "ended": ended,
        }
        if ended:
            parts |= said(comparison)
        return self._environment.get_template("watch.html.j2").render(**self._shell, **parts)

    def _comparison(self, standing: Standing) -> tuple[Comparison, str]:
        """What a report is made of, and why it is not that of the end although all is over."""
        if not standing.over or standing.kind != "comparison":
            return so_far(standing, self._watched), ""
        try:
            return whole(standing, self._watched), ""
        except (DeltatuneError, OSError) as error:
            return so_far(standing, self._watched), str(error)

    def _sections(self, standing: Standing, page: Page, curves: list[Figure]) -> Markup:
        """The report below the live part, made anew when a run has ended."""
        if not page.order:
            return Markup("")
        ended = [run for run in standing.runs if run.phase in ("done", "failed", "tried", "stopped")]
        key = (standing.over, standing.plan.known, [(run.folder, run.phase, run.wall) for run in ended])
        if self._below is None or self._below[0] != key:
            try:
                text = self._environment.get_template("sections.html.j2").render(content(page, curves))
                if len(text) > MOST_BELOW:  # it goes over the line with every step
                    raise DeltatuneError(f"it would have {units.size(len(text))}.")
            except (DeltatuneError, TemplateError, OSError, ValueError, TypeError, LookupError) as error:
                # of files that others damaged; what is above does not need them
                text = self._environment.get_template("unreadable.html.j2").render(error=error)
            self._below = (key, Markup(text))
        return self._below[1]


def live_part(standing: Standing, path: Path) -> Live:
    """Say where all stand."""
    left = Remaining(standing)
    done, wanted = len(standing.of("done")), [run for run in standing.runs if run.phase != "stopped"]
    rows = sorted(
        _together(standing.runs),
        key=lambda row: (PHASES.index(row[0].phase), row[0].name, str(row[0].seed), row[0].variant),
    )
    words = _words(standing, done, len(wanted))
    shown = f"{left.share:.0%}" if standing.runs and not standing.over else ""
    changed = datetime.datetime.fromtimestamp(standing.changed or 0, datetime.UTC)
    return Live(
        title=" \u00b7 ".join(filter(None, (shown, words.split(".")[0], path.resolve().name))),
        words=words,
        share=1.0 if standing.over else left.share,
        left=_left(standing, left),
        notes=_notes(standing),
        command=_command(standing, path) if _is_left(standing) else "",
        changed=changed.isoformat(timespec="seconds") if standing.changed else "",
        rows=rows[:MOST_ROWS],
        more=max(0, len(rows) - MOST_ROWS),
        over=standing.over,
    )


def _together(runs: Sequence[RunStanding]) -> list[tuple[RunStanding, int]]:
    """The runs; of those to come one for each entry, with their number."""
    waiting: dict[str, list[RunStanding]] = {}
    for run in runs:
        if run.phase == "waiting":
            waiting.setdefault(run.name, []).append(run)
    begun = [(run, 1) for run in runs if run.phase != "waiting"]
    return begun + [(same[0], len(same)) for same in waiting.values()]


def _words(standing: Standing, done: int, of: int) -> str:
    if standing.kind == "nothing":
        if standing.holders:
            return "A process has begun; no run has yet."
        return "Nothing is here yet."
    failed, at_work = len(standing.of("failed")), len(standing.of(*AT_WORK))
    what = f"{units.number(done)} of {units.number(of)} run{'s' if of != 1 else ''} done"
    what += f", {units.number(at_work)} at work" if at_work else ""
    what += f", {units.number(failed)} failed" if failed else ""
    if standing.over:
        return f"Finished: {what}."
    return f"{what}." if at_work or standing.holders else f"Not at work: {what}."


def _left(standing: Standing, left: Remaining) -> str:
    if standing.over or standing.kind == "nothing":
        return ""
    if left.seconds is None:
        return "How long it takes yet shows after the first steps."
    about = "At most about" if left.at_most else "About"
    return f"{about} {units.duration(roughly(left.seconds))} of work left, by the steps so far."


def roughly(seconds: float) -> float:
    """An estimate without digits that it has not."""
    unit = 300 if seconds >= 7200 else 60 if seconds >= 600 else 10 if seconds >= 60 else 1
    return max(1, round(seconds / unit)) * unit


def _notes(standing: Standing) -> list[str]:
    notes = [standing.problem] if standing.problem else []
    for host, pid in sorted(standing.gone) if not standing.over else ():
        notes.append(f"Process {pid} on {host} was at work here and has ended without a word: it was killed.")
    if _is_left(standing):
        notes.append(
            "No process is at work here. What was done is kept, and the same command goes on with it:"
        )
    return notes


def _is_left(standing: Standing) -> bool:
    """Whether it has begun, is not at its end, and nobody is at it."""
    return not standing.over and not standing.holders and standing.kind != "nothing"


def _command(standing: Standing, path: Path) -> str:
    recipe, folder = shlex.quote(str(path / "recipe.yaml")), shlex.quote(str(path))
    if standing.kind == "run":
        return f"deltatune train {recipe} --out {folder} --resume"
    return f"deltatune compare {recipe} --out {folder}"


def as_json(standing: Standing, path: Path) -> dict[str, Any]:
    """The same for programs."""
    live = live_part(standing, path)
    left = Remaining(standing)
    return {
        "folder": str(path),
        "kind": standing.kind,
        "over": standing.over,
        "words": live.words,
        "steps_done": left.done,
        "steps": left.whole,
        "seconds_left": left.seconds,
        "at_work": [{"host": host, "pid": pid} for host, pid in sorted(standing.holders)],
        "changed": live.changed or None,
        "runs": [_run(run, left) for run in standing.runs],
    }


def _run(run: RunStanding, left: Remaining) -> dict[str, Any]:
    keys: Sequence[str] = (
        "folder", "name", "method", "seed", "variant", "phase", "step", "steps", "seconds",
        "loss", "validation", "error",
    )  # fmt: skip
    over = run.phase in ("done", "failed", "stopped", "tried")
    return {key: getattr(run, key) for key in keys} | {
        "metrics": dict(run.metrics),
        "seconds_left": None if over else left.of(run),
    }
