"""`deltatune serve` as a process: it starts, says how it is asked, and ends when it is told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import run

__all__ = ["run"]


def test_what_would_be_loaded(run: Callable, runs: dict[str, Path]) -> None:
    done = run("serve", runs["lora"], f"other={runs['prompt']}", "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert [delta["name"] for delta in plan["deltas"]] == ["lora", "other"]
    assert plan["bytes"] == plan["base_bytes"] + sum(delta["bytes"] for delta in plan["deltas"])


def test_what_cannot_start_is_said(run: Callable, runs: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", runs["lora"], "--port", taken.getsockname()[1])
    assert (done.code, "cannot listen at 127.0.0.1" in done.err) == (2, True)
    for option, value in (
        ("--token", ""),
        ("--token", "two words"),
        ("--timeout", "nan"),
        ("--grace", "inf"),
    ):
        done = run("serve", runs["lora"], "--port", 0, option, value)
        assert (done.code, option in done.err) == (2, True), done.err
    done = run("serve", runs["lora"].parent)
    assert (done.code, "is no finished run" in done.err) == (2, True)


@pytest.mark.slow
def test_a_delta_that_cannot_be_loaded_ends_it(run: Callable, runs: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(runs["prompt"], tmp_path / "broken")
    file = broken / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"wrong"[:4])
    done = run("serve", runs["lora"], broken, "--port", 0)
    assert (done.code, "checksum differs" in done.err) == (2, True)


@pytest.mark.slow
def test_it_ends_when_what_runs_is_finished(runs: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "deltatune", "serve", str(runs["lora"]), "--port", "0", "--grace", "20"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("Ready at http://127.0.0.1:"), first
    url = first.split()[2].rstrip(":")
    assert httpx.get(f"{url}/health").json() == {"status": "ready", "models": 2}
    answers: list[httpx.Response] = []
    body = {"model": "lora", "prompt": "a", "max_tokens": 200, "temperature": 5.0}
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=30))
    )
    asking.start()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    asking.join(30)
    assert answers[0].status_code == 200
    assert process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.slow
def test_a_stream_that_outlasts_the_grace_is_told_so(runs: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "deltatune", "serve", str(runs["lora"]), "--port", "0", "--grace", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stdout.readline().split()[2].rstrip(":")
    # More prompts than rows of a pass: some still wait, however fast this machine is.
    body = {"model": "lora", "prompt": ["a"] * 64, "max_tokens": 200, "temperature": 5.0}
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=30))

    def read() -> None:
        single = body | {"prompt": "a", "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=single, timeout=30) as stream:
            answers.append(stream)
            stream.read()

    threads = [threading.Thread(target=each) for each in (ask, ask, ask, read)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for thread in threads:
        thread.join(10)
    assert len(answers) == 4
    assert all("stopping" in answer.text for answer in answers[-2:]), [answer.text for answer in answers]
    assert "Traceback" not in process.stderr.read()
