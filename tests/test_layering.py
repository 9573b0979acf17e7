"""Imports go one way, between layers and within them; torch is imported only where there is work for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain, pairwise
from pathlib import Path

import pytest

from deltatune.tasks import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "deltatune"
# A layer may import those before it. docs/architecture.md and CONTRIBUTING.md show this order, from its end.
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
        "alone",
        "launched",
        "units",
        "timeline",
    ),
    *("tasks", "results", "recipe", "quant", "core", "methods", "models", "data", "checkpoint", "memory"),
    *("evaluation", "report", "training", "runs", "serve", "comparison", "watch", "exporting", "sharing"),
    *("starting", "cli", "integrations"),
    *("board", "api", "testing", "__init__", "__main__"),
]
LAZILY = {  # upward, within functions or for the types alone
    ("recipe", "methods"),  # the registry of methods is asked to check settings,
    ("recipe", "core"),  # of this type
    ("core", "checkpoint"),  # a model saves and loads its own adapters
}
SHOWN = [layer for layer in ORDER if not layer.startswith("_")]
LONGEST = 400  # lines of a source file
LIGHT = {
    "errors",
    "printable",
    "registry",
    "files",
    "cache",
    "_moved",
    "version",
    "observer",
    "alone",
    "launched",
    "phrasing",
    "units",
    "timeline",
    "tasks",
    "results",
    "recipe",
    "report",
    "watch",
    "sharing",
    "starting",
    "cli",
    "board",
    "api",
    "__init__",
    "__main__",
}
HEAVY = {
    *("torch", "transformers", "accelerate", "peft", "datasets", "pandas", "scipy", "sklearn", "onnx"),
    *("fastapi", "uvicorn"),
}


@cache
def imported(source: str) -> list[tuple[str, bool]]:
    """Every imported dotted name of a source, and whether importing the module imports it too."""
    return list(imports(ast.parse(source)))


def imports(tree: ast.AST, *, top: bool = True) -> Iterator[tuple[str, bool]]:
    """The same of a part of a source."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        deeper = top and not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)
        else:
            yield from imports(node, top=deeper)


@cache
def sources() -> dict[str, str]:
    """The source of each module (`cli/app.py`)."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def upward(module: str, source: str) -> Iterator[tuple[str, str, bool]]:
    """Imports of a module from a layer above its own: the two layers, and whether they are at module top."""
    here = module.removesuffix(".py").split("/")[0]
    for name, top in imported(source):
        root, *rest = name.split(".")
        if root == "deltatune" and rest[0] in ORDER and ORDER.index(rest[0]) > ORDER.index(here):
            yield here, rest[0], top


def violations(module: str, source: str) -> list[str]:
    """Wrong imports of a module with this source."""
    wrong = [
        f"{module}: {here} must not import {there}"
        for here, there, top in upward(module, source)
        if top or (here, there) not in LAZILY
    ]
    if module.removesuffix(".py").split("/")[0] in LIGHT:
        roots = [name.partition(".")[0] for name, top in imported(source) if top]
        wrong += [f"{module}: must not import {root} at module top" for root in roots if root in HEAVY]
    return wrong


def circle(modules: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next and the last the first; none if there is no such circle.

    Imports within functions and for types count like all others. That a module's packages are imported before
    it does not: what they import to offer it is no affair of the module's.

    Args:
        modules: Their sources.
    """
    names = {_dotted(module): source for module, source in modules.items()}
    graph = {name: {_module(wanted, names) for wanted, _ in imported(source)} - {name, ""}
             for name, source in names.items()}  # fmt: skip
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _dotted(module: str) -> str:
    path = f"deltatune/{module.removesuffix('.py')}".removesuffix("/__init__")
    return path.replace("/", ".")


def _module(name: str, among: Mapping[str, str]) -> str:
    """The module of an imported name, which may be something in it; nothing if it is none of ours."""
    while name and name not in among:
        name = name.rpartition(".")[0]
    return name


