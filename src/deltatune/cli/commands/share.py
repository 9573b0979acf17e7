"""`push` and `pack`: what was trained, for others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deltatune import units
from deltatune.cli import output
from deltatune.cli.options import Json
from deltatune.errors import DeltatuneError


def push(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="USER/NAME", help="The repository on the Hub.", show_default=False)
    ],
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="Licence of the delta: apache-2.0, mit, ...", show_default=False
        ),
    ] = None,
    data_licence: Annotated[
        str | None,
        typer.Option("--data-license", metavar="ID", help="Licence of the data.", show_default=False),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option("--language", metavar="CODE", help="en, de, ...; may be repeated.", show_default=False),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="USER/NAME",
            help="Of a base that is a folder of this machine: the model of the Hub that it copies.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option("--predictions", help="Send the test rows too, with what the model said of each."),
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository that only you and your organisation see.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", help="Default: main.", show_default=False),
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", help="Of the commit.", show_default=False)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the delta in a repository that holds files.")
    ] = False,
    keep_card: Annotated[
        bool, typer.Option("--keep-card", help="With --overwrite: leave the README.md that is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: write what would be sent to --out.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --dry-run: the folder. Default: hub/NAME.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send a run to the Hugging Face Hub: the delta, a model card, its certificate, recipe and result.

    One commit, by the login of huggingface_hub ([bold]hf auth login[/bold]). The card says what was
    measured, with its interval, what it cost, how to use the delta, and its limits. Licences
    are not guessed: say them. Paths and names of this machine are taken out, and what was
    taken out is shown; texts of rows are sent only with [bold]--predictions[/bold].

    [bold]Examples[/bold]
      $ deltatune push out/tables/runs/lora-s0 --to anna/table-titles --dry-run
      $ deltatune push out/tables/runs/lora-s0 --to anna/table-titles --license apache-2.0 --language en
      $ deltatune push out/llama --to anna/llama-chat --base meta-llama/Llama-3.2-1B --private

    peft loads what it knows from there; [bold]hf download[/bold] gives a folder that
    [bold]deltatune predict[/bold], evaluate and merge take as a run.
    """
    if out is not None and not dry_run:
        raise DeltatuneError(
            "is the folder of --dry-run.", field="--out", remedy="Add --dry-run, or leave it out."
        )
    if keep_card and not overwrite:
        raise DeltatuneError(
            "is of use beside --overwrite alone.", field="--keep-card", remedy="Add --overwrite."
        )
    if dry_run and out is None:
        out = Path("hub", to.rpartition("/")[2] or "delta")
    from deltatune.sharing.push import Asked
    from deltatune.sharing.push import push as send

    asked = Asked(
        repo=to,
        base=base,
        licence=licence,
        data_licence=data_licence,
        languages=tuple(language or ()),
        predictions=predictions,
        private=private,
        revision=revision,
        message=message,
        overwrite=overwrite,
        keep_card=keep_card,
    )
    done = send(run, asked, out=out)
    if as_json:
        output.emit_json(done.as_dict())
        return
    output.fields(
        f"{'Sent' if done.sent else 'Would send'} to {done.repo}",
        {
            "commit" if done.sent else "written to": done.where,
            "files": [f"{name}  {units.size(size)}" for name, size in done.files.items()],
            **taken_out(done.scrubbed),
        },
    )
    for note in done.notes:
        output.paragraph(f"Note: {note}", "yellow")


def pack(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The folder of a comparison, or of a run.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="The file. Default: DIR.dtz.", show_default=False),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions/--no-predictions", help="Pack the test rows, with what the models said of each."
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Put a comparison, or a run, into one file for others: all but the weights.

    Recipe, results, certificates, learning curves, predictions and the report, with a
    checksum of each file. Paths and names of this machine are taken out, and what was taken
    out is shown. The test rows are in it unless [bold]--no-predictions[/bold] is given; warnings
    may quote a few rows in any case.

    [bold]Examples[/bold]
      $ deltatune pack out/tables
      $ deltatune pack out/tables tables.zip --no-predictions
      $ deltatune report tables.dtz

    [bold]deltatune report FILE[/bold] checks and opens it; so does [bold]deltatune.open_board[/bold] in a
    notebook. It is a zip archive: report.html in it needs no deltatune.
    """
    from deltatune.sharing.pack import pack as put_together

    done = put_together(folder, out, predictions=predictions, overwrite=overwrite)
    if as_json:
        output.emit_json(done.as_dict())
        return
    output.fields(
        f"Packed {folder}",
        {
            "file": f"{done.path}  {units.size(done.bytes)}",
            "holds": f"{done.files} files of {done.runs} {'run' if done.runs == 1 else 'runs'}, no weights",
            **taken_out(done.scrubbed),
        },
    )
    for name in done.changed:
        output.paragraph(
            f"Warning: {name} is not what was written; the report of the pack says so.", "yellow"
        )


def taken_out(scrubbed: Mapping[str, str]) -> dict[str, list[str]]:
    """What was local, for the user's eyes alone."""
    return {"taken out": [f"{before} -> {after}" for before, after in scrubbed.items()] or ["nothing"]}
