"""What a launcher of several processes (torchrun, `accelerate launch`) told this one, in its environment."""

from __future__ import annotations

import os

GIVEN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""All of them, or nothing was launched: some clusters set one or two for purposes of their own."""


def processes() -> int:
    """How many were started for this command; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in GIVEN) else 1


def rank() -> int:
    """The number of this one among them; the first writes files and talks to people."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def place_on_machine() -> int:
    """Its number among those on its machine: each takes a GPU of its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if processes() > 1 else 0
