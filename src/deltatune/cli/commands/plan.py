"""`plan`: whether it will fit, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from deltatune import units
from deltatune.cli import output
from deltatune.cli.options import Json, Overrides, OwnDevice, Quiet, with_device
from deltatune.cli.progress import watching
from deltatune.cli.to_come import curves
from deltatune.errors import DeltatuneError

if TYPE_CHECKING:
    from deltatune.recipe import Recipe
    from deltatune.results import Plan, PlannedEntry

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_TIMES = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_COLUMNS = ("weights", "delta", "gradients", "optimizer", "activations", "logits", "temporary", "total")


def plan(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="The recipe, a YAML file.", show_default=False),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            help="Ask about this published model, such as llama-65b, instead of the recipe's; no data are "
            "read then. Without a recipe: full fine-tuning, LoRA and QLoRA of it.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--budget-memory",
            metavar="SIZE",
            help="Propose settings that stay within it, such as 16GiB. Default: what this machine has.",
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--budget-time",
            metavar="TIME",
            help="Say how many steps fit into it, such as 1h, and propose no more; implies --calibrate.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Time a few steps of a small model first, to estimate times."),
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=2, help="How many share the base of an entry with train.shard."
        ),
    ] = 2,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", metavar="FILE", help="Write the table as a chart (SVG).", show_default=False),
    ] = None,
    overrides: Overrides = None,
    device: OwnDevice = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict what each entry of a recipe takes, and whether it fits, before a weight is loaded.

    The trainer's own step runs on tensors that have sizes but no data, with the
    largest micro-batch of the data. The table shows the bytes in use at the peak, by
    what they are for, the parameters that are trained and stored, and the work per step.

    [bold]Examples[/bold]
      $ deltatune plan recipe.yaml
      $ deltatune plan recipe.yaml --budget-memory 16GiB --budget-time 1h
      $ deltatune plan --shape llama-65b
      $ deltatune plan recipe.yaml --shape llama-7b --set train.precision=bf16 --chart memory.svg

    Sizes of a [bold]--shape[/bold] come from the recipe's max_input_tokens and max_target_tokens.
    For an entry that does not fit, it lists what to change, each change with its effect.
    Libraries and a GPU's context are not in the table; they count as 1 GiB.
    It reads the configuration, the tokenizer and the data, and writes nothing but the chart.
    Exit code: 2 if an entry cannot be planned.
    """
    limit = None if memory is None else _size(memory)
    seconds = None if time is None else _seconds(time)
    sets = _recipes(recipe, shape, with_device(overrides, device))
    if chart is not None and len(sets) > 1:
        raise DeltatuneError(
            f"is of one plan, and the recipe has {len(sets)} data sets.",
            field="--chart",
            remedy='Leave it out, or give one section by --set "data={source: FILE, ...}".',
        )
    from deltatune.training.before.forecast import forecast

    plans = {}
    for name, loaded in sets.items():
        with watching(quiet=quiet) as observer:
            plans[name] = planned = forecast(
                loaded, shape=shape, memory=limit, seconds=seconds, calibrate=calibrate, processes=processes,
                observer=observer,
            )  # fmt: skip
        if chart is not None:
            _draw(planned, chart)
        if as_json:
            continue
        if len(sets) > 1:
            output.line(f"Data set {name}\n", "bold cyan")
        _show(planned, proposing=limit is not None)
        if chart is not None:
            output.line(f"\nThe chart: {chart}")
    if as_json:
        told = {name: each.as_dict() for name, each in plans.items()}
        output.emit_json({"sets": told} if len(sets) > 1 else told[""])
    if any(each.unplanned for each in plans.values()):
        raise typer.Exit(2)


def _recipes(path: Path | None, shape: str | None, overrides: list[str]) -> dict[str, Recipe]:
    """By the name of each data set its recipe; one alone has none."""
    from deltatune.recipe import parse_recipe
    from deltatune.recipe.data_sets import load_sets

    if path is not None:
        return load_sets(path, overrides)
    if shape is None:
        raise DeltatuneError(
            "there is nothing to plan.",
            field="RECIPE",
            remedy="Give a recipe, or a published model by --shape.",
        )
    from deltatune.memory.shapes import shape_recipe

    return {"": parse_recipe(shape_recipe(shape), overrides)}


