"""`train`, `evaluate` and `predict`: one run, and what it has learned."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli import output, show
from deltatune.cli.options import (
    DryRun,
    Json,
    Overrides,
    Overwrite,
    Quiet,
    RecipeFile,
    RunFolder,
    TrustRemoteCode,
)
from deltatune.cli.progress import watching
from deltatune.errors import DeltatuneError, RecipeError, nearest

if TYPE_CHECKING:
    from deltatune.evaluate import Prediction
    from deltatune.recipe import MethodEntry, Recipe


def train(
    recipe: RecipeFile,
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
    dry_run: DryRun = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue an interrupted run exactly where its last checkpoint stands."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one method of a recipe and evaluate it on the test rows.

    [bold]Examples[/bold]
      $ deltatune train recipe.yaml --method lora --dry-run
      $ deltatune train recipe.yaml -m lora --set train.lr=3e-4 --out runs/lr3e-4

    [bold]Files[/bold] in the folder of the run:
      recipe.yaml        the recipe with every default filled in
      result.json        metrics, cost, versions, hashes of model and data
      metrics.jsonl      loss and validation results, step by step
      predictions.jsonl  every test row with input, reference and prediction
      certificate.json   what was proved: targets, taps, gradients, reload, base unchanged
      adapter/           the delta; peft can load it if peft has the method

    Ctrl-C leaves a run that [bold]--resume[/bold] continues.
    """
    from deltatune.recipe import load_recipe

    # As an override, so that it is held to what the recipe allows.
    loaded = load_recipe(recipe, [*(overrides or []), *([] if seed is None else [f"seeds=[{seed}]"])])
    entry = choose(loaded, method)
    chosen_seed = loaded.seeds[0]
    if dry_run:
        from deltatune.train import plan

        with watching(quiet=quiet) as observer:
            planned = plan(loaded, entry, chosen_seed, observer=observer)
        output.emit_json(planned) if as_json else show.plan(entry.name, planned)
        return
    from deltatune.train import run

    folder = out or Path("out", recipe.stem, "runs", f"{entry.slug}-s{chosen_seed}")
    output.resumable_by(f"Add --resume to the same command to continue the run in '{folder}'.")
    with watching(quiet=quiet) as observer:
        result = run(
            loaded, entry, chosen_seed, folder, resume=resume, overwrite=overwrite, observer=observer
        )
    if as_json:
        output.emit_json(result)
        return
    show.result(result)
    output.line(f"\nThe run is in {folder}")


def choose(recipe: Recipe, name: str | None) -> MethodEntry:
    """Return the recipe's entry called `name`, or its only one.

    Raises:
        RecipeError: There is no such entry, or several and no name.
    """
    if name is not None:
        return recipe.entry(name)
    if len(recipe.methods) == 1:
        return recipe.methods[0]
    raise RecipeError(
        f"the recipe has {len(recipe.methods)} methods and train runs one.",
        field="--method",
        remedy=f"Name one of: {', '.join(entry.name for entry in recipe.methods)}. "
        "Or run them all with `deltatune compare`.",
    )


def evaluate(
    run: RunFolder,
    split: Annotated[
        str, typer.Option("--split", help="The rows to evaluate on: train, validation or test.")
    ] = "test",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a finished run again, from its saved delta.

    Text is scored as the model generates it; classes are by the head's logits.

    [bold]Examples[/bold]
      $ deltatune evaluate out/tables/runs/lora-s0
      $ deltatune evaluate out/tables/runs/lora-s0 --split validation --json

    Writes nothing. The run's own test metrics are in its result.json.
    """
    if split not in ("train", "validation", "test"):
        raise DeltatuneError(
            f"{split!r} is not a part of the data.",
            field="--split",
            remedy=nearest(split, ("train", "validation", "test")),
        )
    from deltatune.runs import evaluate_run

    with watching(quiet=quiet) as observer:
        found = evaluate_run(run, split=split, trust_remote_code=trust_remote_code, observer=observer)
    output.emit_json(found) if as_json else show.metrics(f"{run}, {split} rows", found)


def predict(
    run: RunFolder,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Texts, or image files for a model of images."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Read inputs from this file, one a line.", show_default=False),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Use a trained run: print one prediction a line.

    Inputs are arguments, the lines of [bold]--file[/bold], or the lines of stdin. They
    go through the recipe's template: give what its input column holds, or, if it
    names several columns, an object in JSON with them.

    [bold]Examples[/bold]
      $ deltatune predict out/tables/runs/lora-s0 "0 Country: Russia, Cost: 42$"
      $ deltatune predict out/xray/runs/lora-s0 scan1.png scan2.png --json
      $ deltatune predict out/demo/runs/lora-s0 '{"name": "Rulers", "table": "0 Name: Ivan"}'
      $ deltatune predict out/tables/runs/lora-s0 < tables.txt > titles.txt

    With [bold]--json[/bold] every line is an object with id, input, prediction, scores.
    Without it, a line break within a prediction is printed as a space.
    """
    given = _inputs(inputs, file)
    from deltatune.runs import predict as predictions

    for prediction in predictions(run, given, trust_remote_code=trust_remote_code):
        if as_json:
            output.emit_json(_record(prediction), indent=None)
        else:
            sys.stdout.write(" ".join(prediction.prediction.splitlines()) + "\n")
        sys.stdout.flush()


def _record(prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "input": prediction.input,
        "prediction": prediction.prediction,
        "stopped": prediction.stopped,
        "scores": prediction.scores,
    }


def _inputs(arguments: list[str] | None, file: Path | None) -> Iterable[str]:
    """Where the inputs come from; a terminal's stdin does not count, the command would seem to hang."""
    if arguments and file:
        raise DeltatuneError(
            "inputs are given both as arguments and as a file.", field="--file", remedy="Give one of the two."
        )
    if arguments:
        return arguments
    if file:
        try:
            return file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DeltatuneError(
                f"cannot read '{file}': {reason}.",
                field="--file",
                remedy="Give a text file, one input a line.",
            ) from error
    if sys.stdin.isatty():
        raise DeltatuneError(
            "there is nothing to predict.",
            field="INPUT",
            remedy="Give inputs as arguments, with --file, or on stdin, one a line.",
        )
    return _lines()


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.rstrip("\r\n")
