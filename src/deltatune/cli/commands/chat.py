"""`chat`: talking to runs in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from deltatune.cli import output
from deltatune.cli.options import Base, Device, TrustRemoteCode
from deltatune.errors import DataError, nearest
from deltatune.printable import printable

if TYPE_CHECKING:
    from deltatune.runs.chat import Reply, Talk

HELP = """\
/switch NAME   let another run answer from now on, or the plain base
/compare       the answers of all to what you said last, side by side
/system TEXT   begin anew, with this system message
/reset         begin anew
/help          this list
/quit          end"""


def chat(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs on one base.", show_default=False),
    ],
    most: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Where an answer is cut off.")] = 256,
    system: Annotated[
        str | None, typer.Option("--system", help="A system message to begin with.", show_default=False)
    ] = None,
    base: Base = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to a run in the terminal; to several runs, and to their plain base.

    What you write is a turn of the user's; the run answers, greedily, as it does in an
    evaluation, and reads all that was said before. Runs share the base, which is loaded
    once. Without a terminal, each line of stdin is a turn.

    [bold]Examples[/bold]
      $ deltatune chat out/chats/runs/lora-s0
      $ deltatune chat out/chats/runs/lora-s0 out/chats/runs/ia3-s0 --system "Be short."
      $ echo "What is LoRA?" | deltatune chat out/chats/runs/lora-s0

    [bold]While it runs[/bold]: /switch NAME, /compare, /system TEXT, /reset, /help, /quit.
    Ctrl-C stops an answer; where none is being written, it ends the talk.
    """
    from deltatune.recipe.given import Given
    from deltatune.runs.chat import Talk

    console = output.stderr()
    console.print(output.text(f"Loading {', '.join(map(str, runs))}", "dim"))
    talk = Talk(runs, trust_remote_code=trust_remote_code, given=Given(base=base), device=device)
    others = ", ".join(talk.names[1:])
    output.line(f"{talk.speaker} answers; also here: {others}. /help shows what you can do.", "dim")
    talk.begin(system)
    for said in _turns():
        try:
            if not said.startswith("/"):
                _told(talk, talk.say(said, most, Voice(talk.speaker)))
            elif not _obey(talk, said, most):
                return
        except DataError as error:  # the conversation is as it was, and goes on
            output.error(output.describe(error))
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            output.line(" (stopped; this turn does not count)", "dim")


def _turns() -> Iterator[str]:
    """What the user writes, turn by turn, until the end of the input."""
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except EOFError:
            return
        if not sys.stdin.isatty() and not line:
            return
        if line.strip():
            yield line.strip()


def _obey(talk: Talk, said: str, most: int) -> bool:
    """Do what a line with a slash asks for; False: end."""
    command, _, rest = said.partition(" ")
    rest = rest.strip()
    if command == "/quit":
        return False
    if command == "/help":
        output.line(HELP)
    elif command == "/reset":
        talk.begin(None)
        output.line("The conversation begins anew.", "dim")
    elif command == "/system":
        talk.begin(rest or None)
        output.line("The conversation begins anew.", "dim")
    elif command == "/switch":
        _switch(talk, rest)
    elif command == "/compare":
        _compare(talk, most)
    else:
        output.line(f"{command} is not known.\n{HELP}", "yellow")
    return True


def _switch(talk: Talk, name: str) -> None:
    if name not in talk.names:
        output.line(f"{name!r} is not here. {nearest(name, talk.names)}", "yellow")
        return
    talk.speaker = name
    output.line(f"{name} answers.", "dim")


def _compare(talk: Talk, most: int) -> None:
    if not any(message["role"] == "user" for message in talk.messages):
        output.line("Say something first.", "yellow")
        return
    table = Table(expand=True, header_style="bold cyan")
    for name in talk.names:
        table.add_column(output.text(name), ratio=1, overflow="fold")
    replies = [talk.reply(name, most, lambda _: None) for name in talk.names]
    table.add_row(*(output.text(reply.text + ("" if reply.stopped else " …")) for reply in replies))
    output.stdout().print(table)


class Voice:
    """Prints an answer as it is written, behind its speaker's name."""

    def __init__(self, name: str) -> None:
        self._console, self._begun, self._name = output.stdout(), False, name

    def __call__(self, piece: str) -> None:
        """Print a piece."""
        if not self._begun:
            self._console.print(output.text(f"{self._name}: ", "bold cyan"), end="", soft_wrap=True)
            self._begun = True
        self._console.print(printable(piece), end="", soft_wrap=True)


def _told(talk: Talk, reply: Reply) -> None:
    """End the line, and say what the answer does not show."""
    output.line("" if reply.stopped else " …")
    if reply.cut:
        output.line("(the oldest turns were left out: data.max_input_tokens)", "dim")
