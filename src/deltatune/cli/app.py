"""The `deltatune` command: its sub-commands, and what it does with errors."""

from __future__ import annotations

import os
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deltatune import __version__
from deltatune.cli import output
from deltatune.cli.commands import check, compare, delta, plan, reference, train
from deltatune.errors import DeltatuneError

DEBUG = "DELTATUNE_DEBUG"
INTERRUPTED = 130  # what shells expect of a process that ended by SIGINT


class Guarded(TyperGroup):
    """Turns exceptions into one paragraph and an exit code.

    2: the user's mistake (`DeltatuneError`); 130: interrupted; 1: a defect, whose traceback `--debug` shows.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen sub-command."""
        cause: Exception
        try:
            return super().invoke(ctx)
        except DeltatuneError as error:
            code, message, cause = 2, output.describe(error), error
        except KeyboardInterrupt:
            output.interrupted()
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # the reader of our output has gone (`| head`), which is not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer.", "click.")):
                raise  # wrong options and the like: typer shows these with the usage
            code, message, cause = 1, _defect(error), error
        if ctx.params.get("debug"):
            output.trace(traceback.format_exception(cause))
        output.error(message)
        raise typer.Exit(code) from None


def _defect(error: Exception) -> str:
    """What to say about an exception that nobody foresaw."""
    lines = str(error).strip().splitlines()
    first = f": {lines[0]}" if lines else ""
    return (
        f"{type(error).__name__}{first}. This is a defect of deltatune or of a library below it. "
        f"Run the command again with {DEBUG}=1 to see where it happened."
    )


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command explains itself: [bold]deltatune train --help[/bold]. "
    "Start with [bold]deltatune demo[/bold].",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deltatune {__version__}")
        raise typer.Exit


@app.callback()
def root(
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
    """  # noqa: E501  (typer takes the first line as a paragraph)
    if not debug:
        # loading bars and advice of the libraries below would tear our own progress display
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


TRAIN, LOOK = "Train and compare", "Look and use"
app.command("demo", rich_help_panel=TRAIN)(compare.demo)
app.command("check", rich_help_panel=TRAIN)(check.check)
app.command("plan", rich_help_panel=TRAIN)(plan.plan)
app.command("train", rich_help_panel=TRAIN)(train.train)
app.command("compare", rich_help_panel=TRAIN)(compare.compare)
app.command("report", rich_help_panel=TRAIN)(compare.report)
app.command("evaluate", rich_help_panel=LOOK)(train.evaluate)
app.command("predict", rich_help_panel=LOOK)(train.predict)
app.command("inspect", rich_help_panel=LOOK)(delta.inspect)
app.command("merge", rich_help_panel=LOOK)(delta.merge)
app.command("methods", rich_help_panel=LOOK)(reference.methods)
app.command("schema", rich_help_panel=LOOK)(reference.schema)
