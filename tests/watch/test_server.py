"""The watch over HTTP: to this machine's own browser, and to nobody else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltatune.cli.app import app
from deltatune.errors import DeltatuneError
from deltatune.watch.server import Server

from .under_way import write_log, write_under_way


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    with Server(write_under_way(tmp_path / "out"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(
    server: Server, path: str = "/", host: str | None = None, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_an_unchanged_folder_is_not_sent_again(served: Server) -> None:
    status, headers, page = ask(served)
    assert status == 200
    assert "120 of 400" in page
    assert ask(served, If_None_Match=headers["ETag"])[::2] == (304, "")
    write_log(served.path / "runs" / "lora-s0", 130)
    served.pages._next = 0.0
    status, _, page = ask(served, If_None_Match=headers["ETag"])
    assert status == 200
    assert "130 of 400" in page


def test_the_policy_lets_only_our_script_run_and_only_ask_us(served: Server) -> None:
    _, headers, page = ask(served)
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert policy.endswith("'; connect-src 'self'; base-uri 'none'; form-action 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example", ""]
)
def test_other_names_for_this_machine_are_refused(served: Server, host: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=20)
    connection.putrequest("GET", "/", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 421
    assert b"lora" not in answer.read()
    assert ask(served, host=f"LOCALHOST:{served.server_port}")[0] == 200


def test_there_is_nothing_but_the_page_and_its_state(served: Server) -> None:
    for path in ("/recipe.yaml", "/../recipe.yaml", "/runs/lora-s0/metrics.jsonl", "/%2e%2e/"):
        assert ask(served, path)[0] == 404
    assert ask(served, method="POST")[0] == 501
    assert ask(served, method="HEAD")[2] == ""
    state = json.loads(ask(served, "/state.json")[2])
    assert state["words"] == "1 of 6 runs done, 1 at work."
    assert [run["step"] for run in state["runs"] if run["phase"] == "training"] == [120]


def test_it_listens_on_this_machine_alone(served: Server) -> None:
    assert served.server_address[0] == "127.0.0.1"


def test_a_port_in_use_and_a_file_are_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DeltatuneError, match="another program has it"):
            Server(tmp_path, taken.getsockname()[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        app(["watch", str(tmp_path / "file")], prog_name="deltatune")
    assert stop.value.code == 2


def test_once_prints_how_far_all_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_under_way(tmp_path / "out")
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit):
            app(["watch", str(folder), "--once", *flags], prog_name="deltatune")
        printed = capsys.readouterr().out
        assert "120" in printed
        assert "<script>" in printed  # as it is
        assert "\u202e" not in printed
    assert json.loads(printed)["steps"] == 1600
    (tmp_path / "strange" / "runs" / "a\ndone lora").mkdir(parents=True)
    with pytest.raises(SystemExit):
        app(["watch", str(tmp_path / "strange"), "--once"], prog_name="deltatune")
    assert r"a\ndone lora" in capsys.readouterr().out  # the name of a folder writes no line


@pytest.mark.slow
def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deltatune", "watch", str(tmp_path / "none"), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    assert "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "Interrupted.\n"
