"""`init`: from somebody's data to a first recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli import output
from deltatune.cli.options import Json, Quiet
from deltatune.cli.progress import watching
from deltatune.errors import DeltatuneError
from deltatune.printable import printable
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.starting.look import Look
    from deltatune.starting.propose import Proposal

AUTO = "auto"
_SHOWN = 12


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def init(
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="CSV, TSV, JSON (lines), Parquet, CoNLL, a folder of images or tables, hub:ID, bundled:NAME",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", metavar="NAME", help="What shall be learned; auto: as the columns tell.")
    ] = AUTO,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The base: bundled:NAME, a folder, an id of the Hub. Default: a small one for the task.",
            show_default=False,
        ),
    ] = None,
    read: Annotated[
        str | None,
        typer.Option("--input", metavar="COLUMN", help="The column that is read.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="COLUMN",
            help="The column that is learned; A,B,... for several labels.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the recipe if it is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at your data and write a first recipe, with the reason for each choice beside it.

    On a terminal it asks what it cannot tell; elsewhere, and with [bold]--yes[/bold], it takes what the
    columns tell, and names the option that it needs where they do not. The recipe is tried as
    [bold]check[/bold] does before it is written: what is written, [bold]check[/bold] accepts.

    [bold]Examples[/bold]
      $ deltatune init
      $ deltatune init --data reviews.csv --yes
      $ deltatune init --data chats.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --out chats.yaml
      $ deltatune init --data pets/ --yes --json
      $ deltatune init --data notes.csv --input body --target kind

    [bold]Files[/bold]: the recipe. Nothing is written if anything is wrong, or on Ctrl-C.
    """
    asking = not yes and not as_json and on_terminal()
    try:
        _init(data, task, model, read, target, out, asking=asking, force=force, as_json=as_json, quiet=quiet)
    except typer.Abort:  # Ctrl-C or Ctrl-D at a question
        raise KeyboardInterrupt from None


