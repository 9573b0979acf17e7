"""benchmarks/README.md lists every script with what it measures, and every result with its script."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
FILES = sorted(FOLDER.glob("*.py"))
SCRIPTS = [path for path in FILES if "__main__" in path.read_text(encoding="utf-8")]


def said(path: Path) -> list[str]:
    """The lines of a script's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()


def test_the_index_lists_what_is_there_and_nothing_else() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", INDEX, flags=re.MULTILINE)
    assert sorted(listed) == [path.name for path in FILES]
    assert len(SCRIPTS) > 20


def test_every_result_is_named_after_its_script() -> None:
    scripts = sorted((path.stem for path in SCRIPTS), key=len, reverse=True)
    patterns = [
        pattern.replace(f"{{{options}}}", option)
        for pattern in re.findall(r"results/([\w*{},.]+\.(?:json|npz))", INDEX)
        for options in [(re.findall(r"{(.*)}", pattern) or [""])[0]]
        for option in options.split(",")
    ]
    for path in (FOLDER / "results").iterdir():
        assert any(fnmatch(path.name, pattern) for pattern in patterns), f"{path.name} is not in the index"
        short = path.name.startswith(("halving_", "speed_cpu_"))  # of halving_on_recorded_grid and speed
        assert short or path.stem.startswith(tuple(scripts)), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_first_line_says_what_it_is(path: Path) -> None:
    first, *rest = said(path)
    assert first.endswith((".", "?"))
    assert not rest or rest[0] == "", "one line, then an empty one"
    if path in SCRIPTS:
        assert f"python benchmarks/{path.name}" in "\n".join(rest), "it shows how it is called"


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_explains_itself(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[
        0
    ] in done.stdout
