"""Where the playground is, and what it must know of the models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from deltatune.recipe.sections import CHAT, DataSpec
from deltatune.recipe.templates import template_fields
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.prompts import CHAT as MOST_TOLD
from deltatune.serve.http.desk import Desk
from deltatune.serve.page.document import page

PAGE = "/"
MODELS = "/playground/models"


def page_routes(desk: Desk) -> APIRouter:
    """The routes: the page, which holds nothing of anyone, and the models, behind the token."""
    router = APIRouter()

    @router.get(PAGE)
    async def playground() -> Response:
        html, headers = page()
        return HTMLResponse(html, headers=headers)

    @router.get(MODELS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about(served) for served in desk.engine.pool.served]}

    return router


def about(served: Served) -> dict[str, Any]:
    """What the page must know of a model: what it reads, and how it is asked."""
    run, task = served.run, served.task
    spec = run.recipe.data
    most = run.recipe.evaluation.max_new_tokens
    return {
        "id": served.name,
        "plain": served.folder is None,
        "method": run.method,
        "base": run.base.name,
        "task": task.name,
        "reads": task.reads,
        "writes": task.writes_text,
        "chats": served.chats,
        "fields": fields(spec) if task.reads == "text" else [],
        "template": spec.template if spec.template != CHAT else "{input}",
        "most": max(most, MOST_TOLD) if served.chats else most,
    }


def fields(spec: DataSpec) -> list[str]:
    """The columns that a row is asked by; one alone is a plain text."""
    names = [] if spec.template == CHAT else list(dict.fromkeys(template_fields(spec.template)))
    pair = spec.columns.pair
    if pair is not None and pair not in names:
        names = [spec.columns.input if name == "input" else name for name in names] + [pair]
    return names
