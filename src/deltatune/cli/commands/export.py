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
    from deltatune.results import Exported, ExportedSite, KeptMetric


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
      lora       plain LoRA of any method that changes weights, in peft's format
      peft       the run's own delta in peft's format, where peft has the method; prompts too
      vllm       a LoRA that vLLM and SGLang serve: one rank, no biases, nothing saved whole
      merged     a plain Transformers model, as [bold]deltatune merge[/bold] writes it
      gguf       base and delta as a file for llama.cpp (f32, f16, bf16, q8_0), a Modelfile for Ollama
      gguf-lora  the delta alone as LoRA for llama.cpp, beside a GGUF file of the base
      onnx       an encoder or a model of images, for ONNX Runtime

    [bold]Examples[/bold]
      $ deltatune export out/tables/runs/dora-s0 lora --as lora --rank 16
      $ deltatune export out/tables/runs/full-s0 lora --as lora --keep 99% --dry-run
      $ deltatune export out/chat/runs/lora-s0 served --as vllm
      $ deltatune export out/tables/runs/dora-s0 merged --as merged
      $ deltatune export out/chat/runs/lora-s0 for-ollama --as gguf --dtype q8_0
      $ deltatune export out/sst/runs/lora-s0 classifier --as onnx

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
    from deltatune import units
    from deltatune.cli.show import sites
    from deltatune.models.labels import named
    from deltatune.report import display

    lines: dict[str, object] = {"method": done.method, "base": done.base}
    if done.sites:
        ranks = sorted({site.rank for site in done.sites})
        span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        size = units.size(sum(4 * site.rank * sum(site.shape) for site in done.sites))
        lines["low-rank updates"] = f"{len(done.sites)} layers, rank {span}, {size}"
        lines["kept"] = f"{_share(done.kept)} of the energy of the updates"
    if done.sites and not done.folder:
        lines["by layer"] = [_site(site) for site in done.sites]
    for name, paths in (("saved whole", done.whole), ("biases", done.biases)):
        if paths:
            lines[name] = sites(paths)
    if done.left_out:
        lines["left out"] = [f"{part.parameter}: {part.why}" for part in done.left_out]
    for each in done.compared:
        lines[f"logits in {each.computed_by}"] = (
            f"differ by up to {each.largest_difference:.3g}; the delta moves them by up to {each.effect:.3g} "
            f"({each.on})"
        )
    if done.metric:
        lines[display.style(done.metric.metric).label] = _kept(done.metric)
    lines |= {name: named(value) if name == "labels" else value for name, value in done.details.items()}
    if done.notes:
        lines["notes"] = done.notes
    lines["verdict"] = _verdict(done)
    head = f"Exported {done.run} as {done.target} to {done.folder}"
    output.fields(head if done.folder else f"{done.run} as {done.target} (dry run)", lines)


def _site(site: ExportedSite) -> str:
    """`encoder.0.query  384 x 384  rank 16 of 384  91.2 %`."""
    needed = "" if site.needed is None else f" of {site.needed}"
    shape = " x ".join(map(str, site.shape))
    return f"{site.path}  {shape}  rank {site.rank}{needed}  {_share(site.kept)}"


def _share(kept: float) -> str:
    """`all`, or percents with as many digits as tell it from all."""
    if kept > 1 - 1e-9:
        return "all"
    digits = next((n for n in range(1, 8) if float(f"{100 * kept:.{n}f}") < 100), 8)
    return f"{100 * kept:.{digits}f} %"


def _kept(metric: KeptMetric) -> str:
    """`0.91 -> 0.90 (-0.01, 95 % interval -0.02 to 0.00, 500 test rows)`."""
    interval = "" if metric.low is None else f", 95 % interval {metric.low:+.3g} to {metric.high:+.3g}"
    return (
        f"{metric.before:.4g} -> {metric.after:.4g} ({metric.difference:+.3g}{interval}, "
        f"{metric.rows} test rows)"
    )


def _verdict(done: Exported) -> str:
    """Whether anything was lost."""
    if done.exact:
        return "exact: it computes what the run does, to rounding."
    metric, raised = done.metric, f"{'raise --rank or --keep' if done.sites else 'take a wider --dtype'}."
    if any(2 * each.largest_difference > each.effect for each in done.compared):
        return f"not exact: outputs are off by more than half of what the delta does; {raised}"
    if metric is None or metric.low is None or metric.high is None:
        return "not exact: see what is kept."
    if metric.low == metric.high == 0:
        return f"not exact, and {metric.metric} is the same on every test row."
    if metric.low <= 0 <= metric.high:
        return f"not exact; that {metric.metric} differs is not shown by these test rows."
    return f"not exact, and {metric.metric} differs by more than chance; {raised}"
