"""Talking to runs, with what is said on stdin."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deltatune as dt
from deltatune.cli.app import app
from deltatune.cli.commands.chat import Voice
from deltatune.printable import printable
from deltatune.runs.chat import Talk
from tests.tasks.test_conversation import chat_folder, chats
from tests.tiny_recipe import t5_folder

__all__ = ["chat_folder", "t5_folder"]


@pytest.fixture(scope="module")
def runs(chat_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on one base."""
    out = tmp_path_factory.mktemp("runs")
    recipe = dt.make_recipe(
        task="conversation",
        model=str(chat_folder),
        data=chats(),
        methods=[{"prompt": {"n_tokens": 3}}, {"lora": {"r": 2}}],
        train={"max_steps": 4, "batch_size": 4},
        evaluation={"metrics": ["loss"], "primary": "loss"},
    )
    for method in ("prompt", "lora"):
        dt.train(recipe, out / method, method=method, quiet=True)
    return [out / "prompt", out / "lora"]


def test_a_conversation_with_two_runs_and_their_base(run: Callable, runs: list[Path]) -> None:
    said = "medals?\n\n/compare\n/switch base\nand songs?\n/switch nobody\n"
    said += "/reset\n/compare\n/what\n/help\n/quit\nmore"
    done = run("chat", *runs, "--max-new-tokens", 6, stdin=said)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "prompt answers; also here: lora, base." in lines[0]
    spoken = [line for line in lines if line.startswith(("prompt: ", "lora: ", "base: "))]
    assert [line.partition(":")[0] for line in spoken] == ["prompt", "base"]
    assert [
        line for line in lines[1:] if all(name in line for name in ("prompt", "lora", "base"))
    ]  # the table
    assert "'nobody' is not here." in done.out
    assert "Say something first." in done.out
    assert "/what is not known." in done.out
    assert done.out.count("/switch NAME") == 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_says_what_it_predicts(run: Callable, runs: list[Path], place: int) -> None:
    folder = runs[place]
    done = run("chat", folder, "--max-new-tokens", 64, "--system", "Be short.", stdin="medals?\n")
    assert done.code == 0, done.err
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "medals?"}]
    [answer] = dt.predict(folder, {"messages": talk})
    shown = done.out.split(f"{folder.name}: ", 1)[1].rstrip("\n").removesuffix(" …")
    assert shown.split() == printable(answer.prediction).split()


def test_what_a_model_says_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say = Voice("run")
    for piece in ("a\x1b[31m", "\u202eb", "[bold]c"):
        say(piece)
    assert capsys.readouterr().out == "run: a\\x1b[31m\\u202eb[bold]c"


def test_what_is_too_long_leaves_the_conversation_as_it_was(run: Callable, runs: list[Path]) -> None:
    done = run("chat", runs[1], "--max-new-tokens", 2, stdin="word " * 999 + "\nmedals?\n")
    assert done.code == 0
    assert "tokens in its last turn, and 512 are allowed" in done.err
    assert done.out.count("lora: ") == 1


def test_ctrl_c_stops_an_answer_and_not_the_talk(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    reply, said = Talk.reply, []

    def interrupted(talk: Talk, *arguments: Any) -> Any:
        said.append([message["content"] for message in talk.messages])
        if talk.messages[-1]["content"] == "songs?":
            raise KeyboardInterrupt
        return reply(talk, *arguments)

    monkeypatch.setattr(Talk, "reply", interrupted)
    monkeypatch.setattr(sys, "stdin", Terminal("songs?\nmedals?\n"))
    with pytest.raises(SystemExit) as stop:
        app(["chat", str(runs[1]), "--max-new-tokens", "2"], prog_name="deltatune")
    assert not stop.value.code
    assert said == [["songs?"], ["medals?"]]
    assert "(stopped; this turn does not count)" in capsys.readouterr().out


def test_bytes_that_are_no_text_leave_the_conversation_as_it_was(run: Callable, runs: list[Path]) -> None:
    said = "h\udcff\nmedals\0?\n/system \udcff\nmedals?\n"
    done = run("chat", runs[1], "--max-new-tokens", 2, stdin=said)
    assert done.code == 0, done.err
    assert done.err.count("what you said: it is not text in UTF-8. Say it in another way.") == 2
    assert "what you said: it holds NUL" in done.err
    assert done.out.count("lora: ") == 1
    refused = run("chat", runs[1], "--system", "\udcff", stdin="medals?\n")
    assert (refused.code, "it is not text in UTF-8" in refused.err) == (2, True)


def test_runs_that_do_not_talk_are_refused(
    run: Callable, t5_folder: Path, tmp_path: Path, runs: list[Path]
) -> None:
    rows = [{"input": f"{number} words", "target": "word"} for number in range(20)]
    recipe = dt.make_recipe(
        task="text-to-text", model=str(t5_folder), data=rows, methods=["lora"], train={"max_steps": 1},
        evaluation={"metrics": ["loss"], "primary": "loss"},
    )  # fmt: skip
    dt.train(recipe, tmp_path / "run", quiet=True)
    done = run("chat", tmp_path / "run", stdin="x\n")
    assert (done.code, "does the task text-to-text, which is no talk" in done.err) == (2, True)
    assert run("chat", runs[0], tmp_path / "run", stdin="x\n").code == 2
