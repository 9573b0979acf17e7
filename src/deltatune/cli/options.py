"""Options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli import output

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="The folder of a run (what [bold]train[/bold] wrote).",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the recipe, e.g. [bold]train.lr=3e-4[/bold]. May be repeated.",
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help='Print the result as JSON on stdout, or an error as {"error": {...}}; progress goes to stderr.',
        callback=output.errors_as_json,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress; warnings and errors remain.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check the recipe, load the data and the model, print the plan (what would be trained, "
        "where, for how many steps), and stop. Writes nothing.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that comes with the run's model. What the run's own recipe says does not "
        "count; [bold]deltatune inspect[/bold] shows what it wants.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what is in the output folder; without it that is refused."),
]
