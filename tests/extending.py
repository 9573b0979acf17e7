"""The examples of docs/how-to/extending.md, which are tested as they stand there."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "extending.md"
_BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.M | re.S)


@functools.cache
def examples() -> dict[str, str]:
    """The blocks of the page that begin with a file's name, by that name."""
    return dict(_BLOCK.findall(PAGE.read_text("utf-8")))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    place = tempfile.TemporaryDirectory(prefix="deltatune-extending-")
    for name, code in examples().items():
        Path(place.name, name).write_text(code, encoding="utf-8")
    sys.path.append(place.name)
    return place


def module(name: str) -> ModuleType:
    """The block `NAME.py`, imported as a user's file."""
    assert _folder()
    return importlib.import_module(name)


def package(folder: Path) -> None:
    """Lay out the page's package in a folder as pip does, with the entry points of its pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(examples()["pyproject.toml"])["project"]
    points = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (folder / "my_package").mkdir(parents=True)
    for name in ("scaling.py", "stars.py"):
        (folder / "my_package" / name).write_text(examples()[name], encoding="utf-8")
    about = folder / f"my_package-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    (about / "entry_points.txt").write_text("\n".join(points))
