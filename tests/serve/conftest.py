"""One engine with runs on a tiny chat model, shared by what asks it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from deltatune.serve.engine.engine import Engine
from deltatune.serve.http.app import build_app
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.server import bind, config_of
from deltatune.serve.http.settings import Settings
from deltatune.testing.folders import save_tiny
from tests.serve.asking import opened
from tests.serve.tiny_runs import make_runs
from tests.tiny_recipe import WORDS

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 2}},
    "prefix": {"prefix": {"n_tokens": 3}},
    "prompt": {"prompt": {"n_tokens": 2}},
    "full": {"full": {}},
}
"""The last two are served from the start; of the others, one is added while it runs."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on one tiny Llama, which has a chat template."""
    base = save_tiny("llama", tmp_path_factory.mktemp("base") / "llama")
    rows = [{"input": f"{n} of the {WORDS[n % 8]}", "target": WORDS[n % 8]} for n in range(24)]
    recipe = {
        "task": "causal-lm",
        "model": str(base),
        "data": {"source": rows, "split": {"validation": 0.1, "test": 0.1}, "template": "chat"},
        "train": {"max_steps": 1, "batch_size": 4, "precision": "fp32"},
        "evaluation": {"metrics": ["loss"], "primary": "loss", "max_new_tokens": 8},
    }
    return make_runs(tmp_path_factory.mktemp("runs"), recipe, METHODS)


@pytest.fixture(scope="session")
def engine(runs: dict[str, Path]) -> Iterator[Engine]:
    """An engine with all but one of them."""
    made = opened({name: folder for name, folder in runs.items() if name != "prefix"}, queue=16)
    yield made
    made.stop()


@dataclass(frozen=True)
class Place:
    """A server that listens."""

    url: str
    engine: Engine

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)


@pytest.fixture(scope="session")
def place(engine: Engine, runs: dict[str, Path]) -> Iterator[Place]:
    """It answers over HTTP, in a thread of this process."""
    settings = Settings(port=0, runs=runs["lora"].parent)
    sock = bind(settings)
    app = build_app(engine, settings, Metrics())
    server = uvicorn.Server(config_of(app, settings))
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    yield Place(f"http://127.0.0.1:{sock.getsockname()[1]}", engine)
    server.should_exit = True
    thread.join(10)
    sock.close()
