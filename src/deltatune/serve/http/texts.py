"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import Response

from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.prompts import Prompt
from deltatune.serve.engine.sampling import Chosen, Sampling
from deltatune.serve.engine.work import Piece, Told, Writing, Written
from deltatune.serve.http.desk import Desk, Future, unless_gone
from deltatune.serve.http.errors import body_of
from deltatune.serve.http.schemas import ChatRequest, CompletionRequest, Generating
from deltatune.serve.http.shapes import Head, chat_logprobs, event, text_logprobs, usage
from deltatune.serve.refusal import Refusal

STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
Choices = Callable[[Piece | Written], list[dict[str, Any]]]


def text_routes(desk: Desk) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await desk.body(request, ChatRequest)
        served = desk.served(request, asked.model)
        most = asked.max_completion_tokens or asked.max_tokens
        prompt = await desk.read(desk.prompts.chat, served, asked.messages, most)
        texts = _Asked(desk, served, asked, asked.sampling(asked.likeliest))
        if asked.stream:
            head = Head("chat.completion.chunk", served.name)
            return await texts.stream(request, prompt, head, _chat_choices(texts.chat_logprobs))
        [text] = await texts.whole(request, [prompt])
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text.text, "refusal": None},
            "finish_reason": text.reason,
            "logprobs": texts.chat_logprobs(text.tokens),
        }
        return JSONResponse(Head("chat.completion", served.name).of([choice], usage=usage([text])))

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await desk.body(request, CompletionRequest)
        served = desk.served(request, asked.model)
        given = asked.prompt if _several(asked.prompt) else [asked.prompt]
        if len(given) > desk.engine.limits.inputs:
            raise Refusal("invalid", f"has {len(given)} texts, and may have {desk.engine.limits.inputs}.",
                          field="prompt")  # fmt: skip
        prompts = [await desk.read(desk.prompts.raw, served, each, asked.max_tokens) for each in given]
        texts = _Asked(desk, served, asked, asked.sampling(asked.logprobs))
        head = Head("text_completion", served.name)
        if asked.stream:
            if len(prompts) > 1:
                raise Refusal("invalid", "a stream has one prompt.", field="prompt")
            return await texts.stream(request, prompts[0], head, _text_choices(texts.text_logprobs))
        written = await texts.whole(request, prompts)
        made = [
            {
                "index": index,
                "text": text.text,
                "finish_reason": text.reason,
                "logprobs": texts.text_logprobs(text.tokens, 0),
            }
            for index, text in enumerate(written)
        ]
        return JSONResponse(head.of(made, usage=usage(written)))

    return router


def _several(prompt: Any) -> bool:
    return isinstance(prompt, list) and isinstance(prompt[0], str)


@dataclass(frozen=True)
class _Asked:
    """Texts that a request asks for."""

    desk: Desk
    served: Served
    asked: Generating
    sampling: Sampling

    def _work(self, prompt: Prompt, told: Callable[[Told], None], *, in_pieces: bool) -> Writing:
        return self.desk.writing(
            self.served,
            prompt,
            told,
            sampling=self.sampling,
            stops=self.asked.stops,
            strips=isinstance(self.asked, ChatRequest),
            in_pieces=in_pieces,
        )

    def chat_logprobs(self, tokens: Sequence[Chosen]) -> dict[str, Any] | None:
        """Log-probabilities of a chat; None if none are asked for."""
        asked = self.sampling.likeliest is not None
        return chat_logprobs(tokens, self.desk.prompts.decoder(self.served)) if asked else None

    def text_logprobs(self, tokens: Sequence[Chosen], start: int) -> dict[str, Any] | None:
        """The same of a completion, whose tokens begin at `start`."""
        asked = self.sampling.likeliest is not None
        return text_logprobs(tokens, self.desk.prompts.decoder(self.served), start) if asked else None

    async def whole(self, request: Request, prompts: Sequence[Prompt]) -> list[Written]:
        """Texts as wholes."""
        works = [self._work(prompt, Future(), in_pieces=False) for prompt in prompts]
        texts: list[Written] = await self.desk.finished(request, works)
        for text in texts:
            self.desk.metrics.tokens(self.served.name, text.read, len(text.tokens))
        return texts

    async def stream(self, request: Request, prompt: Prompt, head: Head, choices: Choices) -> Response:
        """A text in pieces; what is wrong before the first of them is an error as any other."""
        pieces = self.desk.pieces(lambda told: self._work(prompt, told, in_pieces=True))
        first = await unless_gone(request, anext(pieces))
        return StreamingResponse(
            self._events(first, pieces, head, choices), media_type="text/event-stream", headers=STREAM
        )

    async def _events(
        self,
        piece: Piece | Written,
        pieces: AsyncGenerator[Piece | Written, None],
        head: Head,
        choices: Choices,
    ) -> AsyncIterator[str]:
        counts = bool(self.asked.stream_options and self.asked.stream_options.include_usage)
        try:
            if isinstance(self.asked, ChatRequest):
                role = {"role": "assistant", "content": "", "refusal": None}
                start = {"index": 0, "delta": role, "finish_reason": None, "logprobs": None}
                yield event(head.of([start]))
            while True:
                for choice in choices(piece):
                    yield event(head.of([choice]))
                if isinstance(piece, Written):
                    self.desk.metrics.tokens(self.served.name, piece.read, len(piece.tokens))
                    if counts:
                        yield event(head.of([], usage=usage([piece])))
                    break
                piece = await anext(pieces)
            yield event("[DONE]")
        except Refusal as refusal:
            yield event(body_of(refusal))
        finally:
            await pieces.aclose()


def _chat_choices(logprobs_of: Callable[[Sequence[Chosen]], dict[str, Any] | None]) -> Choices:
    """A piece as choices of a chat; the end of a text is one of its own."""

    def choices(piece: Piece | Written) -> list[dict[str, Any]]:
        told = piece.tail if isinstance(piece, Written) else piece
        made: list[dict[str, Any]] = []
        if told.text or told.tokens:
            made.append({"index": 0, "delta": {"content": told.text}, "finish_reason": None,
                         "logprobs": logprobs_of(told.tokens)})  # fmt: skip
        if isinstance(piece, Written):
            made.append({"index": 0, "delta": {}, "finish_reason": piece.reason, "logprobs": None})
        return made

    return choices


def _text_choices(logprobs_of: Callable[[Sequence[Chosen], int], dict[str, Any] | None]) -> Choices:
    """A piece as choices of a completion."""
    offset = 0

    def choices(piece: Piece | Written) -> list[dict[str, Any]]:
        nonlocal offset
        told = piece.tail if isinstance(piece, Written) else piece
        reason = piece.reason if isinstance(piece, Written) else None
        logprobs = logprobs_of(told.tokens, offset)
        offset += len(told.text)
        return [{"index": 0, "text": told.text, "finish_reason": reason, "logprobs": logprobs}]

    return choices
