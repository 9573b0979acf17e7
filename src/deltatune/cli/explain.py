"""How `methods` and `tasks` show what can be written into a recipe: all of a kind in a table, one in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from deltatune.cli import output


def list_all(command: str, columns: Mapping[str, str], described: Sequence[Mapping[str, str]]) -> None:
    """Print a row for each thing: its name, what it is, and in dim letters one thing more.

    Args:
        command: The command that explains one of them.
        columns: Three headings, and of each the key of its texts.
        described: What is known of each thing, by key.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(columns):
        table.add_column(heading, no_wrap=number == 0)
    for each in described:
        name, what, more = (each[key] for key in columns.values())
        table.add_row(Text(name, style="cyan"), Text(what), Text(more, style="dim"))
    console = output.stdout()
    console.print(table)
    console.print(f"\nExplain one: deltatune {command} NAME")


def facts(name: str, texts: Mapping[str, str]) -> None:
    """Print a name, and below it a text for each heading."""
    table = grid()
    for heading, text in texts.items():
        table.add_row(Text(heading, style="dim"), Text(text))
    console = output.stdout()
    console.print(Text(name, style="bold cyan"))
    console.print(table)


def grid() -> Table:
    """A table without lines and headings."""
    return Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
