"""Help and version are quick because they import nothing heavy: shown in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import deltatune

HEAVY = ("torch", "transformers", "accelerate", "numpy", "pandas", "jinja2", "deltatune.results")


def loaded_after(code: str) -> set[str]:
    probe = f"import json, sys\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{probe}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def command(*arguments: str) -> str:
    """Code that runs the command in its process and goes on after it."""
    return (
        "import sys\nfrom deltatune.cli import main\n"
        f"sys.argv = ['deltatune', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import deltatune; dir(deltatune); deltatune.__version__") == set()


def test_the_probe_sees_a_heavy_import() -> None:
    assert "numpy" in loaded_after("import numpy")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("train", "--help"), ("demo", "--show-recipe"), ()]
)
def test_help_and_version_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = command(*arguments) if arguments else "import deltatune.cli.app"
    assert loaded_after(code) == set()


def test_the_demo_says_what_it_lacks_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        f"import os, sys\nos.environ['DELTATUNE_CACHE'] = {str(tmp_path)!r}\n"
        "from deltatune.cli.commands import compare\nfrom deltatune.models.bundled import source\n"
        "compare.find_spec = source.find_spec = lambda name: None\n"
        "from deltatune.cli import main\nsys.argv = ['deltatune', 'demo']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 2, stop.code"
    )
    assert "torch" not in loaded_after(code)


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in deltatune.__all__ if getattr(deltatune, name, None) is None] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Lora'"):
        _ = deltatune.Lora


def test_the_module_is_a_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deltatune", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"deltatune {deltatune.__version__}\n"
