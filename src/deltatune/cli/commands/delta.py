"""`inspect` and `merge`: what is in a saved delta, and how it becomes a plain model."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli import output
from deltatune.cli.options import AdapterTask, Base, Device, Json, Labels, TrustRemoteCode, labels_of
from deltatune.errors import DeltatuneError


def inspect(
    folder: Annotated[
        Path, typer.Argument(help="A run, or a folder with a saved delta (peft's too).", show_default=False)
    ],
    base: Base = None,
    task: AdapterTask = None,
    labels: Labels = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show what a saved delta is: method, base model, tensors, size, and whether it is undamaged.

    It shows the certificate as well: what the run proved. For a run it also shows
    what using it would load, read and run on this machine: look there first if a
    stranger made it. It reads only files; it loads no base model and runs no code.
    With [bold]--base[/bold] it loads that model, to see whether an adapter without a run fits it.

    [bold]Examples[/bold]
      $ deltatune inspect out/tables/runs/lora-s0
      $ deltatune inspect ./some-peft-adapter --json
      $ deltatune inspect ./some-peft-adapter --base ./llama

    Writes nothing.
    """
    from deltatune.cli import show
    from deltatune.recipe.given import Given
    from deltatune.runs import inspect as look

    given = Given(base, task, labels_of(labels))
    found = look(folder, given=given, trust_remote_code=trust_remote_code)
    output.emit_json(found.as_dict()) if as_json else show.delta(str(folder), found)


DENSITY = 0.2


class Dtype(StrEnum):
    """Types of merged weights."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Rule(StrEnum):
    """How the deltas of several runs are combined."""

    linear = "linear"
    ties = "ties"
    dare = "dare"


def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="One run, several of one base, or adapters without a run (peft's).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged model.", show_default=False)],
    rule: Annotated[
        Rule, typer.Option("--rule", help="How several runs are combined: a weighted sum, TIES or DARE.")
    ] = Rule.linear,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="W,W",
            help="A factor for each run; by default their mean.",
            show_default=False,
        ),
    ] = None,
    density: Annotated[
        float, typer.Option("--density", help="Share of each update that ties and dare keep.")
    ] = DENSITY,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that [bold]merge[/bold] wrote to the folder.")
    ] = False,
    dtype: Annotated[
        Dtype,
        typer.Option("--dtype", help="Type of the weights that are written; fp32 rounds nothing."),
    ] = Dtype.fp32,
    base: Base = None,
    task: AdapterTask = None,
    labels: Labels = None,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Fold a delta into its base and write a plain Transformers model that needs no deltatune.

    It works for methods that change weights: LoRA and its relatives, ia3, oft, full and
    others, not prompts, prefixes and bottleneck adapters. It compares the outputs of
    both models and reports the largest difference. It fails if rounding does not explain
    the difference, or if the difference is half of what the delta does. It refuses a
    [bold]--dtype[/bold] that would round the delta away or that a weight is too large for.

    Several runs of low-rank methods on one base are combined first.

    [bold]Examples[/bold]
      $ deltatune merge out/tables/runs/lora-s0 --out merged
      $ deltatune merge out/a out/b --weights 0.7,0.3 --out merged
      $ deltatune merge out/a out/b --rule ties --out merged
      $ deltatune merge out/tables/runs/lora-s0 --out merged --dtype bf16
      $ deltatune merge out/sst/runs/full-s0 --out merged --overwrite --json
      $ deltatune merge ./peft-adapter --base ./llama --out merged

    [bold]Files[/bold]: a folder as save_pretrained writes it, with the tokenizer or image processor and
    certificate.json: what was checked of the delta and of merging it.
    """
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeltatuneError(
            f"'{out}' exists and is not an empty folder.",
            field="--out",
            remedy="Choose another folder; with --overwrite a model that `merge` wrote is replaced.",
        )
    first, *others = runs
    factors = None if weights is None else _numbers(weights)
    combining = {
        "--weights": weights is not None,
        "--rule": rule != Rule.linear,
        "--density": density != DENSITY,
    }
    for option, given in combining.items():
        if given and not others:
            raise DeltatuneError(
                "it says how several runs are combined, and one is given.",
                field=option,
                remedy="Leave it out, or name the other runs.",
            )
    from deltatune.recipe.given import Given
    from deltatune.runs import merge as fold

    done = fold(
        first,
        out,
        others=others,
        rule=rule.value,
        weights=factors,
        density=density,
        dtype=dtype.value,
        trust_remote_code=trust_remote_code,
        given=Given(base, task, labels_of(labels)),
        device=device,
    )
    title = f"Merged {', '.join(map(str, runs))}"
    output.emit_json(done.as_dict()) if as_json else output.fields(title, done.as_dict())


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise DeltatuneError(
            f"{text!r} is no list of numbers.", field="--weights", remedy="Write them as 0.5,0.5."
        )
    return numbers
