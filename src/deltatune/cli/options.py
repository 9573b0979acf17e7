"""Options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli import output
from deltatune.errors import DeltatuneError

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="The folder of a run (what [bold]train[/bold] wrote), or of an adapter without one (peft's).",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="For an adapter without a run, such as peft's: its base, a folder or a name. Default: the one "
        "that the adapter names.",
        show_default=False,
    ),
]
AdapterTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="For an adapter without a run: its task, where its task_type does not tell.",
        show_default=False,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,...",
        help="For a classifier's adapter without a run: its classes in the order of its head, where the base "
        "does not name them.",
        show_default=False,
    ),
]
AdapterRecipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="For an adapter without a run: a recipe whose task, data and evaluation sections hold.",
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
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where to compute: auto (the first GPU, else the CPU), cpu, cuda, cuda:1, xpu (Intel's GPUs) or "
        "mps (Apple's).",
    ),
]
OwnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="As --set device=NAME: auto, cpu, cuda, cuda:1, xpu (Intel's GPUs) or mps (Apple's).",
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
Timings = Annotated[
    bool,
    typer.Option(
        "--timings",
        help="Show where the time went: each phase in seconds, and its share. result.json has it as well.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that comes with the run's model. The run's own recipe cannot allow it; "
        "[bold]deltatune inspect[/bold] shows what it asks for.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what is in the output folder. Without it nothing is replaced."),
]


def with_device(overrides: list[str] | None, device: str | None) -> list[str]:
    """The overrides of a recipe with what `--device` says."""
    return [*(overrides or []), *([] if device is None else [f"device={device}"])]


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """The names in the value of `--labels`.

    Raises:
        DeltatuneError: They are not two different names or more.
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise DeltatuneError(
            f"{text!r} is no list of different names.",
            field="--labels",
            remedy="Write them as negative,positive.",
        )
    return names
