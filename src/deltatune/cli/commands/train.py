"""`train`, `evaluate` and `predict`: one run, and what it has learned."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli import output
from deltatune.cli.options import (
    AdapterRecipe,
    AdapterTask,
    Base,
    Device,
    DryRun,
    Json,
    Labels,
    Overrides,
    Overwrite,
    OwnDevice,
    Quiet,
    RunFolder,
    Timings,
    TrustRemoteCode,
    labels_of,
    with_device,
)
from deltatune.cli.progress import watching
from deltatune.errors import DeltatuneError, RecipeError, nearest

if TYPE_CHECKING:
    from deltatune.observer import Observer
    from deltatune.recipe import Recipe
    from deltatune.runs.inputs import Asked
    from deltatune.training import Context


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="The recipe, a YAML file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the run. Default: out/RECIPE/runs/METHOD-sSEED.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Name of the entry of the recipe's [bold]methods[/bold]; needed if there are several.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Default: the recipe's first seed.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    device: OwnDevice = None,
    dry_run: DryRun = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue an interrupted run exactly where its last checkpoint stands."
        ),
    ] = False,
    extend: Annotated[
        Path | None,
        typer.Option(
            "--extend",
            metavar="RUN",
            help="Instead of a recipe: continue this finished run as a new run in --out, with its recipe "
            "and its rows. train.epochs counts the epochs to add (default: as many as it had).",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    timings: Timings = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one method of a recipe and evaluate it on the test rows.

    [bold]Examples[/bold]
      $ deltatune train recipe.yaml --method lora --dry-run
      $ deltatune train recipe.yaml -m lora --set train.lr=3e-4 --out runs/lr3e-4
      $ deltatune train --extend runs/lr3e-4 --set train.epochs=2 --out runs/longer

    [bold]Files[/bold] in the folder of the run:
      recipe.yaml        the recipe with every default filled in
      result.json        metrics, cost, versions, hashes of model and data
      metrics.jsonl      loss and validation results, step by step
      predictions.jsonl  every test row with input, reference and prediction
      certificate.json   what the run proved: targets, taps, gradients, reload, base unchanged
      adapter/           the delta; peft can load it if peft has the method

    Ctrl-C, SIGTERM and SIGHUP leave a run that [bold]--resume[/bold] continues, and
    end with 130, 143 and 129. The second of them ends at once.

    [bold]--extend[/bold] loads the delta of the finished run. The optimizer starts anew, and the
    learning rate is scheduled over the added steps, so the result differs from one longer
    training. The finished run stays as it is.
    """
    # As an override, so that it is held to what the recipe allows.
    changes = [*with_device(overrides, device), *([] if seed is None else [f"seeds=[{seed}]"])]
    loaded = _trained(recipe, extend, changes, trust_remote_code=trust_remote_code)
    entry = loaded.chosen(method, field="--method")
    chosen_seed = loaded.seeds[0]
    from deltatune.cli import show

    if dry_run:
        from deltatune.training import plan

        with watching(quiet=quiet) as observer:
            context = _extending(loaded, chosen_seed, observer) if extend else None
            planned = plan(loaded, entry, chosen_seed, observer=observer, context=context)
        output.emit_json(planned) if as_json else show.plan(entry.name, planned)
        return
    from deltatune.results import RunResult
    from deltatune.training import run

    if out is None and recipe is None:
        raise RecipeError("needs a folder for the new run.", field="--extend", remedy="Name one with --out.")
    folder = out or Path("out", Path(str(recipe)).stem, "runs", f"{entry.slug}-s{chosen_seed}")
    output.resumable_by(f"Add --resume to the same command to continue the run in '{folder}'.")
    with watching(quiet=quiet) as observer:
        context = _extending(loaded, chosen_seed, observer) if extend else None
        result = run(
            loaded, entry, chosen_seed, folder,
            resume=resume, overwrite=overwrite, observer=observer, context=context,
        )  # fmt: skip
    assert isinstance(result, RunResult)  # nothing pauses it
    if as_json:
        output.emit_json(result.as_dict())
        return
    show.result(result)
    if timings:
        from deltatune.cli.timings import of_run

        of_run(result)
    output.line(f"\nThe run is in {folder}")


def _trained(
    recipe: Path | None, extend: Path | None, changes: list[str], *, trust_remote_code: bool
) -> Recipe:
    """The recipe of a file, or that of a finished run which is extended."""
    from deltatune.recipe import load_recipe

    if (recipe is None) == (extend is None):
        raise RecipeError(
            "there is nothing to train." if recipe is None else "it stands beside --extend.",
            field="RECIPE",
            remedy="Give a recipe, or with --extend a finished run to go on from.",
        )
    if extend is not None:
        from deltatune.training.given.extend import extension

        return extension(extend, changes, trust_remote_code=trust_remote_code)
    assert recipe is not None
    if trust_remote_code:
        raise RecipeError(
            "is for --extend: a recipe of your own says it itself.",
            field="--trust-remote-code",
            remedy="Write model: {name: ..., trust_remote_code: true}.",
        )
    return load_recipe(recipe, changes)


def _extending(recipe: Recipe, seed: int, observer: Observer) -> Context:
    from deltatune.training.given.extend import open_extension

    return open_extension(recipe, recipe.methods[0], seed, observer)


