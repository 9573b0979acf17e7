"""The server: a socket, the loop, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deltatune.errors import DeltatuneError
from deltatune.serve.deltas.pool import Pool
from deltatune.serve.engine.engine import Engine, Load
from deltatune.serve.http.app import build_app
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.settings import Settings

HEAD_SECONDS = 15.0
"""Within which the head of a connection's first request must have come."""
IDLE_SECONDS = 75
"""That a connection stays open between requests: clients that reuse it must not find it just closed."""

LAST_SECONDS = 3
"""After the grace, for telling those who still wait that the server stops."""


class _Impatient(H11Protocol):
    """A connection on which nothing is asked is closed: clients that only connect would use all places up."""

    def connection_made(self, transport: Any) -> None:
        """Called when a client has connected."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._close_if_unasked)

    def _close_if_unasked(self) -> None:
        asked: Any = self.cycle  # None before the first request, whatever its type says
        if asked is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(settings: Settings) -> socket.socket:
    """A socket at the address, on which nobody is answered yet.

    Raises:
        DeltatuneError: It is taken, or no address of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        made.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DeltatuneError(
            f"cannot listen at {settings.host}, port {settings.port} ({why}).",
            field="--port",
            remedy="Choose another port (0: any that is free), or another --host.",
        ) from error
    return made


def config_of(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=math.ceil(settings.grace) + LAST_SECONDS,
    )


def serve(load: Load, settings: Settings, sock: socket.socket, ready: Callable[[Pool], None]) -> None:
    """Answer until a signal comes, then finish what runs.

    Args:
        load: As of `Engine`.
        settings: Of the server.
        sock: As `bind` gave it.
        ready: Is called when all is loaded.

    Raises:
        DeltatuneError: Base or deltas cannot be loaded.
    """
    metrics = Metrics()
    engine = Engine(load, settings.limits, metrics)
    app = build_app(engine, settings, metrics)
    with contextlib.closing(sock):
        asyncio.run(_answer(_Server(config_of(app, settings)), engine, sock, ready, settings.grace))
    app.state.desk.close()


async def _answer(
    server: _Server, engine: Engine, sock: socket.socket, ready: Callable[[Pool], None], grace: float
) -> None:
    loop = asyncio.get_running_loop()

    def stop(signum: int, frame: FrameType | None = None) -> None:
        if server.should_exit:
            engine.end()
            server.force_exit = True
        else:
            loop.call_later(grace, engine.end)
        server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop, signum)
    answering: asyncio.Future[Any] = asyncio.create_task(server.serve(sockets=[sock]))
    engine.start()
    loading: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wrap_future(engine.ready))
    try:
        await asyncio.wait({answering, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            ready(loading.result())
        await answering
    finally:
        server.should_exit = server.force_exit = True
        await answering
        loading.cancel()
        await asyncio.to_thread(engine.stop)