def _init(
    data: str | None,
    task: str,
    model: str | None,
    read: str | None,
    target: str | None,
    out: Path,
    *,
    asking: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    if data is None and not asking:
        raise DeltatuneError("no data are named.", field="--data", remedy="Add --data FILE.")
    if not asking:
        _require_free(out, force=force)
    from deltatune import files
    from deltatune.starting.propose import Named
    from deltatune.starting.sketch import proposal_of, sketch

    look = _ask_for_data() if data is None else _looked(data, quiet=quiet or as_json)
    named = Named(read, target)
    if asking:
        _show(look)
        proposal = _ask_for_task(look, task, named)
        model = model or _ask_for_model(proposal.task)
        out = out if force else _ask_for_place(out)
    else:
        proposal = proposal_of(look, task, named)
    with watching(quiet=quiet or as_json) as observer:
        made = sketch(look, proposal, model, out.absolute().parent, observer=observer)
    files.make_folder(out.parent)
    files.write_text(files.meant(out), made.text)
    again = [f"deltatune {command} {shlex.quote(str(out))}" for command in ("check", "plan", "compare")]
    if as_json:
        told: dict[str, Any] = {
            "recipe": str(out),
            "task": proposal.task,
            "why": proposal.why,
            "model": made.recipe.model.name,
            "rows": look.rows,
            "methods": list(made.methods),
            "steps": made.steps,
            "tried": made.untried is None,
            "untried": made.untried,
            "warnings": list(made.warnings),
            "next": again,
        }
        output.emit_json(told)
        return
    output.fields(
        f"Wrote {out}",
        {
            "task": f"{proposal.task}: {proposal.why}",
            "model": made.recipe.model.name,
            "rows": _rows(look),
            "methods": ", ".join(made.methods),
            "a run": f"about {made.steps:,} steps",
            "tried": "as check does" if made.untried is None else f"without the model: {made.untried}",
        },
    )
    for warning in made.warnings:
        output.paragraph(f"Warning: {warning}", "yellow")
    output.line("\nNext", "bold")
    for command, why in zip(
        again, ("what the model reads and learns", "memory and time", "train and rank"), strict=True
    ):
        output.line(f"  {command:<40} # {why}")


def _require_free(out: Path, *, force: bool) -> None:
    """Refuse to replace a recipe.

    Raises:
        DeltatuneError: There is one, and the user did not say so.
    """
    if out.is_dir() or (not force and (out.exists() or out.is_symlink())):
        raise DeltatuneError(
            f"'{out}' is {'a folder' if out.is_dir() else 'there'}.",
            field="--out",
            remedy="Name another file, or replace it with --force.",
        )


def _ask(text: str, **settings: Any) -> str:
    """Ask on stderr; what others named is shown harmless."""
    return str(typer.prompt(printable(text), err=True, **settings)).strip()


def _say(text: str) -> None:
    console = output.stderr()
    console.print(output.text(text), soft_wrap=True)


def _ask_for_data() -> Look:
    from deltatune.starting.sketch import looked

    while True:
        name = _ask("Which data? A file, a folder, hub:ID or bundled:NAME")
        try:
            return looked(name)
        except DeltatuneError as error:
            output.error(output.describe(error))


def _looked(data: str, *, quiet: bool) -> Look:
    from deltatune.starting.sketch import looked

    with watching(quiet=quiet) as observer:
        observer.stage(f"Looking at {data}")
        return looked(data)


def _show(look: Look) -> None:
    rows = _rows(look)
    _say(f"{look.source}: {look.format}, {rows} rows")
    for column in list(look.columns.values())[:_SHOWN]:
        example = next(
            (str(r.columns[column.name]) for r in look.records[:20] if r.columns.get(column.name)), ""
        )
        short = " ".join(example.split())[:50]
        _say(f"  {printable(column.name)[:30]:<32}{column.kind:<10}{column.distinct:>8,} different   {short}")
    if len(look.columns) > _SHOWN:
        _say(f"  and {len(look.columns) - _SHOWN} more columns")


def _rows(look: Look) -> str:
    return ", ".join(
        f"{count:,}" if part == "all" else f"{part} {count:,}" for part, count in look.rows.items()
    )


def _ask_for_task(look: Look, task: str, named: Any) -> Proposal:
    from deltatune.starting.propose import Named, proposals
    from deltatune.starting.sketch import proposal_of

    if task == AUTO:
        options = {each.task: each.why for each in proposals(look, named)}
        others = [name for name in TASKS.names() if name not in options]
        for number, (name, why) in enumerate(options.items(), start=1):
            _say(f"  {number}  {name}: {why}")
        _say(f"  or any of {', '.join(others)}")
        task = _chosen(_ask("What shall be learned?", default="1" if options else None), list(options))
    while True:
        try:
            proposal = proposal_of(look, task, named, asking=True)
            break
        except DeltatuneError as error:
            output.error(output.describe(error))
            if task not in TASKS:
                task = _ask("What shall be learned?")
            else:
                named = Named(_ask("Which column is read?"), _ask("Which column is learned?"))
    given = proposal.columns
    if given and len(look.columns) > 2 and isinstance(given.get("target"), str) and named == Named():
        names = ", ".join(printable(name) for name in look.columns)
        _say(f"  columns: {names}")
        columns = Named(
            _ask("Which column is read?", default=printable(given["input"])),
            _ask("Which column is learned?", default=printable(given["target"])),
        )
        shown = {printable(name): name for name in look.columns}
        columns = Named(
            shown.get(str(columns.input), columns.input), shown.get(str(columns.target), columns.target)
        )
        if (columns.input, columns.target) != (given["input"], given["target"]):
            return _ask_for_task(look, task, columns)
    return proposal


def _ask_for_model(task: str) -> str | None:
    from deltatune.starting.models import bases_for

    options = list(bases_for(TASKS.get(task)).all)
    for number, name in enumerate(options, start=1):
        _say(f"  {number}  {name}")
    answer = _ask("Which base? A number, a folder or an id of the Hub", default="1" if options else None)
    return _chosen(answer, options)


def _ask_for_place(out: Path) -> Path:
    while out.is_dir() or out.exists() or out.is_symlink():
        _say(f"  {out} is there.")
        answer = _ask("Replace it? y, or another name", default="n")
        if answer.lower() in ("y", "yes") and not out.is_dir():
            return out
        if answer.lower() not in ("n", "no", "y", "yes"):
            out = Path(answer)
    return out


def _chosen(answer: str, options: list[str]) -> str:
    """The option of a number; else the answer itself."""
    if answer.isdecimal() and 1 <= int(answer) <= len(options):
        return options[int(answer) - 1]
    return answer
