"""Commands to which something happens at the N-th change of their files: see `What`.

Python's audit hooks tell of every opening for writing, renaming, removing and making of folders before it is
done. A server that has imported everything forks a process for each command, which spares the seconds of
imports: `Commands` starts it, `python -m tests.faults.points` is it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

MAKING = ("os.mkdir", "sqlite3.connect")
CHANGES = (*MAKING, "os.rename", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class What:
    """What happens to a command."""

    at: int = 0
    """The change of a file below the folder at which it happens, before that is done; 0: never."""
    signum: int = signal.SIGKILL
    """The signal that comes then."""
    after: float = 0.0
    """Seconds by which it comes later, whatever is done then: SQLite and safetensors tell of no change."""
    full: bool = False
    """Instead of a signal: from then on there is no room for new files."""
    file_limit: int | None = None
    """No file may have more bytes."""


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    code: int
    """Of exit; negative for the signal that ended it."""
    changes: int
    text: str
    """What it printed."""


class Commands:
    """The server, to be used as a context."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._log = folder / "printed.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.points", str(self._log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __call__(self, folder: Path, *arguments: object, what: What | None = None) -> Outcome:
        """Run `deltatune ARGUMENTS`, counting the changes below `folder`."""
        return self._ask(folder, arguments, what or What(), rehearsed=False)

    def rehearse(self, folder: Path, *arguments: object) -> Outcome:
        """Run it in the server itself, so that those that follow find all that it imports and builds."""
        return self._ask(folder, arguments, What(), rehearsed=True)

    def _ask(self, folder: Path, arguments: tuple[object, ...], what: What, *, rehearsed: bool) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "folder": os.path.realpath(folder),
            "arguments": [str(argument) for argument in arguments],
            "what": asdict(what),
            "rehearsed": rehearsed,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code, changes = json.loads(self._process.stdout.readline())
        return Outcome(code, changes, self._log.read_text(encoding="utf-8", errors="replace"))


class _Hook:
    def __init__(self, folder: str, what: What, counted: Any) -> None:
        self.folder, self.what, self.counted, self.count = folder, what, counted, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            makes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not makes:
                return
        elif event in CHANGES:
            makes = event in MAKING
        else:
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.count += 1
        os.pwrite(self.counted, str(self.count).encode(), 0)
        if self.what.full and makes and self.count >= self.what.at > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if not self.what.full and self.count == self.what.at:
            if self.what.after:  # of which the signal is SIGALRM, that nobody handles: it kills likewise
                signal.setitimer(signal.ITIMER_REAL, self.what.after)
            else:
                os.kill(os.getpid(), self.what.signum)


def _command(arguments: list[str]) -> int:
    from deltatune.cli import main

    sys.argv = ["deltatune", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return int(code)


def _child(request: dict[str, Any], counted: int) -> None:
    what = What(**request["what"])
    if what.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (what.file_limit, what.file_limit))
    # torch makes its pool anew at its first use in a forked process, and not safely: of threads that load a
    # model at once, one may find none ("Invalid thread pool!").
    torch.set_num_threads(1)
    sys.addaudithook(_Hook(request["folder"], what, counted))
    os._exit(_command(request["arguments"]))


def serve(log: str) -> None:
    """Fork a process for each request on stdin, and write how it ended to stdout."""
    import deltatune.cli.app
    import deltatune.comparison.runner
    import deltatune.runs  # noqa: F401

    # What commands import on their way: each process would do so again.
    for name in (
        "optuna.storages._rdb.storage", "accelerate", "sacrebleu", "rouge_score.rouge_scorer",
        "torch._dynamo", "transformers.models.auto.modeling_auto",
        "transformers.models.t5.modeling_t5",
        "transformers.models.t5.tokenization_t5", "deltatune.report.html",
    ):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    for line in requests:
        gc.collect()
        gc.freeze()  # else the first collection in a process writes to all of its parent's memory
        request = json.loads(line)
        os.truncate(log, 0)
        if request["rehearsed"]:
            answer = [_command(request["arguments"]), 0]
        else:
            counted = os.memfd_create("changes")
            process = os.fork()
            if process == 0:
                _child(request, counted)
            _, status = os.waitpid(process, 0)
            answer = [os.waitstatus_to_exitcode(status), int(os.pread(counted, 20, 0) or b"0")]
            os.close(counted)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
