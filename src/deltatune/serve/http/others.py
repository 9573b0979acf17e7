"""Models, embeddings, predictions, and runs that come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deltatune.results import Prediction
from deltatune.runs.asking import Failed, line_of
from deltatune.serve.deltas.opening import NAME, read_named
from deltatune.serve.deltas.pool import Pool
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.prompts import Rows
from deltatune.serve.http.desk import Desk
from deltatune.serve.http.schemas import DeltaRequest, EmbeddingRequest, PredictRequest
from deltatune.serve.http.settings import Settings
from deltatune.serve.http.shapes import card, vector
from deltatune.serve.refusal import Refusal


def other_routes(desk: Desk, settings: Settings) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        pool = desk.engine.pool
        return {"object": "list", "data": [_card(pool, served) for served in pool.served]}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        pool = desk.engine.pool
        return _card(pool, pool.get(name))

    @router.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        asked = await desk.body(request, EmbeddingRequest)
        served = desk.served(request, asked.model)
        if not served.task.finds_targets:
            what = f"{served.name} does the task {served.task.name}, which gives no vectors."
            raise Refusal("invalid", what, field="model", remedy="Use /predict.")
        given = [asked.input] if isinstance(asked.input, str) else asked.input
        rows = await desk.read(desk.prompts.rows, served, given)
        _require_all(rows)
        answers = await desk.answered(request, served, rows)
        assert rows.encoded is not None
        width = len(answers[0].vector or ())
        if asked.dimensions not in (None, width):
            raise Refusal("invalid", f"the vectors have {width} numbers.", field="dimensions")
        data = [
            {"object": "embedding", "index": n, "embedding": vector(each.vector or [], asked.encoding_format)}
            for n, each in enumerate(answers)
        ]
        tokens = sum(rows.encoded.lengths)
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": served.name, "data": data, "usage": used})

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        name: str
        given: list[Any]
        if request.headers.get("content-type", "").lower().startswith("image/"):
            name, given = request.query_params.get("model", ""), [await request.body()]
        else:
            asked = await desk.body(request, PredictRequest)
            name, given = asked.model, asked.given
        served = desk.served(request, name)
        rows = await desk.read(desk.prompts.rows, served, given)
        answers = iter(await desk.answered(request, served, rows) if rows.rows else [])
        lines = [_line(each, answers) for each in rows.made]
        return JSONResponse({"model": served.name, "predictions": lines})

    @router.get("/admin/deltas")
    async def deltas() -> dict[str, Any]:
        return _memory(desk.engine.pool)

    @router.post("/admin/deltas")
    async def add(request: Request) -> Response:
        asked = await desk.body(request, DeltaRequest)
        folder = _inside(settings.runs, asked.folder)
        name = asked.name or folder.name
        if not NAME.fullmatch(name):
            raise Refusal("invalid", "has other characters than letters, digits, '.', '_' and '-'.",
                          field="name")  # fmt: skip
        await desk.read(read_named, folder, name)
        served = await desk.call(lambda pool: pool.add(folder, name, desk.engine.busy))
        return JSONResponse(_card(desk.engine.pool, served), 201)

    @router.delete("/admin/deltas/{name}")
    async def remove(name: str) -> Response:
        if settings.runs is None:
            raise _not_offered()
        await desk.call(lambda pool: pool.remove(name))
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    return router


def _card(pool: Pool, served: Served) -> dict[str, Any]:
    return card(served, served.folder is None or pool.is_attached(served))


def _memory(pool: Pool) -> dict[str, Any]:
    data = [
        {
            "id": served.name,
            "bytes": served.bytes,
            "in_memory": pool.is_attached(served),
            "mixes": served.mixes,
            "joins": served.joins,
        }
        for served in pool.served
        if served.folder is not None
    ]
    counts = {"most": pool.most, "loads": pool.loads, "evictions": pool.evictions}
    return {"object": "list", "data": data, **counts}


def _require_all(rows: Rows) -> None:
    for place, row in enumerate(rows.made):
        if isinstance(row, Failed):
            raise Refusal("invalid", row.error, field=f"input.{place}")


def _line(row: Any, answers: Any) -> dict[str, Any]:
    answer: Prediction | Failed = row if isinstance(row, Failed) else next(answers)
    return line_of(answer)


def _inside(root: Path | None, name: str) -> Path:
    """A folder within the folder of runs, wherever links in it lead.

    Raises:
        Refusal: It is none, or outside.
    """
    if root is None:
        raise _not_offered()
    whole = root.resolve()
    try:
        folder = (whole / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        folder = None
    if folder is None or not folder.is_relative_to(whole) or folder == whole or not folder.is_dir():
        raise Refusal("invalid", "is no folder within the folder of runs.", field="folder")
    return folder


def _not_offered() -> Refusal:
    return Refusal(
        "forbidden",
        "runs can be neither added nor removed here.",
        remedy="Start the server with --runs FOLDER to allow it.",
    )