def test_every_layer_is_known() -> None:
    layers = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert layers <= set(ORDER), "a new layer needs its place in ORDER"


def test_imports_go_one_way() -> None:
    wrong = [problem for module, source in sources().items() for problem in violations(module, source)]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_needed() -> None:
    used = chain.from_iterable(upward(module, source) for module, source in sources().items())
    assert {(here, there) for here, there, _ in used} == LAZILY


def test_no_modules_import_each_other() -> None:
    circular = circle(sources())
    assert not circular, " imports\n".join(circular)


def test_the_rooms_of_training_have_the_documented_order() -> None:
    """Each may import from those above it in the table; the package itself stands above them all."""
    text = (
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## The rooms of training")[2]
    )
    rooms = re.findall(r"^\| `(\w+)/` \|", text.partition("\n## ")[0], re.MULTILINE)
    inside = {module: source for module, source in sources().items() if re.match("training/.*/", module)}
    assert {module.split("/")[1] for module in inside} == set(rooms)
    for module, source in inside.items():
        allowed = rooms[: rooms.index(module.split("/")[1]) + 1]
        names = [name for name, _ in imported(source) if name.startswith("deltatune.training.")]
        assert {name.split(".")[2] for name in names} <= set(allowed), module


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


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("from deltatune.data.checks import DataCheck", "from deltatune.data import rows"),
        ("def f():\n    from deltatune.data.checks import DataCheck", "import deltatune.data.rows"),
        ("if TYPE_CHECKING:\n    import deltatune.data.checks", "from deltatune.data.rows import Row"),
        (
            "class A:\n    def f():\n        import deltatune.data.checks",
            "from deltatune.data.rows import Row",
        ),
    ],
)
def test_a_circle_is_found(low: str, high: str) -> None:
    modules = {"data/__init__.py": "", "data/rows.py": low, "data/checks.py": high}
    assert set(circle(modules)) == {"deltatune.data.rows", "deltatune.data.checks"}
    assert not circle({**modules, "data/rows.py": "import numpy"})


def test_the_documented_layers_are_these() -> None:
    """From the top, each row with its layers, and whether they import torch."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.partition("\n| layer |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", table, re.MULTILINE)
    layers = [re.findall(r"`(\w+)/?`", names) for names, _ in rows]
    assert list(chain.from_iterable(reversed(layers))) == SHOWN
    for names, torch in zip(layers, (torch for _, torch in rows), strict=True):
        assert {name in LIGHT for name in names} == {torch == "no"}, names


def test_the_picture_of_layers_is_theirs() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("## The layers")[2].split("```")[1].strip("\n").splitlines()
    rows = [re.match(rf"\s+((?:{'|'.join(SHOWN)}|\s)+)(?=\s|$)", f"{line} ")[1].split() for line in lines]
    assert sorted(chain.from_iterable(rows)) == sorted(SHOWN)
    for above, below in pairwise(rows):
        assert min(map(ORDER.index, above)) > max(map(ORDER.index, below)), (above, below)


def test_nobody_else_asks_which_task_it_is() -> None:
    """No comparison with a task's name outside tasks/, and no name of one, be it in a docstring."""
    names = [name for name, task in TASKS.items() if type(task).__module__.startswith("deltatune.")]
    either = "|".join(map(re.escape, names))
    named = re.compile(rf"(?<![\w-])({'|'.join(name for name in names if '-' in name)})(?![\w-])|"
                       rf"\btask(\.name)?\W{{1,6}}(in\W+)?({either})\b")  # fmt: skip
    mentions = [
        f"{module}: {match[0]}"
        for module, source in sources().items()
        for match in named.finditer(source)
        if not module.startswith("tasks/")
    ]
    assert not mentions, "\n".join(mentions)


def test_source_files_can_be_taken_in() -> None:
    long = [module for module, source in sources().items() if source.count("\n") > LONGEST]
    assert not long, long
