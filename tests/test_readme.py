"""The README is short, complete, and leads somewhere. tests/pages runs its blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deltatune.cli.app import app
from deltatune.methods import METHODS
from deltatune.tasks import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> str:
    section = text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def test_it_is_short() -> None:
    text = re.sub(
        r"```.*?```|<!--.*?-->|<picture>.*?</picture>|^\|.*?$|\]\([^)]*\)", "", README, flags=re.S | re.M
    )
    assert 400 <= len(text.split()) <= 750


def test_the_tables_of_methods_are_complete() -> None:
    assert set(re.findall(r"`(\w+)`", table(README, "Methods"))) == set(METHODS.names())
    rows = re.findall(r"^\| `(\w+)` \|", table(page("how-to/which-method.md"), "All methods"), re.M)
    assert sorted(rows) == sorted(METHODS.names())


def test_the_table_of_commands_is_complete() -> None:
    named = re.findall(r"`(\w+)`", table(README, "What you get"))
    assert sorted(named) == sorted(command.name for command in app.registered_commands)


def test_the_table_of_tasks_is_complete() -> None:
    named = re.findall(r"`([\w-]+)`", table(page("how-to/recipe.md"), "The task"))
    assert set(named) == set(TASKS.names())


def test_the_reference_explains_every_command() -> None:
    from tools.reference import commands

    made = commands()
    names = [command.name for command in app.registered_commands]
    assert re.findall(r"^## (\S+)$", made, re.M) == names
    assert re.findall(r"^\| \[`(\S+)`\]", made, re.M) == names


@pytest.mark.parametrize("link", re.findall(r"(?:\]\(|srcset=\"|src=\")(?!https?:)([^)#\"]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
