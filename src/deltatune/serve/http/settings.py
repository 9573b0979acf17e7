"""What is said of a server when it is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deltatune.serve.engine.limits import Limits

PORT = 8321


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is reached, and what it takes."""

    host: str = "127.0.0.1"
    port: int = PORT
    token: str | None = None
    """What requests must bring, if anything."""
    hosts: tuple[str, ...] = ()
    """Names by which it may be asked, besides localhost, this machine's own and any address."""
    runs: Path | None = None
    """The folder that runs may be added from while it runs; None: none may."""
    grace: float = 30.0
    """Seconds that requests have to be finished when it is stopped."""
    log: bool = False
    """Whether each request is a line on stderr."""
    limits: Limits = field(default_factory=Limits)
    connections: int = 1024
    """Clients at once."""
