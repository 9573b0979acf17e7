"""The page over HTTP, on this machine alone. Python's own server does: there are two addresses, and GET."""

from __future__ import annotations

import errno
import json
import os
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deltatune.errors import DeltatuneError
from deltatune.printable import printable, printable_json
from deltatune.watch.page import Pages, as_json
from deltatune.watch.standing import Watched

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""What a browser may call this machine. Another name that leads here is of a page that would read ours."""
PATIENCE = 20
"""Seconds that a client may be silent."""
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class Server(ThreadingHTTPServer):
    """Answers browsers on this machine.

    Args:
        path: The folder that is watched.
        port: 0: any that is free.

    Raises:
        DeltatuneError: The port cannot be had.
    """

    daemon_threads = True

    def __init__(self, path: Path, port: int) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "another program has it" if taken else os.strerror(error.errno or 0)
            raise DeltatuneError(
                f"the port {port} cannot be had: {why}.",
                field="--port",
                remedy="Choose another one; --port 0 takes any that is free.",
            ) from error
        self.path, self.watched = path, Watched(path)
        self.pages, self.one = Pages(self.watched), threading.Lock()

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; others are answered as such."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "deltatune", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """The page, or the same as JSON."""
        asked = self.headers.get("Host", "").lower()
        if asked not in {f"{name}:{self.server.server_port}" for name in NAMES}:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"This is no name of this server.\n")
            return
        try:
            with self.server.one:
                status, body, kind, tag = self._answer_of(urlsplit(self.path).path)
        except Exception as error:  # a folder may hold anything; the next look may find it mended
            said = f"The page cannot be made ({type(error).__name__}: {printable(error)}).\n"
            status, body, kind, tag = HTTPStatus.INTERNAL_SERVER_ERROR, said.encode(), "text/plain", ""
        self._answer(status, body, kind, tag)

    def _answer_of(self, place: str) -> tuple[HTTPStatus, bytes, str, str]:
        """The status, the body, its type and its tag."""
        if place == "/":
            made = self.server.pages.page()
            tag = f'"{made.tag}"'
            if self.headers.get("If-None-Match") == tag:
                return HTTPStatus.NOT_MODIFIED, b"", "", tag
            return HTTPStatus.OK, made.html, "text/html", tag
        if place == "/state.json":
            state = as_json(self.server.watched.look(), self.server.path)
            return (
                HTTPStatus.OK,
                printable_json(state).encode(errors="backslashreplace"),
                "application/json",
                "",
            )
        return HTTPStatus.NOT_FOUND, b"There are / and /state.json.\n", "text/plain", ""

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain", tag: str = "") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if tag:
            self.send_header("ETag", tag)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's news."""


def state(path: Path) -> dict[str, Any]:
    """How far the folder came, once."""
    found: dict[str, Any] = json.loads(json.dumps(as_json(Watched(path).look(), path)))
    return found
