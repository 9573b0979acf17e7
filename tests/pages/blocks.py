"""The fenced blocks of README and docs/, what their marks say, and what runs them.

A block shows something that holds, in one of these ways:

- `<!-- test -->` before it: it is run, in the order of the page, in one folder for the page.
- `<!-- test: NAME -->`: it is written to that file, for the blocks behind it.
- `<!-- needs: WHAT -->`: it takes what a test has not. Its Python is compiled, and its `deltatune` commands
  are looked up, with their options.
- YAML without a mark is a recipe, or a part of one, and is validated. `<!-- part: TASK -->` says which task a
  part is of, where that is not text-to-text.
- `text`, `console`, `json` and blocks without a language show what something looks like.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from deltatune.cli.app import app
from deltatune.recipe.data_sets import parse_sets

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "docs/concepts/pitfalls.md": "tests/pitfalls",
    "docs/how-to/extending.md": "tests/extending.py",
    "docs/how-to/own-loop.md": "tests/integrations/test_pages.py",
}
"""Pages whose blocks other tests run."""
SHOWN = ("", "text", "console", "json", "toml", "csv")
"""Languages of blocks that show what something looks like."""
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>test|needs|part)(?:: (?P<what>[^\n]*?))? -->\n\s*)?"
    r"(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_BASE: dict[str, Any] = {
    "task": "text-to-text",
    "model": "bundled:t5-small",
    "data": {"source": "rows.csv", "split": {"validation": 0.1, "test": 0.1}},
    "methods": ["lora"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins in, its language, its mark and what the mark names."""

    page: str
    line: int
    language: str
    code: str
    mark: str | None
    what: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README and the pages of docs/, as paths from the root."""
    found = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    return ["README.md", *(page for page in found if page not in ELSEWHERE)]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page, text[: m.start("language")].count("\n") + 1, m["language"], m["code"], m["mark"], m["what"]
        )
        for m in _FENCE.finditer(text)
    ]


def validate_yaml(block: Block) -> None:
    """Require a recipe, or a part of one, that can be trained."""
    content = yaml.safe_load(block.code)
    if "task" in content:
        parse_sets({key: value for key, value in content.items() if key != "$schema"})
        return
    task = {"task": block.what} if block.mark == "part" else {}
    model = {"model": "bundled:minilm"} if task and "conversation" not in str(block.what) else {}
    parse_sets({**_BASE, **task, **model, **content})


def look_up(block: Block) -> list[str]:
    """What is wrong with the `deltatune` commands of a block: commands and options that do not exist."""
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wrong = []
    for line in block.code.replace("\\\n", " ").splitlines():
        code = re.sub(r"\s#\s.*", "", line)
        found = re.search(r"(?:^|[|;&(]|\bsrun|\$)\s*(deltatune\s.*)", code)
        if not found:
            continue
        words = shlex.split(re.split(r"\s[|>&]", found[1])[0], comments=True)[1:]
        if not words or words[0].startswith("-") or words[0].isupper():
            continue
        if words[0] not in commands:
            wrong.append(f"{block}: no command {words[0]}")
            continue
        flags = {
            flag for option in commands[words[0]].params for flag in (*option.opts, *option.secondary_opts)
        }
        known = flags | {"--help", "-h"}
        wrong += [
            f"{block}: deltatune {words[0]} has no {word}"
            for word in (word.partition("=")[0] for word in words[1:])
            if re.match(r"--?[a-z]", word) and word not in known
        ]
    return wrong


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the present folder; Python shares `names` with the blocks before it."""
    if block.what:
        Path(block.what).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.code, str(block), "exec"), names)
    elif block.language == "bash":
        _bash(block)
    else:
        raise AssertionError(f"{block}: nothing runs {block.language}")


def _bash(block: Block) -> None:
    lines = [line for line in block.code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all(re.fullmatch(r"deltatune [^|><;&$`]*", re.sub(r"\s#\s.*", "", line)) for line in lines):
        for line in lines:  # in this process, which has torch already
            app(shlex.split(line, comments=True)[1:], prog_name="deltatune", standalone_mode=False)
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Within the block, `folder` is the working folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
