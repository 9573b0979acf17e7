"""`compare`, `report` and `demo`: all methods of a recipe, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli import output
from deltatune.cli.comparing import Way
from deltatune.cli.dry_run import show_plans
from deltatune.cli.engines import require_engine
from deltatune.cli.options import DryRun, Json, Overrides, OwnDevice, Quiet, RecipeFile, Timings, with_device
from deltatune.cli.progress import emit_event, watching
from deltatune.errors import DeltatuneError, nearest
from deltatune.observer import Telling
from deltatune.report import FORMATS

if TYPE_CHECKING:
    from deltatune.observer import Observer
    from deltatune.recipe import Recipe
    from deltatune.results import Leaderboard

DEMO = 'uvx --python 3.13 --torch-backend auto --from "deltatune[demo]" deltatune demo'
"""Runs the demo where nothing is installed but uv: with the torch that suits the machine."""

Anew = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Start anew: first remove what an earlier comparison left in the folder."
    ),
]


def compare(
    recipe: RecipeFile,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the comparison. Default: out/RECIPE.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    device: OwnDevice = None,
    dry_run: DryRun = False,
    overwrite: Anew = False,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Share the folder with every other command that joins, on this machine or on any that sees "
            "the folder: each takes a run that no other works on.",
        ),
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Train by N processes that join: one for each GPU, or each with its part of the cores. "
            "[bold]auto[/bold]: one for each GPU or core, as far as the predicted memory allows.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="[bold]ray[/bold]: train by tasks of a Ray cluster, whose nodes all see the folder.",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of the Ray cluster's head.", show_default=False),
    ] = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="Print progress on stdout, one JSON object per line.", hidden=True),
    ] = False,
    timings: Timings = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    r"""Train every method of a recipe on the same data, order and steps, and rank them honestly.

    A method's rank is 1 + the number of methods that are significantly better.
    A method that fails is a row with its error, and the others go on. Run the
    same command again to continue where it stopped.

    [bold]Choosing settings[/bold], by validation rows and the first seed, never by test rows:
      grid: {r: \[4, 8]}   in an entry: every combination; sample: 8 takes a part
      tune: {lr: 4}       the best of four learning rates for every method
      search: {trials: 40, space: {train.lr: {from: 1e-4, to: 1e-2, scale: log}}}
      halving: auto       stops configurations that fall behind: 27 % of the steps of 30
      budget_time: 20m    beside it: stops as many as it takes to end in that time

    [bold]How many rows, which rank?[/bold] Further runs of the best entry, also when a comparison is done:
      curve: {rows: \[50, 200, 800, all], rank: \[2, 4, 8, 16]}

    [bold]Luck[/bold]: seeds: \[0, 1, 2] shows that of training; splits: 3 draws validation and test rows
    anew for each of three seeds, and shows that of the split as well.

    [bold]Examples[/bold]
      $ deltatune compare recipe.yaml --dry-run
      $ deltatune compare recipe.yaml --out out/tables --set seeds=\[0,1,2]
      $ deltatune compare recipe.yaml --set tune.lr=4
      $ deltatune compare recipe.yaml --join     [dim]# in each of several terminals or jobs[/dim]

    [bold]Files[/bold] in the folder of the comparison:
      report.html       one page: table, curves, cost, examples side by side
      leaderboard.json  ranks, means, intervals, and every pair's difference
      recipe.yaml       the recipe with every default filled in
      runs/             one folder per method and seed, as [bold]train[/bold] writes them
      choosing.json     how far each configuration came that is tuned or halved
      curve.json        what more rows, or a higher rank, would gain
      again.json        scores on validation rows of what other ones would have chosen
      search.db         Optuna's trials of a search

    [bold]Several data sets[/bold], data: \[A, B, C] in the recipe: each is compared in sets/NAME as above;
    report.html and across.json say which method is best over them, and what they tell of
    tasks like these.

    A run that fails, by its certificate or otherwise, has its error in its row while the others
    go on. Exit code: 2 if one failed, 0 if all are done.
    """
    from deltatune.recipe.data_sets import load_sets

    sets = load_sets(recipe, with_device(overrides, device))
    require_engine(engine, address, workers=workers, overwrite=overwrite)
    if dry_run:
        show_plans(sets, as_json=as_json, quiet=quiet, on_ray=bool(engine))
        return
    out = out or Path("out", recipe.stem)
    watched = contextlib.nullcontext(Telling(emit_event)) if events else watching(quiet=quiet)
    way = Way(recipe, overrides or [], join=join, workers=workers, engine=engine, address=address)
    if len(sets) > 1:
        _compare_sets(sets, way, out, watched, overwrite=overwrite, timings=timings, as_json=as_json)
        return
    [loaded] = sets.values()

    def run_all(observer: Observer) -> Leaderboard:
        return way.compare(loaded, out, observer, overwrite=overwrite)

    _compare(run_all, out, watched, timings=timings, as_json=as_json)


def _compare(
    run_all: Callable[[Observer], Leaderboard],
    out: Path,
    watched: AbstractContextManager[Observer],
    *,
    timings: bool,
    as_json: bool,
) -> None:
    from deltatune.cli import show
    from deltatune.report.load import read_curves

    output.resumable_by(f"Run the same command again to continue the comparison in '{out}'.")
    with watched as observer:
        board = run_all(observer)
    curves = read_curves(out)
    if as_json:
        output.emit_json(board.as_dict() | ({"curve": curves.as_dict()} if curves else {}))
    else:
        show.leaderboard(board, out)
        show.curves(curves, board.worth)
        if timings:
            from deltatune.cli.timings import of_comparison

            of_comparison(board, out)
        output.line(f"\nThe report: {out / 'report.html'}")
    if any(row.status == "failed" for row in board.rows) or (curves and curves.failed):
        raise typer.Exit(2)  # so that no script takes it for a whole comparison


def _compare_sets(
    sets: Mapping[str, Recipe],
    way: Way,
    out: Path,
    watched: AbstractContextManager[Observer],
    *,
    overwrite: bool,
    timings: bool,
    as_json: bool,
) -> None:
    output.resumable_by(f"Run the same command again to continue the comparison in '{out}'.")
    from deltatune.report.load import read_curves

    with watched as observer:
        from deltatune.comparison.sets import compare_sets

        result = compare_sets(
            sets,
            out,
            lambda recipe, folder: way.compare(recipe, folder, observer),
            overwrite=overwrite,
            join=way.join,
            observer=observer,
        )
    curves = {each.name: found for each in result.sets if (found := read_curves(out / each.folder))}
    if as_json:
        told = {name: found.as_dict() for name, found in curves.items()}
        output.emit_json(result.as_dict() | ({"curves": told} if told else {}))
    else:
        from deltatune.cli import show_sets

        show_sets.across(result, out)
        show_sets.curves(curves, next(iter(sets.values())).worth)
        if timings:
            from deltatune.cli.timings import of_sets

            of_sets(result, out)
        output.line(f"\nThe report: {out / 'report.html'}")
    failed = any(each.error is not None for row in result.rows for each in row.on_sets)
    for name in (name for name, found in curves.items() if found.failed):
        output.error(f"A point of a curve failed on {name}; its report says why.")
        failed = True
    if failed:
        raise typer.Exit(2)  # so that no script takes it for a whole comparison


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The folder of a comparison (what [bold]compare[/bold] wrote), or a file that "
            "[bold]pack[/bold] wrote.",
            show_default=False,
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"One of {', '.join(FORMATS)}. Default: by the suffix of --out, else html.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write to this file. Default: report.html or charts.png in the folder, or beside the packed "
            "file by its name; the other formats go to stdout.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a comparison again, as a web page or as a table for a paper or a spreadsheet.

    [bold]Examples[/bold]
      $ deltatune report out/tables
      $ deltatune report out/tables --format md > table.md
      $ deltatune report out/tables --format svg > charts.svg
      $ deltatune report out/tables --out charts.png
      $ deltatune report tables.dtz          [dim]# of a packed comparison: writes tables.html[/dim]

    [bold]Files[/bold]: report.html in the folder, one page that needs no network.
    [bold]--json[/bold] prints the leaderboard, as [bold]--format json[/bold] does.
    """
    form = form or (out.suffix.lower().removeprefix(".") if out else "") or "html"
    form = {"htm": "html"}.get(form, form)
    if form not in FORMATS:
        raise DeltatuneError(
            f"{form!r} is not a format of reports.", field="--format", remedy=nearest(form, FORMATS)
        )
    form = "json" if as_json else form
    from deltatune import files
    from deltatune.sharing.pack import opened

    with opened(folder) as unpacked:
        if unpacked.folder != folder and out is None and form in ("html", "png"):
            out = _beside(folder, form)
        if unpacked.kind == "run" and form == "html" and out is not None:
            from deltatune.report.shown import run_page
            from deltatune.training.given.folder import finished_result

            page = run_page(unpacked.folder, finished_result(unpacked.folder))
            files.make_folder(out.parent)
            files.write_text(files.meant(out), page)
            output.line(out)
            return
        _report(unpacked.folder, form, out)


