"""What every request passes before anything is read of it: who may ask, by which name, and how much.

A page of another origin, open in the same browser, can send requests to a server on this machine. Three rules
keep it out. The Host header must be an address or a known name, which a name that somebody points at this
machine is not. An Origin must be the server itself. A body must be of a type that browsers ask leave for.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deltatune.serve.http.errors import response_of
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.settings import Settings
from deltatune.serve.refusal import Refusal

BODY_SECONDS = 30.0
"""Within which the bytes of a request must have come."""
TYPES = ("application/json", "image/")
"""What bodies may be."""


class Guard:
    """ASGI middleware.

    Args:
        app: What answers.
        settings: Token, names and limits.
        metrics: Counts requests.
        open_paths: What is answered without a token: pages, and whether the server is there.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, open_paths: frozenset[str]
    ) -> None:
        self._app, self._settings, self._metrics, self._open = app, settings, metrics, open_paths
        self._names = {"localhost", socket.gethostname().lower(), *map(str.lower, settings.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started, status = time.monotonic(), 499  # if nothing is ever sent, whoever asked has left
        state: dict[str, Any] = scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        whole = asyncio.timeout(self._settings.limits.seconds + 2 * BODY_SECONDS)
        try:
            self._require(Headers(scope=scope), scope)
            async with whole:
                await self._app(scope, self._limited(receive), noted)
        except Refusal as refusal:
            await response_of(refusal)(scope, receive, noted)
        except TimeoutError:
            if not whole.expired():
                raise
            # It does not read its answer: the connection is closed.
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            delta = state.get("delta", "")
            self._metrics.request(route, status, delta, seconds)
            if self._settings.log:
                line = f"{scope['method']} {route} {status} {seconds:.3f} s {delta}".rstrip()
                print(line, file=sys.stderr, flush=True)

    def _require(self, headers: Headers, scope: Scope) -> None:
        """Check the head of a request.

        Raises:
            Refusal: It is not to be answered.
        """
        host = headers.get("host", "")
        if not self._known(host):
            raise Refusal(
                "forbidden", "this server is not known by that Host.", remedy="Start it with --allow-host."
            )
        origin = headers.get("origin")
        if (origin is not None and urlsplit(origin).netloc != host) or (
            headers.get("sec-fetch-site") in ("cross-site", "same-site")
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            raise Refusal("forbidden", "pages of other origins are not answered.")
        token = self._settings.token
        if token is not None and scope["path"] not in self._open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            known = hmac.compare_digest(given.strip().encode(), token.encode())
            if scheme.lower() != "bearer" or not known:
                raise Refusal("unauthorized", "it needs the header Authorization: Bearer TOKEN.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._settings.limits.body:
            raise self._too_large()
        if scope["method"] == "POST" and not headers.get("content-type", "").lower().startswith(TYPES):
            raise Refusal("invalid", "its Content-Type is none of application/json and image/...")

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _limited(self, receive: Receive) -> Receive:
        left, until, done = self._settings.limits.body, time.monotonic() + BODY_SECONDS, False

        async def limited() -> Message:
            nonlocal left, done
            if done:
                return await receive()  # whether whoever asked is still there
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    message = await receive()
            except TimeoutError as error:
                raise Refusal("too_slow", f"its bytes did not come in {BODY_SECONDS:g} s.") from error
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                done = not message.get("more_body", False)
                if left < 0:
                    raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        most = self._settings.limits.body >> 20
        return Refusal("too_large", f"it has more than {most} MiB.", remedy="Send less at once.")
