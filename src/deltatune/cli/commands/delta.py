"""`inspect` and `merge`: what is in a saved delta, and how it becomes a plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli import output, show
from deltatune.cli.options import Json, Overwrite, RunFolder
from deltatune.errors import DeltatuneError


def inspect(
    folder: Annotated[
        Path, typer.Argument(help="A run, or a folder with a saved delta (peft's too).", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Show what a saved delta is: method, base model, tensors, size, and whether it is undamaged.

    Reads only the files of the delta; the base model is not loaded.

    [bold]Examples[/bold]
      $ deltatune inspect out/tables/runs/lora-s0
      $ deltatune inspect ./some-peft-adapter --json

    Writes nothing.
    """
    from deltatune.checkpoint.store import inspect as look

    found = look(folder)
    output.emit_json(found) if as_json else show.delta(str(folder), found)


def merge(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged model.", show_default=False)],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fold a delta into its base and write a plain Transformers model that needs no deltatune.

    Possible for methods that change weights (lora, adalora, full); prompts and
    prefixes are no weights. The outputs of both models are compared, and the
    largest difference is reported.

    [bold]Examples[/bold]
      $ deltatune merge out/tables/runs/lora-s0 --out merged
      $ deltatune merge out/sst/runs/full-s0 --out merged --overwrite --json

    [bold]Files[/bold]: a folder as save_pretrained writes it, with the tokenizer or image processor.
    """
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeltatuneError(
            f"'{out}' exists and is not an empty folder.",
            field="--out",
            remedy="Choose another folder, or add --overwrite.",
        )
    from deltatune.runs import merge as fold

    done = fold(run, out)
    output.emit_json(done) if as_json else output.fields(f"Merged {run}", done)