def _report(folder: Path, form: str, out: Path | None) -> None:
    """Write the report of the comparison in a folder."""
    from deltatune import files
    from deltatune.report import render, write_png, write_report

    if form == "html" and out is None:
        output.line(write_report(folder))
        return
    if form == "png":  # no text for a terminal
        path = files.meant(out) if out else folder / "charts.png"
        files.make_folder(path.parent)
        write_png(folder, path)
        output.line(out or path)
        return
    text = render(folder, format=form)
    if out is None:
        output.raw(text)
        return
    files.make_folder(out.parent)
    files.write_text(files.meant(out), text)
    output.line(out)


def _beside(packed: Path, form: str) -> Path:
    """Where the report of a packed comparison goes unless the user says so.

    Raises:
        DeltatuneError: There is a file that is no report.
    """
    out = packed.with_suffix(f".{form}")
    if out.is_symlink() or (out.exists() and (form != "html" or not _is_report(out))):
        raise DeltatuneError(f"'{out}' is there.", field="--out", remedy="Name the file to write with --out.")
    return out


def _is_report(path: Path) -> bool:
    """Whether a page is one of ours."""
    with path.open("rb") as handle:
        return b'<meta name="generator" content="deltatune">' in handle.read(4096)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the comparison.")] = Path("out/demo"),
    show_recipe: Annotated[
        bool, typer.Option("--show-recipe", help="Print the recipe of the demo and stop.")
    ] = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    overwrite: Anew = False,
    timings: Timings = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    r"""Compare LoRA, AdaLoRA, prefix and prompt tuning with an untuned small T5 that gives tables a title.

    Real weights and real tables, both from Python packages (140 MB); three to eight
    minutes on two CPU cores. With uv nothing has to be installed first:
      $ uvx --python 3.13 --torch-backend auto --from "deltatune\[demo]" deltatune demo
    Without uv: [bold]pip install "deltatune\[demo]"[/bold].

    [bold]Examples[/bold]
      $ deltatune demo
      $ deltatune demo --show-recipe > recipe.yaml

    [bold]Files[/bold]: those of [bold]compare[/bold]; open report.html in a browser.
    """
    resource = resources.files("deltatune.cli").joinpath("demo.yaml")
    if show_recipe:
        output.raw(resource.read_text(encoding="utf-8"))
        return
    _require_packages(overrides or [])
    from deltatune.recipe import load_recipe

    with resources.as_file(resource) as path:
        loaded = load_recipe(path, overrides or [])
    if dry_run:
        show_plans({"": loaded}, as_json=as_json, quiet=quiet)
        return

    def run_all(observer: Observer) -> Leaderboard:
        from deltatune.comparison.runner import compare

        return compare(loaded, out, overwrite=overwrite, observer=observer)

    _compare(run_all, out, watching(quiet=quiet), timings=timings, as_json=as_json)


def _require_packages(overrides: list[str]) -> None:
    """Say at once, before torch is imported, what the demo lacks.

    Args:
        overrides: Of the recipe. Another model, or other data, have needs of their own, which are told later.

    Raises:
        DeltatuneError: A package that it reads is not installed.
    """
    from deltatune.data.bundled import TABLES
    from deltatune.models.bundled import BUNDLED_MODELS

    given = {override.partition("=")[0] for override in overrides}
    lacks = [] if given & {"model", "model.name"} else BUNDLED_MODELS.get("t5-small").lacks()
    if not given & {"data", "data.source"} and not find_spec(TABLES):
        lacks.append(TABLES)
    if lacks:
        raise DeltatuneError(
            f"the demo needs packages that are not installed: {', '.join(lacks)}.",
            remedy=f"Run it with uv: {DEMO}; or install them, 140 MB: "
            'pip install "deltatune[demo]" (Python 3.11 to 3.13).',
        )