def _size(text: str) -> int:
    """Bytes of `16GiB`, `24GB` or `800 MB`.

    Raises:
        DeltatuneError: It is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] not in _UNITS or not float(match[1]):
        raise DeltatuneError(f"{text!r} is no size.", field="--budget-memory", remedy="Write 16GiB or 24GB.")
    return int(float(match[1]) * _UNITS[match[2]])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)\s*", text.lower())
    if not match or not float(match[1]):
        raise DeltatuneError(f"{text!r} is no time.", field="--budget-time", remedy="Write 90s, 20min or 1h.")
    return float(match[1]) * _TIMES[match[2]]


def _show(found: Plan, *, proposing: bool) -> None:
    console = output.stdout()
    done = found.planned
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("method", *_COLUMNS, "fits"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for entry in done:
        sizes = [units.size(getattr(entry.memory, part)) for part in _COLUMNS]
        table.add_row(*map(output.text, [entry.name, *sizes, "yes" if entry.fits else "no"]))
    console.print(table)
    console.print()
    work = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    timed = any(entry.step_seconds is not None for entry in done)
    headings = ("method", "base", "micro-batch", "trained", "of", "stored", "file", "work per step", "steps")
    for heading in (*headings, *(("mean step", "training") if timed else ())):
        work.add_column(heading, justify="left" if heading in ("method", "base", "micro-batch") else "right")
    for entry in done:
        work.add_row(*map(output.text, _work(entry, timed=timed)))
    console.print(work)
    for entry in done:
        if entry.start is not None:
            output.line(f"\n{entry.name} starts from {entry.start}")
    _explain(found, proposing=proposing)


def _work(entry: PlannedEntry, *, timed: bool) -> list[str]:
    batch, steps = entry.micro_batch, entry.steps
    length = f"{batch.length}" + (f" + {batch.target_length}" if batch.target_length else "")
    rows = f"{batch.rows}" + (f" x {length}" if batch.length else "")
    base = entry.precision + (", checkpointing" if entry.checkpointing else "")
    cells = [
        entry.name,
        base,
        rows + (f", {entry.micro_batches} per step" if entry.micro_batches > 1 else ""),
        units.number(entry.trained_parameters),
        units.number(entry.total_parameters),
        units.number(entry.stored_parameters),
        units.size(entry.file_bytes),
        units.work(entry.flops),
        units.number(steps),
    ]
    if timed:
        cells += [units.duration(entry.step_seconds), units.duration(entry.seconds)]
    return cells


def _explain(found: Plan, *, proposing: bool) -> None:
    from deltatune.results import PlannedEntry

    limit, machine = units.size(found.limit_bytes), found.machine
    where = "The budget is" if proposing else f"This machine ({machine.device}) has"
    sizes = {
        "data": "Sizes are those of the data's largest micro-batch.",
        "limits": "Sizes are the recipe's limits.",
    }
    if any(entry.step_seconds is not None for entry in found.planned):
        sizes["data"] += (
            " Times are of training alone, without evaluation, by the mean length of the data's steps."
        )
    overhead = units.size(found.overhead_bytes)
    text = f"\n{where} {limit}; libraries and other things that are no tensors take {overhead} of it."
    output.paragraph(f"{text} {sizes[found.lengths]}")
    if found.shape is not None:
        output.paragraph(found.shape)
    _say_disk(found)
    for sentence in curves(found.curve):
        output.paragraph(f"{sentence}.")
    for entry in found.entries:
        if isinstance(entry, PlannedEntry):
            _advise(entry)
        else:
            output.error(f"{entry.name}: {entry.error}")


def _say_disk(found: Plan) -> None:
    """How much is written, by a run of the entry that writes most and by all runs."""
    runs = [entry.disk for entry in found.planned]
    if not runs:
        return
    largest, all_runs = max(runs, key=lambda disk: disk.most), found.disk
    kept = f", {units.size(largest.kept)} the frozen layers' cache" if largest.kept else ""
    if largest.checkpoints:
        kept += f", {units.size(largest.checkpoints)} the deltas of checkpoints"
    text = (
        f"Disk: a run writes {units.size(largest.most)} at most. {units.size(2 * largest.state)} of it is "
        f"the state for resuming (two copies while it is replaced){kept}. {units.size(largest.left)} stay."
    )
    if all_runs.runs > 1:
        text += (
            f" A comparison of its {all_runs.runs} runs writes {units.size(all_runs.most)} at most, "
            f"and leaves {units.size(all_runs.left)}."
        )
    output.paragraph(text)


def _advise(entry: PlannedEntry) -> None:
    """What to change, if the entry does not fit; how many steps fit into the time."""
    name = entry.name
    if entry.processes > 1:
        output.line(
            f"{name}: each of {entry.processes} processes, which share the base's layers (--processes)."
        )
    if entry.padding is not None and entry.padding.packed:
        output.line(f"{name}: padding {entry.padding.text}.")
    if entry.bf16_bytes is not None:
        sixteen = units.size(entry.bf16_bytes)
        output.line(
            f"{name}: {sixteen} with --set train.precision=bf16; float32 is faster here (deltatune doctor)."
        )
    if entry.lr_because is not None:
        output.line(f"{name}: peak learning rate {entry.lr:g} ({entry.lr_because}).")
    if entry.steps_in_time is not None:
        output.line(f"{name}: about {entry.steps_in_time:,} steps fit into the time.")
    proposal = entry.proposal
    if not entry.fits:
        output.line(f"\n{name} does not fit. Each change alone comes to:", "bold")
        for change in entry.changes or []:
            total = units.size(change.total)
            note = f"({change.note}{'; fits' if change.fits else ''})"
            text = f"{total:>9}  {_set(change.settings)}  {note}"
            output.line(f"  {text}")
        if proposal is None:
            output.line("  Nothing that plan tries makes it fit; take a smaller model or another method.")
    if proposal is not None and proposal.settings:
        takes = units.size(proposal.total)
        if proposal.step_seconds is not None:
            takes += f" and {units.duration(proposal.step_seconds)} per step"
        text = f"Proposed for {name}, {takes}: {_set(proposal.settings)}"
        output.line(text)


def _set(settings: dict[str, Any]) -> str:
    """Settings as options of the command line."""
    return " ".join(
        f"--set {key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in settings.items()
    )


def _draw(found: Plan, path: Path) -> None:
    from deltatune.files import make_folder, meant, write_text
    from deltatune.report.plan import memory_chart

    make_folder(path.parent)
    write_text(meant(path), memory_chart(found))
