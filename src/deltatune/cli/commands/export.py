"""`export`: what a run has learned, in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli import output
from deltatune.cli.options import (
    AdapterRecipe,
    AdapterTask,
    Base,
    Device,
    Json,
    Labels,
    Quiet,
    RunFolder,
    TrustRemoteCode,
    labels_of,
)
from deltatune.errors import DeltatuneError

if TYPE_CHECKING:
    from deltatune.results import Exported


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the export.", show_default=False)],
    target: Annotated[
        str,
        typer.Option("--as", metavar="TARGET", help="What to make of it; see below.", show_default=False),
    ],
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Of a LoRA: its largest rank.", show_default="16"),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SHARE",
            help="Of a LoRA: the least rank that holds this share of each update's energy, such as 99%.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="Type of the weights that are written, by the target's own names.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            metavar="N",
            help="Measure the run's metric on so many test rows; 0 for none.",
            show_default="all",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what [bold]export[/bold] wrote to the folder.")
    ] = False,
    base: Base = None,
    task: AdapterTask = None,
    labels: Labels = None,
    recipe: AdapterRecipe = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write what a run has learned in a form that other programs read, and measure what that loses.

    [bold]Targets[/bold]
      merged  a plain Transformers model, as [bold]deltatune merge[/bold] writes it

    [bold]Examples[/bold]
      $ deltatune export out/tables/runs/dora-s0 merged --as merged

    [bold]Files[/bold]: those of the target, export.json (what was kept and what was lost), certificate.json.
    """
    if not dry_run and not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeltatuneError(
            f"'{out}' exists and is not an empty folder.",
            field="OUT",
            remedy="Choose another folder; with --overwrite what `export` wrote is replaced.",
        )
    from deltatune.cli.progress import watching
    from deltatune.exporting.export import export as write
    from deltatune.exporting.export import share
    from deltatune.exporting.target import Settings
    from deltatune.recipe.given import Given

    settings = Settings(rank=rank, keep=None if keep is None else share(keep), dtype=dtype, rows=rows)
    with watching(quiet=quiet) as observer:
        done = write(
            run,
            out,
            target=target,
            settings=settings,
            dry_run=dry_run,
            given=Given(base, task, labels_of(labels), recipe=recipe),
            device=device,
            trust_remote_code=trust_remote_code,
            observer=observer,
        )
    output.emit_json(done.as_dict()) if as_json else _show(done)


def _show(done: Exported) -> None:
    """Print what was written, in words."""
    output.fields(f"Exported {done.run} as {done.target}", done.as_dict())
