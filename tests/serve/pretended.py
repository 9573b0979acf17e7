"""A server that answers as `deltatune serve` does, with what a test gives it: no model is loaded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deltatune.serve.page.document import page

Answer = Callable[[dict[str, Any]], list[tuple[str, float, dict[str, float]]] | dict[str, Any]]
"""Of a request: tokens with their log-probability and the likeliest, or the line of a prediction."""


def model(name: str, **changes: Any) -> dict[str, Any]:
    """What is said of a model."""
    plain = {
        "id": name, "plain": name == "base", "method": "lora", "base": "tiny", "task": "text-to-text",
        "reads": "text", "writes": True, "chats": False, "fields": ["input"], "template": "{input}",
        "most": 64,
    }  # fmt: skip
    return plain | changes


@contextmanager
def pretending(
    models: list[dict[str, Any]], answer: Answer, *, token: str | None = None, pause: float = 0.0
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server; gives its address and the bodies that it is asked, as they come."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def reply(self, value: Any, status: int = 200) -> None:
            body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if isinstance(value, str):
                self.send_header("Content-Type", "text/html; charset=utf-8")
                for name, text in page()[1].items():
                    self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def locked(self) -> bool:
            wrong = token is not None and self.headers.get("Authorization") != f"Bearer {token}"
            if wrong:
                self.reply({"error": {"message": "it needs a token"}}, 401)
            return wrong

        def do_GET(self) -> None:
            if self.path == "/":
                self.reply(page()[0])
            elif self.path != "/playground/models":
                self.reply({"error": {"message": "nothing there"}}, 404)
            elif not self.locked():
                self.reply({"data": models})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.locked():
                return
            asked.append(body | {"path": self.path})
            told = answer(body)
            if isinstance(told, dict):
                failed = "refused" in told
                self.reply({"error": {"message": told["refused"]}} if failed else {"predictions": [told]},
                           400 if failed else 200)  # fmt: skip
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            chat = "chat" in self.path
            for text, logprob, top in told:
                choice: dict[str, Any] = {"index": 0, "finish_reason": None}
                if chat:
                    others = [{"token": other, "logprob": value} for other, value in top.items()]
                    logged = [{"token": text.strip(), "logprob": logprob, "top_logprobs": others}]
                    choice |= {"delta": {"content": text}, "logprobs": {"content": logged}}
                else:
                    logs = {"tokens": [text.strip()], "token_logprobs": [logprob], "top_logprobs": [top]}
                    choice |= {"text": text, "logprobs": logs}
                self.event({"choices": [choice]})
                time.sleep(pause)
            end = {"delta": {}} if chat else {"text": ""}
            self.event({"choices": [{"index": 0, "finish_reason": "stop", "logprobs": None} | end]})
            self.wfile.write(b"data: [DONE]\n\n")

        def event(self, value: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
            self.wfile.flush()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Whoever stopped an answer has left."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
