"""A Hub on this machine: what huggingface_hub's client asks when a folder is pushed, answered over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USERS = {"hf_anna": "anna", "hf_reader": "reader"}
"""Tokens, and whose they are; the reader's may not write."""


@dataclass
class FakeHub:
    """What lies there, and what was asked."""

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, set[str]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metadata of models that are only looked up."""
    gone: str = ""
    """Requests whose path holds this are cut off."""
    broken: dict[str, int] = field(default_factory=dict)
    """Statuses by a part of the path."""


@contextmanager
def running() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        state, path = self.state, unquote(urlsplit(self.path).path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = self._chunks()
        state.requests.append(f"{self.command} {path}")
        if state.gone and state.gone in path:
            self.close_connection = True
            self.connection.close()
            return
        for part, status in state.broken.items():
            if part in path:
                return self._answer({"error": f"broken on purpose: {part}"}, status)
        if path.startswith("/store/"):
            state.objects[path.removeprefix("/store/")] = content
            return self._answer({})
        user = USERS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if user is None:
            message = "Invalid credentials in Authorization header"
            return self._answer({"error": message}, 401, {"X-Error-Message": message})
        return self._route(path, content, user)

    def _route(  # noqa: PLR0911, PLR0912 - a page a case
        self, path: str, content: bytes, user: str
    ) -> None:
        state, steps = self.state, path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": user})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or user}/{asked['name']}"
            if asked.get("organization") == "nobody":
                return self._answer({"error": "no such user"}, 404)
            if user == "reader" or not name.startswith(f"{user}/"):
                return self._answer({"error": "no rights"}, 403, {"X-Error-Message": "no rights"})
            state.repos[name] = {".gitattributes": b""}
            state.branches[name] = {"main"}
            state.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._answer({"url": f"{state.address}/{name}"})
        if steps[-3:] == ["lfs", "objects", "batch"]:
            return self._batch(json.loads(content))
        name = "/".join(steps[2:4])
        if name in state.cards and len(steps) == 4:
            return self._answer({"id": name, "siblings": [], "cardData": state.cards[name]})
        if name not in state.repos:
            return self._answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if steps[4:5] == ["branch"]:
            state.branches[name].add(steps[5])
            return self._answer({})
        revision = steps[5] if len(steps) > 5 else "main"
        if revision not in state.branches[name]:
            return self._answer({"error": "no branch"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if steps[4:5] in (["tree"], ["revision"]):
            files = [
                {"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in state.repos[name].items()
            ]
            whole = {"id": name, "siblings": [{"rfilename": each["path"]} for each in files], "sha": "0" * 40}
            return self._answer(files if steps[4] == "tree" else whole)
        if steps[4:5] == ["preupload"]:
            files = json.loads(content)["files"]
            modes = ["lfs" if each["path"].endswith(".safetensors") else "regular" for each in files]
            told = [
                {"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for each, mode in zip(files, modes, strict=True)
            ]
            return self._answer({"files": told})
        if steps[4:5] == ["commit"]:
            return self._commit(name, revision, content)
        return self._answer({"id": name, "siblings": [{"rfilename": path} for path in state.repos[name]]})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.state.address}/store/{each['oid']}"}},
            }
            for each in asked["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, revision: str, content: bytes) -> None:
        state, files = self.state, dict(self.state.repos[name])
        header: dict[str, Any] = {}
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                header = value
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                stored = state.objects[value["oid"]]
                assert hashlib.sha256(stored).hexdigest() == value["oid"]
                files[value["path"]] = stored
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        state.repos[name] = files
        state.commits.append({"repo": name, "revision": revision, **header})
        sha = f"{len(state.commits):040x}"
        self._answer({"commitUrl": f"{state.address}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(body)
