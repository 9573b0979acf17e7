"""The `deltatune` command: its sub-commands, and what it does with errors."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deltatune import __version__
from deltatune.cli import output
from deltatune.cli.commands import (
    cache,
    chat,
    check,
    compare,
    delta,
    doctor,
    export,
    init,
    plan,
    reference,
    serve,
    share,
    tasks,
    train,
    watch,
)
from deltatune.errors import DeltatuneError, Stopped, StorageError
from deltatune.files import ROOM, disk_error
from deltatune.launched import processes, rank

DEBUG = "DELTATUNE_DEBUG"
SHARED = ("train", "evaluate")
"""Commands that several processes carry out together."""
PACKAGE = Path(__file__).resolve().parents[1]
BY_SIGNAL = 128  # plus the signal's number is what shells show of a process that a signal ended


class Guarded(TyperGroup):
    """Turns exceptions into one paragraph and an exit code.

    2: the user's mistake (`DeltatuneError`); 130, 143, 129: stopped by Ctrl-C, SIGTERM, SIGHUP; 1: a defect,
    whose traceback `--debug` shows.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen sub-command."""
        cause: Exception
        output.errors_as_json("--json" in ctx.args)  # before they are read, which may fail
        try:
            with stoppable():
                done = super().invoke(ctx)
                sys.stdout.flush()  # else a disk without room would be found at the end, by nobody
                return done
        except DeltatuneError as error:
            code, shown, cause = 2, error, error
        except KeyboardInterrupt as stop:
            code = BY_SIGNAL + getattr(stop, "signum", signal.SIGINT)
            with contextlib.suppress(OSError):  # the terminal may be what has gone
                output.interrupted(code)
            raise typer.Exit(code) from None
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # the reader of our output has gone (`| head`), which is not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer.", "click.")):
                output.misused(error)
                raise  # wrong options and the like: typer shows these with the usage
            code, shown = _unforeseen(error)
            cause = error
        if ctx.params.get("debug"):
            output.trace(traceback.format_exception(cause))
        try:
            output.failed(shown, type(cause).__name__, code)
            sys.stdout.flush()
        except OSError:  # stdout is what cannot be written to; without this Python would try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(code) from None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, what schedulers and closing terminals send ends the command as Ctrl-C does.

    The second such signal ends the process at once. One that is ignored, as below `nohup`, stays so.
    """

    def stop(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise Stopped(signum)

    signums = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signums = []
    before = {signum: signal.getsignal(signum) for signum in signums}
    before = {signum: handler for signum, handler in before.items() if handler == signal.SIG_DFL}
    for signum in before:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _unforeseen(error: Exception) -> tuple[int, DeltatuneError]:
    """The exit code, and what to say, of an exception that nobody foresaw."""
    lines = str(error).strip().splitlines()
    first = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
    module = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if module and module != PACKAGE.name:
        install = (
            "pip install torch, the build for your machine" if module == "torch" else f"pip install {module}"
        )
        return 2, DeltatuneError(f"the package {module} cannot be imported ({first}).", remedy=f"{install}.")
    if (number := disk_error(error)) is not None:
        return 2, StorageError(f"cannot write what is printed ({os.strerror(number)}).", remedy=ROOM)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        remedy = "`deltatune plan` says what a recipe takes, and what to change so that it fits."
        return 2, DeltatuneError(f"the memory of this machine does not suffice ({first}).", remedy=remedy)
    frames = traceback.extract_tb(error.__traceback__)
    again = f"Run the command again with {DEBUG}=1 to see where it happened."
    if isinstance(error, NotImplementedError) and frames[-1].filename == str(PACKAGE / "core" / "method.py"):
        what = f"a method does not say how to {frames[-1].name}, which every method must."
        return 2, DeltatuneError(what, remedy=f"Write the function {frames[-1].name} of its class. {again}")
    if theirs := [frame for frame in frames if frame.filename in _methods_of_users()]:
        where = f"{theirs[-1].filename}, line {theirs[-1].lineno}, in {theirs[-1].name}"
        return 2, DeltatuneError(f"{first}. It comes from a method of your own: {where}.", remedy=again)
    what = f"{first}. This is a defect of deltatune or of a library below it."
    return 1, DeltatuneError(what, remedy=again)


def _methods_of_users() -> set[str | None]:
    """Files of the methods that were registered beside ours."""
    registered = getattr(sys.modules.get("deltatune.methods"), "METHODS", None)
    modules = {method.__module__ for method in registered.loaded()} if registered else set()
    return {
        getattr(sys.modules[name], "__file__", None)
        for name in modules
        if name in sys.modules and name.partition(".")[0] != PACKAGE.name
    }


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command explains itself: [bold]deltatune train --help[/bold]. "
    "Start with [bold]deltatune demo[/bold].",
)


