"""The page of pitfalls as a program: its blocks are run in their order and must print what stands below."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "pitfalls.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# (\S+\.\w+)\n")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_LOGGERS = ("", "transformers", "peft", "sacrebleu")  # those that do not pass their records on to the root


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, and what is in it."""

    language: str
    code: str


@dataclass
class Outcome:
    """What running a section left behind.

    Attributes:
        names: The variables of its Python blocks.
        said: Warnings and log records from level WARNING on, in their order: what a user could have noticed.
    """

    names: dict[str, Any]
    said: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


Read = Callable[[str], Outcome]
"""Runs the section with a heading."""
Shared = tuple[Path, dict[str, Any]]
"""The folder that all sections work in, and the names that the page's setup defines."""


def sections() -> dict[str, list[Block]]:
    """The blocks of each section by its heading, those before the first section under an empty one."""
    found = {}
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M):
        heading = part.partition("\n")[0] if found else ""
        blocks = [Block(*groups) for groups in _FENCE.findall(part)]
        if blocks:
            found[heading] = blocks
        elif not found:
            found[""] = []
    return found


def play(blocks: list[Block], names: dict[str, Any]) -> Outcome:
    """Run blocks in the present folder, and compare what they print with the `text` blocks below them.

    Python runs in `names`. An error that leaves a block is printed as Python does, `Kind: message`, and ends
    it. `console` blocks hold commands after `$` and what they print. Others are files, named in a comment in
    their first line.
    """
    outcome, printed = Outcome(names), ""
    with _listening(outcome.said):
        for block in blocks:
            if block.language == "python":
                assert not printed, f"nobody compares this output:\n{printed}"
                printed = _python(block.code, names)
            elif block.language == "text":
                compare(block.code, printed)
                printed = ""
            elif block.language == "console":
                _console(block.code)
            else:
                name = _FILE.match(block.code)
                assert name, f"a {block.language} block without its file's name:\n{block.code}"
                Path(name[1]).write_text(block.code, encoding="utf-8")
    assert not printed, f"nobody compares this output:\n{printed}"
    return outcome


def _python(code: str, names: dict[str, Any]) -> str:
    with redirect_stdout(io.StringIO()) as out:
        try:
            exec(compile(code, str(PAGE), "exec"), names)
        except Exception as error:  # what a block raises is a part of what it shows
            print(f"{type(error).__name__}: {error}")
    return out.getvalue()


def _console(code: str) -> None:
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", code, re.M):
        program, *arguments = shlex.split(command)
        assert program == "deltatune"
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out), contextlib.suppress(SystemExit):
            app(arguments, prog_name=program)
        compare(expected, out.getvalue())


def compare(expected: str, printed: str) -> None:
    """Require the printed lines, where `...` stands for any lines (or the rest of one).

    Kinds of blanks, and those at the ends of lines, do not count, and fractions may differ by a tenth: the
    order of a sum is the processor's business. Whole numbers must be equal.
    """
    left = [line.rstrip() for line in re.sub(r"[^\S\n]", " ", printed).strip().splitlines()]
    skipping = False
    for wanted in expected.strip().splitlines():
        if wanted.strip() == "...":
            skipping = True
            continue
        while skipping and left and not _same(wanted, left[0]):
            left.pop(0)
        found = bool(left) and _same(wanted, left.pop(0))
        assert found, f"wanted:\n{expected}\nprinted:\n{printed}"
        skipping = False
    assert skipping or not left, f"wanted:\n{expected}\nprinted:\n{printed}"


def _same(wanted: str, line: str) -> bool:
    wanted = wanted.rstrip()
    if wanted.endswith(" ..."):
        return line.startswith(wanted.removesuffix(" ..."))
    if _NUMBER.sub("#", wanted) != _NUMBER.sub("#", line):
        return False
    return all(map(_close, _NUMBER.findall(wanted), _NUMBER.findall(line)))


def _close(wanted: str, found: str) -> bool:
    if "." not in wanted and "e" not in wanted:
        return wanted == found
    a, b = float(wanted.replace(",", "")), float(found.replace(",", ""))
    last_place = 10.0 ** -len(wanted.partition(".")[2].partition("e")[0])
    return abs(a - b) <= max(0.1 * abs(a), last_place)


@contextlib.contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    def hear(text: str) -> None:
        if "deprecated and will be removed" not in text:  # between libraries; it tells users nothing
            said.append(text)

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: hear(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: hear(str(message))
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


SECTIONS = sections()
