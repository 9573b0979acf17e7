"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deltatune.serve.engine.passes import Passes
from deltatune.serve.engine.work import Writing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics(Passes):
    """Counts, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "deltatune_requests", "Requests answered.", ("route", "status", "delta"), registry=registry
        )
        self._latency = Histogram(
            "deltatune_request_seconds", "From a request's head to its answer's end.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "deltatune_first_token_seconds", "From a request to the first token of its text.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batch = Histogram(
            "deltatune_batch_rows", "Rows of a pass through the model.", buckets=_ROWS, registry=registry
        )
        self._passing = Counter("deltatune_pass_seconds", "Spent in passes.", registry=registry)
        self._tokens = Counter(
            "deltatune_tokens", "Tokens read and written.", ("kind", "delta"), registry=registry
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Have a number read when it is asked for."""
        Gauge(f"deltatune_{name}", what, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, delta: str, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status), delta).inc()
        self._latency.labels(route).observe(seconds)

    def tokens(self, delta: str, read: int, written: int) -> None:
        """A request's tokens."""
        self._tokens.labels("prompt", delta).inc(read)
        self._tokens.labels("completion", delta).inc(written)

    def passed(self, rows: int, seconds: float) -> None:
        """Rows have gone through the model."""
        self._batch.observe(rows)
        self._passing.inc(seconds)

    def begun(self, work: Writing, seconds: float) -> None:
        """The first token of a text has come."""
        self._first.observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