def evaluate(
    run: RunFolder,
    split: Annotated[
        str, typer.Option("--split", help="The rows to evaluate on: train, validation or test.")
    ] = "test",
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Write one line per row to this file, by its id, like the run's predictions.jsonl.",
            show_default=False,
        ),
    ] = None,
    base: Base = None,
    task: AdapterTask = None,
    labels: Labels = None,
    recipe: AdapterRecipe = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a finished run again, from its saved delta.

    Text is scored as the model generates it; classes are by the head's logits.

    [bold]Examples[/bold]
      $ deltatune evaluate out/tables/runs/lora-s0
      $ deltatune evaluate out/tables/runs/lora-s0 --split validation --json
      $ deltatune evaluate ./peft-adapter --base ./llama --recipe tables.yaml

    Writes nothing but the file of [bold]--predictions[/bold]. The run's own test metrics are in its
    result.json. The data are read from where the run's recipe says they are. An adapter
    without a run, such as peft's, is evaluated on the data of [bold]--recipe[/bold].
    """
    if split not in ("train", "validation", "test"):
        raise DeltatuneError(
            f"{split!r} is not a part of the data.",
            field="--split",
            remedy=nearest(split, ("train", "validation", "test")),
        )
    from deltatune.cli import show
    from deltatune.recipe.given import Given
    from deltatune.runs import evaluate_run

    with watching(quiet=quiet) as observer:
        found = evaluate_run(
            run,
            split=split,
            predictions=predictions,
            trust_remote_code=trust_remote_code,
            given=Given(base, task, labels_of(labels), recipe=recipe),
            device=device,
            observer=observer,
        )
    output.emit_json(found) if as_json else show.metrics(f"{run}, {split} rows", found)


def predict(
    run: RunFolder,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Texts, or image files for a model of images."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read inputs from this file (.jsonl, .json, .csv, .tsv, else text, one per line) or from a "
            "folder of images.",
            show_default=False,
        ),
    ] = None,
    base: Base = None,
    task: AdapterTask = None,
    labels: Labels = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="For an adapter without a run: what the model reads, with {input} for an input (the "
            "default) or {column}.",
            show_default=False,
        ),
    ] = None,
    recipe: AdapterRecipe = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Use a trained run: print one JSON object per input, each on a line, in their order.

    Inputs are arguments, the rows of [bold]--file[/bold], or the lines of stdin. They go
    through the recipe's template: a text is what its input column holds; rows of
    JSON and CSV have columns, and so has a text that is an object in JSON, if the
    template names several. Image files are named by themselves, by a folder, or in a
    column image, file or path. A line ends at a line feed and nowhere else.

    [bold]Examples[/bold]
      $ deltatune predict out/tables/runs/lora-s0 "0 Country: Russia, Cost: 42$"
      $ deltatune predict out/demo/runs/lora-s0 '{"name": "Rulers", "table": "0 Name: Ivan"}'
      $ deltatune predict out/tables/runs/lora-s0 --file rows.csv > titles.jsonl
      $ deltatune predict out/xray/runs/lora-s0 --file scans/
      $ deltatune predict out/tables/runs/lora-s0 < tables.txt | jq -r .prediction
      $ deltatune predict ./peft-adapter --base ./llama --template "Title: {input}" < tables.txt

    [bold]Each line[/bold] has id, input and prediction. Texts also have stopped (whether the model
    ended the text), classes their probabilities, tagged words the entities (spans) with
    their characters. Embedded texts have id, input and vector.
    The id comes from the recipe's id column, where the input has it, else it is the
    input's number, from 0; an image in a folder has its path there. An input that cannot
    be used gives a line with id, input and error, and the others go on.

    Exit code: 0, or 2 if an input could not be used. [bold]--json[/bold] changes how errors are
    printed; the lines are JSON without it.
    """
    given = _inputs(inputs, file)
    from deltatune.recipe.given import Given
    from deltatune.runs import predict as predictions
    from deltatune.runs.asking import line_of

    said = Given(base, task, labels_of(labels), template, recipe)
    count = failed = 0
    for prediction in predictions(run, given, trust_remote_code=trust_remote_code, given=said, device=device):
        record = line_of(prediction)
        count, failed = count + 1, failed + ("error" in record)
        output.emit_json(record, indent=None)
        sys.stdout.flush()
    if failed:
        raise DeltatuneError(
            f"{failed} of {count} inputs could not be used.",
            field="INPUT",
            remedy="Their lines say why, by the key error.",
        )


def _inputs(arguments: list[str] | None, file: Path | None) -> Iterable[Asked] | Path:
    """Where the inputs come from; a terminal's stdin does not count, the command would seem to hang."""
    if arguments and file:
        raise DeltatuneError(
            "inputs are given both as arguments and as a file.", field="--file", remedy="Give one of the two."
        )
    if arguments:
        return arguments
    if file:
        return file
    if sys.stdin.isatty():
        raise DeltatuneError(
            "there is nothing to predict.",
            field="INPUT",
            remedy="Give inputs as arguments, with --file, or on stdin, one per line.",
        )
    return _lines()


def _lines() -> Iterator[Asked]:
    from deltatune.runs.inputs import lines

    if isinstance(sys.stdin, io.TextIOWrapper):  # lines are those of a file, whatever the platform's rules
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    yield from lines(sys.stdin)
