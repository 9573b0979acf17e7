"""The command line. Nothing here imports torch until a command has work for it."""

from __future__ import annotations


def main() -> None:
    """Run the `deltatune` command with the arguments of this process."""
    from deltatune.cli import output
    from deltatune.cli.app import app

    output.ready()
    app(prog_name="deltatune")
