"""Imports go one way, and torch is imported at module top only where there is work for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "deltatune"
# A layer may import those before it.
ORDER = [
    *(
        "_moved",
        "version",
        "errors",
        "printable",
        "registry",
        "files",
        "cache",
        "observer",
        "phrasing",
        "units",
    ),
    *("tasks", "results", "recipe", "quant", "core", "methods", "models", "data", "checkpoint", "memory"),
    *("evaluation", "report", "training", "runs", "comparison", "cli"),
    *("board", "api", "testing", "__init__", "__main__"),
]
LAZILY = {  # recipes ask the registry of methods to check settings; a model saves and loads its own adapters
    ("recipe", "methods"),
    ("recipe", "core"),
    ("core", "checkpoint"),
}
LIGHT = {
    "errors",
    "printable",
    "registry",
    "files",
    "cache",
    "_moved",
    "version",
    "observer",
    "phrasing",
    "units",
    "tasks",
    "results",
    "recipe",
    "report",
    "cli",
    "board",
    "api",
    "__init__",
    "__main__",
}
HEAVY = {"torch", "transformers", "accelerate", "peft", "datasets", "pandas", "scipy", "sklearn", "onnx"}


def imports(tree: ast.AST, *, top: bool = True) -> Iterator[tuple[str, bool]]:
    """Every imported dotted name, and whether importing the module imports it too."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        deeper = top and not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)
        else:
            yield from imports(node, top=deeper)


def violations(module: str, source: str) -> list[str]:
    """Wrong imports of a module (`cli/app.py`) with this source."""
    here, found = module.removesuffix(".py").split("/")[0], []
    for name, top in imports(ast.parse(source)):
        root, *rest = name.split(".")
        if root == "deltatune" and rest[0] in ORDER:
            there = rest[0]
            upward = there != here and ORDER.index(there) > ORDER.index(here)
            if upward and (top or (here, there) not in LAZILY):
                found.append(f"{module}: {here} must not import {there}")
        elif root in HEAVY and top and here in LIGHT:
            found.append(f"{module}: must not import {root} at module top")
    return found


def test_every_layer_is_known() -> None:
    layers = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert layers <= set(ORDER), "a new layer needs its place in ORDER"


def test_imports_go_one_way() -> None:
    found = [
        problem
        for path in sorted(PACKAGE.rglob("*.py"))
        for problem in violations(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core/model.py", "from deltatune.training import run"),
        ("core/model.py", "def f():\n    from deltatune.cli import main"),
        ("report/page.py", "if True:\n    import torch"),
        ("recipe/schema.py", "from deltatune.methods import METHODS"),
        ("files.py", "from deltatune import data"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli/app.py", "def f():\n    import torch"),
        ("recipe/schema.py", "def f():\n    from deltatune.methods import METHODS"),
        ("recipe/schema.py", "if TYPE_CHECKING:\n    from deltatune.core.method import MethodConfig"),
        ("data/load.py", "from deltatune.observer import Observer"),
        ("training/loop/trainer.py", "import torch\nfrom deltatune.core.model import AdaptedModel"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert violations(module, source) == []
