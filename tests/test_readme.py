"""What the README shows works: blocks after `<!-- test -->` are run, in their order, in one empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deltatune.cli.app import app
from deltatune.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# <!-- test --> runs the block; <!-- test: NAME --> writes it to that file, for the blocks after it
MARKED = re.compile(
    r"^<!-- test(?:: (?P<file>\S+))? -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
RUNNERS = {"python": [sys.executable, "-c"], "bash": ["bash", "-euo", "pipefail", "-c"]}


def test_every_mark_has_a_block() -> None:
    assert len(MARKED.findall(README)) == README.count("<!-- test") >= 3


def test_the_marked_blocks_work(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in MARKED.finditer(README):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
            continue
        done = subprocess.run(
            [*RUNNERS[block["language"]], block["code"]],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{block['code']}\n{done.stdout}\n{done.stderr}"


def test_the_recipe_is_valid(tmp_path: Path) -> None:
    from deltatune.recipe import load_recipe

    [code] = [block["code"] for block in MARKED.finditer(README) if block["file"] == "recipe.yaml"]
    (tmp_path / "recipe.yaml").write_text(code, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [entry.name for entry in recipe.methods] == ["untuned", "lora", "lora r64", "prefix"]


def table_of(heading: str) -> set[str]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.M))


def test_the_tables_are_complete() -> None:
    assert table_of("Methods") == set(METHODS.names())
    assert table_of("Commands") == {command.name for command in app.registered_commands}


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
