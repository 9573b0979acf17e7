"""A recipe on disk, a way to call the command in this process, and stand-ins for the library below it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deltatune.cli.app import app

RECIPE = """
task: text-to-text
model: bundled:t5-small
data: {source: rows.jsonl, split: {validation: 0.1, test: 0.1}, columns: {input: table, target: title}}
methods:
  - untuned
  - lora: {r: 4}
    name: lora r4
seeds: [3, 4]
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tables.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    def call(*arguments: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            app([str(argument) for argument in arguments], prog_name="deltatune")
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return call


@dataclass
class Call:
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Call]]:
    """Put a module with this function in the place of the real one; it records its calls."""

    def replace(module_name: str, function: str, result: object = None, **others: object) -> list[Call]:
        calls: list[Call] = []

        def stand_in(*arguments: Any, **options: Any) -> object:
            calls.append(Call(arguments, options))
            if isinstance(result, BaseException):
                raise result
            return result(*arguments, **options) if callable(result) else result

        module = ModuleType(module_name)
        vars(module).update({function: stand_in, **others})
        monkeypatch.setitem(sys.modules, module_name, module)
        return calls

    return replace
