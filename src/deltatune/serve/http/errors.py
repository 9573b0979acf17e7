"""Refusals as OpenAI's API has errors, so that its clients raise what they know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from deltatune.errors import DeltatuneError
from deltatune.phrasing import first_problem
from deltatune.serve.refusal import Reason, Refusal

STATUS: dict[Reason, int] = {
    "invalid": 400,
    "too_long": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown": 404,
    "too_slow": 408,
    "too_large": 413,
    "busy": 429,
    "gone": 499,
    "failed": 500,
    "stopping": 503,
    "loading": 503,
    "memory": 503,
    "late": 504,
}
_KIND = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
         404: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error"}  # fmt: skip
_CODE: dict[Reason, str] = {
    "too_long": "context_length_exceeded",
    "unknown": "model_not_found",
    "unauthorized": "invalid_api_key",
    "busy": "rate_limit_exceeded",
}
_AGAIN = ("busy", "loading", "memory")
"""Refusals after which it makes sense to ask again."""


def body_of(refusal: Refusal) -> dict[str, Any]:
    """What is answered instead."""
    kind = _KIND.get(STATUS[refusal.reason], "server_error")
    message = " ".join(part for part in (refusal.what, refusal.remedy) if part)
    code = _CODE.get(refusal.reason, refusal.reason)
    return {"error": {"message": message, "type": kind, "param": refusal.field, "code": code}}


def response_of(refusal: Refusal) -> JSONResponse:
    """The response."""
    headers = {}
    if refusal.reason in _AGAIN:
        headers["Retry-After"] = "1"
    if refusal.reason == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(refusal), STATUS[refusal.reason], headers)


def invalid(error: ValidationError) -> Refusal:
    """The refusal of a body that breaks a rule of its form."""
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, detail["loc"])) or None
    return Refusal("invalid", f"{first_problem(error)}", field=field)


def as_refusal(error: DeltatuneError) -> Refusal:
    """An error in what was asked for."""
    if isinstance(error, Refusal):
        return error
    return Refusal("invalid", error.what, field=error.field, remedy=error.remedy)


def handle_errors(app: FastAPI) -> None:
    """Answer every error in one form, and never with a traceback."""

    async def deltatune(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DeltatuneError)
        return response_of(as_refusal(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}
        return JSONResponse({"error": body}, error.status_code, error.headers)

    async def defect(request: Request, error: Exception) -> JSONResponse:
        return response_of(Refusal("failed", f"answering it failed ({type(error).__name__})."))

    app.add_exception_handler(DeltatuneError, deltatune)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, defect)
