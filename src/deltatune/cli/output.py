"""What the commands print: results on stdout, everything else on stderr.

Data, names and messages of others come by here, so this is the one place that writes: what reaches a terminal
has its control characters escaped, and brackets in it are never taken for markup.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from deltatune import units
from deltatune.errors import DeltatuneError
from deltatune.printable import printable, printable_json

_on_interrupt: list[str] = []
_wants_json = [False]


class _Printer(Console):
    """A console that escapes whatever it is given, wherever it stands: in a table's cell, a bar, a title."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, with the control characters of texts (not rich's own controls) as escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def ready() -> None:
    """Make the streams ready for whatever is written to them: none is closed, and none refuses a letter.

    Warnings of Python's own machinery are printed as ours are.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the shell closed it: `>&-`
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (to the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def _show_warning(  # noqa: PLR0917  (Python's own signature)
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(printable(text))


def stderr() -> Console:
    """A console on stderr; made anew each time because tests and pipes replace the stream."""
    return _Printer(stderr=True, highlight=False, markup=False, emoji=False)


def stdout() -> Console:
    """A console on stdout. Without a terminal it is wide, so that no table is torn in a file."""
    width = None if sys.stdout.isatty() else 160
    return _Printer(highlight=False, markup=False, emoji=False, width=width)


def errors_as_json(wanted: bool) -> bool:
    """Remember whether the command that runs now prints JSON, its errors included."""
    _wants_json[0] = wanted
    return wanted


def failed(problem: DeltatuneError, kind: str, code: int) -> None:
    """Say what went wrong: a paragraph on stderr, and beside --json an object on stdout."""
    with contextlib.suppress(OSError):  # it may be what cannot be written to
        error(describe(problem))
    if _wants_json[0]:
        parts = {"field": problem.field, "message": problem.what, "remedy": problem.remedy}
        emit_json({"error": {"kind": kind, **parts, "exit_code": code}}, indent=None)


def misused(error: Any) -> None:
    """Beside --json say on stdout what is wrong with the options; typer says it on stderr."""
    if _wants_json[0]:
        parts = {"field": None, "message": error.format_message(), "remedy": None}
        emit_json({"error": {"kind": type(error).__name__, **parts, "exit_code": 2}}, indent=None)


def describe(error: DeltatuneError) -> str:
    """One paragraph: where, what is wrong, what to do."""
    parts = [f"{error.field}:" if error.field else "", error.what.strip(), (error.remedy or "").strip()]
    return " ".join(part for part in parts if part)


def text(content: object, style: str = "") -> Text:
    """Text in one style; escaped here as well, since rich drops some control characters unseen."""
    return Text(printable(content), style=style)


def line(content: object, style: str = "") -> None:
    """Print a line on stdout that is not wrapped."""
    stdout().print(text(content, style), soft_wrap=True)


def paragraph(content: object, style: str = "") -> None:
    """Print a paragraph on stdout, wrapped to the terminal; in a file it is one line."""
    console = stdout()
    console.print(text(content, style), soft_wrap=not console.is_terminal)


def raw(content: str) -> None:
    """Print a document of several lines on stdout as it stands, but for control characters."""
    sys.stdout.write(printable(content if content.endswith("\n") else content + "\n"))


def error(message: str) -> None:
    """Print `Error: message` in red on stderr, wrapped to the terminal."""
    console = stderr()
    said = Text.assemble(("Error: ", "bold red"), text(message, "red"))
    console.print(said, soft_wrap=not console.is_terminal)


def trace(lines: Iterable[str]) -> None:
    """Print a traceback on stderr."""
    sys.stderr.write(printable("".join(lines)))


def resumable_by(hint: str) -> None:
    """Remember what to tell the user if they interrupt the work that starts now."""
    _on_interrupt[:] = [hint]


def interrupted(code: int) -> None:
    """Say that Ctrl-C was heard, and how to go on."""
    console = stderr()
    said = " ".join(["Interrupted.", *_on_interrupt])
    console.print(text(said, "yellow"), soft_wrap=not console.is_terminal)
    if _wants_json[0]:
        parts = {"field": None, "message": "Interrupted.", "remedy": " ".join(_on_interrupt) or None}
        emit_json({"error": {"kind": "KeyboardInterrupt", **parts, "exit_code": code}}, indent=None)


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """Print `value` as JSON on stdout, whatever it is that stands there."""
    text = printable_json(value, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # not all letters are of the terminal's encoding: then as JSON's escapes
        text = json.dumps(json.loads(text), indent=indent)
    sys.stdout.write(text + "\n")


def fields(title: str | None, values: Mapping[str, Any]) -> None:
    """Print a mapping, nested ones indented, as aligned `key  value` lines on stdout."""
    console = stdout()
    if title:
        line(title, "bold")
    rows = [(printable(key), printable(value)) for key, value in _flat(values)]
    indent = max((len(key) for key, _ in rows), default=0) + 2
    for key, value in rows:
        lines = textwrap.wrap(value, max(console.width - indent, 20), break_on_hyphens=False) or [""]
        for number, part in enumerate(lines):
            label = "" if number else key
            shown = Text.assemble((label.ljust(indent) if part else label, "cyan"), part)
            console.print(shown, soft_wrap=True)


def _flat(values: Mapping[str, Any], indent: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = str(key)
        label = indent + (name if "." in name else name.replace("_", " "))
        if isinstance(value, Mapping) and value:
            yield label, ""
            yield from _flat(value, indent + "  ")
        elif isinstance(value, Sequence) and not isinstance(value, str) and value:
            for number, item in enumerate(value):
                yield (label if number == 0 else ""), cell(item)
        else:
            yield label, cell(value)


def cell(value: Any) -> str:
    """A value of any kind in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell(item) for item in value) or "none"
    return number(value)


def number(value: Any) -> str:
    """A value as a person reads it: a number in full, `yes`, a text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return units.number(value) if value is None or isinstance(value, int | float) else str(value)
