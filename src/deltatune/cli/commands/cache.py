"""`cache`: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deltatune import cache, units
from deltatune.cli import output
from deltatune.cli.options import Json
from deltatune.errors import DeltatuneError, nearest


def show(
    action: Annotated[
        str | None,
        typer.Argument(metavar="[clear]", help="Remove instead of listing.", show_default=False),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Remove these alone.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is kept between runs, with sizes, or remove it.

    Bundled models are converted once, in seconds, and kept in $DELTATUNE_CACHE; without
    it in $XDG_CACHE_HOME/deltatune, and without that in ~/.cache/deltatune. Models of
    the Hugging Face Hub are in the Hub's own cache: see [bold]hf cache ls[/bold].

    [bold]Examples[/bold]
      $ deltatune cache
      $ deltatune cache clear
      $ deltatune cache clear t5-small-1
      $ DELTATUNE_CACHE=/scratch/deltatune deltatune demo

    [bold]clear[/bold] removes only folders that deltatune made; what is needed again is made again.
    """
    if action not in (None, "clear"):
        raise DeltatuneError(
            f"{action!r} is nothing to do.", field="[clear]", remedy=nearest(action, ["clear"])
        )
    if action is None:
        found = cache.entries()
    else:
        chosen: list[str | None] = [*names] if names else [None]
        found = [entry for name in chosen for entry in cache.clear(name)]
    total = sum(entry.bytes for entry in found)
    if as_json:
        described: dict[str, Any] = {
            "folder": str(cache.cache_root()),
            "removed": action == "clear",
            "bytes": total,
            "entries": [{"name": entry.name, "bytes": entry.bytes} for entry in found],
        }
        output.emit_json(described)
        return
    title = f"Removed from {cache.cache_root()}" if action else f"Kept in {cache.cache_root()}"
    sizes = {entry.name: units.size(entry.bytes) for entry in found}
    output.fields(title, {**sizes, "in all": units.size(total)})
