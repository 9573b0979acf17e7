"""`watch`: a comparison or a run while it goes on, as a page that renews itself."""

from __future__ import annotations

import webbrowser
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from deltatune import units
from deltatune.cli import output
from deltatune.cli.options import Json
from deltatune.errors import DeltatuneError

PORT = 8600


def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The folder of a comparison or of a run, which need not be there yet.",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where the page is served; 0: any free port.")
    ] = PORT,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print how far all came, and end; with --json as JSON.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Watch a comparison, or a run, while it goes on: progress, time left, curves, the report so far.

    Serves one page on this machine alone (127.0.0.1), which renews itself. It only
    reads: the runs do not notice. Start it before the comparison or at any time, as
    often as you like; it shows the final report when all runs have ended.

    [bold]Examples[/bold]
      $ deltatune watch out/tables --open
      $ deltatune watch out/tables --once          [dim]# in the terminal[/dim]
      $ deltatune watch out/tables --once --json

    [bold]On another machine[/bold]: ssh -L 8600:127.0.0.1:8600 MACHINE, and the page is at
    http://127.0.0.1:8600/ here. /state.json has the same for programs. Ctrl-C ends it.
    """
    if folder.exists() and not folder.is_dir():
        raise DeltatuneError(
            f"'{folder}' is a file.",
            field="DIR",
            remedy="Name the folder that `deltatune compare ... --out DIR` writes, or that of a run.",
        )
    sets = _sets_in(folder)
    if once or as_json:
        _print(folder, sets, as_json=as_json)
        return
    if sets:
        raise DeltatuneError(
            f"'{folder}' holds several data sets, and a page is of one.",
            field="DIR",
            remedy=f"Name one of its folders, such as '{sets[0]}'; --once prints how far all of them came.",
        )
    from deltatune.watch.server import Server

    with Server(folder, port) as server:
        output.line(f"Watching {folder} at {server.url} (Ctrl-C ends it)")
        if open_:
            webbrowser.open(server.url)
        server.serve_forever()


def _sets_in(folder: Path) -> list[Path]:
    """The comparisons on each data set in the folder of all; none in any other folder."""
    from deltatune.checkpoint.manifest import read_manifest
    from deltatune.results.across import FOLDER, KIND

    known = read_manifest(folder) if folder.is_dir() else None
    if known is None or known.kind != KIND:
        return []
    return sorted(path for path in (folder / FOLDER).glob("*") if path.is_dir())


def _print(folder: Path, sets: list[Path], *, as_json: bool) -> None:
    from deltatune.watch.server import state

    if not sets:
        whole = state(folder)
        output.emit_json(whole) if as_json else _show(whole)
        return
    states = {path.name: state(path) for path in sets}
    if as_json:
        output.emit_json({"sets": states})
        return
    for name, each in states.items():
        output.line(f"Data set {name}", "bold cyan")
        _show(each)


def _show(found: dict[str, Any]) -> None:
    from deltatune.watch.page import roughly

    output.line(found["words"])
    if found["seconds_left"] and not found["over"]:
        left = units.duration(roughly(found["seconds_left"]))
        output.line(f"About {left} of work left, by the steps so far.", "dim")
    for run in found["runs"]:
        if run["phase"] == "waiting":
            continue
        steps = f"{run['step']:,} of {run['steps']:,}" if run["steps"] and run["step"] else ""
        name = " ".join(filter(None, (run["name"], run["variant"])))
        seed = f"seed {run['seed']}" if run["seed"] is not None else ""
        left = units.duration(roughly(run["seconds_left"])) + " left" if run["seconds_left"] else ""
        line = "  ".join(filter(None, (f"{run['phase']:<11}", name, seed, steps, left, run["error"])))
        output.line(line.replace("\n", r"\n"))  # a stranger's folder could write lines of its own
    if waiting := Counter(run["name"] for run in found["runs"] if run["phase"] == "waiting"):
        output.line(f"to come      {', '.join(f'{count} {name}' for name, count in waiting.items())}")