def _of_several(command: str) -> None:
    """Let this process be one of several that a launcher started: the first talks for all.

    Raises:
        DeltatuneError: The command is not for several.
    """
    if command not in SHARED and rank() > 0:
        raise typer.Exit(2)  # the first says why
    if command not in SHARED:
        raise DeltatuneError(
            f"`deltatune {command}` runs in one process, and {processes()} were launched.",
            remedy=f"Start it without a launcher; `deltatune compare --workers {processes()}` starts its own."
            if command == "compare"
            else f"Start it without a launcher; {' and '.join(SHARED)} run under one.",
        )
    if rank() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (to the end)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deltatune {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Show the traceback of an error as well.")
    ] = False,
) -> None:
    """Fine-tune a pretrained transformer by training a fraction of a percent of it, and find out which way of doing so is best for your data.

    A [bold]recipe[/bold] (one YAML file) names a task, a model, data and methods. [bold]train[/bold] runs
    one of its methods, [bold]compare[/bold] all of them under equal conditions.

    [bold]Exit codes[/bold]: 0; 2 for a mistake or a failure, told in one paragraph on stderr; 130 interrupted; 1 a defect.
    With [bold]--json[/bold] of a command, stdout holds JSON in any case: its result, or {"error": {...}}.
    DELTATUNE_CACHE names the folder of converted models, DELTATUNE_DEBUG=1 shows tracebacks.
    """  # noqa: E501  (typer takes the first line as a paragraph)
    if processes() > 1:
        _of_several(ctx.invoked_subcommand or "")
    if not debug:
        # loading bars and advice of the libraries below would tear our own progress display
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


TRAIN, LOOK = "Train and compare", "Look and use"
app.command("demo", rich_help_panel=TRAIN)(compare.demo)
app.command("init", rich_help_panel=TRAIN)(init.init)
app.command("check", rich_help_panel=TRAIN)(check.check)
app.command("plan", rich_help_panel=TRAIN)(plan.plan)
app.command("train", rich_help_panel=TRAIN)(train.train)
app.command("compare", rich_help_panel=TRAIN)(compare.compare)
app.command("watch", rich_help_panel=TRAIN)(watch.watch)
app.command("report", rich_help_panel=TRAIN)(compare.report)
app.command("evaluate", rich_help_panel=LOOK)(train.evaluate)
app.command("predict", rich_help_panel=LOOK)(train.predict)
app.command("chat", rich_help_panel=LOOK)(chat.chat)
app.command("serve", rich_help_panel=LOOK)(serve.serve)
app.command("inspect", rich_help_panel=LOOK)(delta.inspect)
app.command("merge", rich_help_panel=LOOK)(delta.merge)
app.command("export", rich_help_panel=LOOK)(export.export)
app.command("push", rich_help_panel=LOOK)(share.push)
app.command("pack", rich_help_panel=LOOK)(share.pack)
app.command("cache", rich_help_panel=LOOK)(cache.show)
app.command("doctor", rich_help_panel=LOOK)(doctor.doctor)
app.command("methods", rich_help_panel=LOOK)(reference.methods)
app.command("tasks", rich_help_panel=LOOK)(tasks.tasks)
app.command("schema", rich_help_panel=LOOK)(reference.schema)
