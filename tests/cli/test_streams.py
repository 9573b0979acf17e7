"""Streams that are closed, full, or of another encoding: an answer in words, and never a defect."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from deltatune.cli import app, output

COMMAND = f"{sys.executable} -m deltatune"


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    return subprocess.run(
        ["/bin/sh", "-c", line], env=environment | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("options", ["", pytest.param("--json", marks=pytest.mark.slow)])
def test_no_room_for_what_is_printed(options: str) -> None:
    done = shell(f"{COMMAND} methods {options} > /dev/full")
    assert done.returncode == 2, done.stderr
    assert "cannot write what is printed (No space left on device)" in done.stderr
    assert "Make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


def test_streams_that_are_closed() -> None:
    assert shell(f"{COMMAND} methods >&-").returncode == 0
    assert shell(f"{COMMAND} methods nothing 2>&-").returncode == 2
    done = shell(f"{COMMAND} predict nowhere <&-")
    assert done.returncode == 2
    assert "defect" not in done.stderr


def test_letters_that_the_terminal_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    output.ready()
    output.emit_json({"prediction": "caf\u00e9 \U0001f600"}, indent=None)
    output.line("caf\u00e9")
    stream.flush()
    first, second = stream.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert json.loads(first) == {"prediction": "caf\u00e9 \U0001f600"}
    assert second == "caf\\xe9"


def test_warnings_of_libraries_move_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    output.ready()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning("taking the base '\x1b[31m\u202e'", UserWarning, "x.py", 1)
    told = capsys.readouterr().err
    assert "\\x1b[31m\\u202e" in told
    assert "\x1b" not in told


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 TB")],
)
def test_too_little_memory_is_no_defect(error: Exception) -> None:
    code, shown = app._unforeseen(error)
    assert code == 2
    assert "the memory of this machine does not suffice" in shown.what
    assert shown.remedy is not None
    assert "deltatune plan" in shown.remedy
