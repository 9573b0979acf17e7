"""The application: its routes, behind the guard."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deltatune.errors import DeltatuneError
from deltatune.serve.engine.engine import Engine
from deltatune.serve.http.desk import Desk
from deltatune.serve.http.errors import handle_errors
from deltatune.serve.http.guard import Guard
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.others import other_routes
from deltatune.serve.http.settings import Settings
from deltatune.serve.http.texts import text_routes
from deltatune.serve.page.routes import PAGE, page_routes
from deltatune.version import __version__

OPEN = frozenset({"/health", PAGE})
"""What is answered without a token."""


def build_app(engine: Engine, settings: Settings, metrics: Metrics) -> FastAPI:
    """An ASGI application that answers by an engine.

    Args:
        engine: It need not have loaded anything yet.
        settings: Token, names and limits.
        metrics: The engine's.
    """
    app = FastAPI(title="deltatune", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(engine, metrics)
    metrics.watch("deltas_in_memory", "Deltas in memory.", lambda: _of(engine, "attached"))
    metrics.watch("deltas_loaded", "Deltas that were attached so far.", lambda: _of(engine, "loads"))
    metrics.watch("deltas_evicted", "Of those, how many made room again.", lambda: _of(engine, "evictions"))

    @app.get("/health")
    async def health() -> Response:
        try:
            pool = engine.pool
        except DeltatuneError as error:
            state = getattr(error, "reason", "failed")
            return JSONResponse({"status": state}, 503)
        return JSONResponse({"status": "ready", "models": len(pool.served)})

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.include_router(text_routes(desk))
    app.include_router(other_routes(desk, settings))
    app.include_router(page_routes(desk))
    handle_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics, open_paths=OPEN)
    app.state.desk = desk
    return app


def _of(engine: Engine, name: str) -> float:
    try:
        return float(getattr(engine.pool, name))
    except DeltatuneError:
        return 0.0
