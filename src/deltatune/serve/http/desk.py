"""Between the event loop and the engine: what waits here blocks nobody, and who leaves is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from deltatune.data.encode import Encoded
from deltatune.data.rows import Row
from deltatune.results import Prediction
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.engine import Engine
from deltatune.serve.engine.prompts import Prompt, Prompts, Rows
from deltatune.serve.engine.sampling import GREEDY, Sampling
from deltatune.serve.engine.work import Asking, Piece, Told, Work, Writing, Written
from deltatune.serve.http.errors import invalid
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.refusal import Refusal

_Body = TypeVar("_Body", bound=BaseModel)
_T = TypeVar("_T")


class Desk:
    """Takes requests in, and gives answers out.

    Args:
        engine: What answers.
        metrics: Counts tokens.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.engine, self.metrics = engine, metrics
        self.prompts = Prompts(engine.limits)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._reading = 0
        metrics.watch("queue_requests", "Requests of which nothing is computed yet.", lambda: self.waiting)
        metrics.watch("active_rows", "Texts that are being written.", lambda: engine.active)

    @property
    def waiting(self) -> int:
        """Requests that are being read, or wait for the engine."""
        return self._reading + self.engine.waiting

    async def body(self, request: Request, form: type[_Body]) -> _Body:
        """The body of a request.

        Raises:
            Refusal: It is not of that form.
        """
        content = await request.body()
        try:
            return form.model_validate_json(content)
        except ValidationError as error:
            raise invalid(error) from None

    def served(self, request: Request, name: str) -> Served:
        """Who is asked.

        Raises:
            Refusal: There is no such run, or too many requests wait.
        """
        served = self.engine.pool.get(name)
        request.state.delta = served.name
        if self.waiting >= self.engine.limits.queue:
            raise Refusal("busy", f"{self.waiting} requests wait already.", remedy="Try again in a moment.")
        return served

    async def read(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call what makes prompts or rows, in its own thread."""
        self._reading += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reader, function, *arguments)
        finally:
            self._reading -= 1

    def writing(
        self,
        served: Served,
        prompt: Prompt,
        told: Callable[[Told], None],
        *,
        sampling: Sampling = GREEDY,
        stops: Sequence[str] = (),
        strips: bool = True,
        in_pieces: bool = False,
    ) -> Writing:
        """A text to write."""
        return Writing(
            served,
            told,
            self._deadline,
            prompt=prompt.ids,
            most=prompt.most,
            ends=prompt.ends,
            decode=self.prompts.decoder(served),
            sampling=sampling,
            stops=tuple(stops),
            strips=strips,
            in_pieces=in_pieces,
        )

    @property
    def _deadline(self) -> float:
        return time.monotonic() + self.engine.limits.seconds

    async def answered(self, request: Request, served: Served, rows: Rows) -> list[Prediction]:
        """The predictions of rows, in their order.

        Raises:
            Refusal: They are not answered.
        """
        assert rows.encoded is not None
        if served.task.writes_text and served.greedy:
            prompts = await self.read(self.prompts.written, served, rows.encoded)
            works = [self.writing(served, prompt, Future()) for prompt in prompts]
            texts: list[Written] = await self.finished(request, works)
            for text in texts:
                self.metrics.tokens(served.name, text.read, len(text.tokens))
            pairs = zip(rows.rows, texts, strict=True)
            return [
                Prediction(row.id, str(row.input), "", text.text, text.ended, pair=row.pair)
                for row, text in pairs
            ]
        passes = _in_passes(rows.rows, rows.encoded, self.engine.limits.rows)
        askings = [
            Asking(served, Future(), self._deadline, rows=part, encoded=encoded) for part, encoded in passes
        ]
        answers: list[list[Prediction]] = await self.finished(request, askings)
        self.metrics.tokens(served.name, sum(rows.encoded.lengths), 0)
        return [prediction for part in answers for prediction in part]

    async def finished(self, request: Request, works: Sequence[Work]) -> list[Any]:
        """Submit works, and wait for the last that is told of each; if whoever asked leaves, cancel them.

        Args:
            request: The request.
            works: Each is told to a `Future` of this loop.

        Raises:
            Refusal: One of them was refused.
        """
        futures = [work.tell.future for work in works if isinstance(work.tell, Future)]
        self.engine.submit(*works)
        try:
            return await unless_gone(request, asyncio.gather(*futures))
        finally:
            self.engine.cancel(*(work for work in works if not work.done))

    async def pieces(
        self, make: Callable[[Callable[[Told], None]], Writing]
    ) -> AsyncGenerator[Piece | Written, None]:
        """Submit a text to write, and give its pieces as they come; its row leaves when this is closed.

        Args:
            make: Makes the work, given what it is told to.

        Raises:
            Refusal: It is not answered, or no longer.
        """
        queue: asyncio.Queue[Told] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        work = make(lambda told: _in_loop(loop, queue.put_nowait, told))
        self.engine.submit(work)
        try:
            while True:
                told = await queue.get()
                if isinstance(told, Refusal):
                    raise told
                assert isinstance(told, Piece | Written)
                yield told
                if isinstance(told, Written):
                    return
        finally:
            if not work.done:
                self.engine.cancel(work)

    async def call(self, function: Callable[[Any], _T]) -> _T:
        """Have a function called with the pool, between two passes."""
        return await asyncio.wrap_future(self.engine.call(function))

    def close(self) -> None:
        """End the thread that reads."""
        self._reader.shutdown(wait=False, cancel_futures=True)


class Future:
    """Is told the last of a work, and hands it to the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def __call__(self, told: Told) -> None:
        """Called in the engine's thread."""
        _in_loop(self._loop, self._settle, told)

    def _settle(self, told: Told) -> None:
        if self.future.done():
            return
        if isinstance(told, Refusal):
            self.future.set_exception(told)
        else:
            self.future.set_result(told)


def _in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[Told], None], told: Told) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(function, told)


def _in_passes(rows: Sequence[Row], encoded: Encoded, most: int) -> Iterator[tuple[Sequence[Row], Encoded]]:
    """Rows in parts, none of which has more than one pass may have."""
    for start in range(0, len(rows), most):
        part = slice(start, start + most)
        features, lengths = encoded.features[part], encoded.lengths[part]
        yield rows[part], replace(encoded, features=features, lengths=lengths)


async def unless_gone(request: Request, awaited: Awaitable[_T]) -> _T:
    """Wait for something; if whoever asked leaves meanwhile, it is cancelled.

    Raises:
        Refusal: They left, or what is waited for was refused.
    """
    gone: asyncio.Future[Any] = asyncio.create_task(_until_gone(request))
    waiting = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise Refusal("gone", "whoever asked has left.")
        return await waiting
    finally:
        gone.cancel()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refusal):
            await waiting


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
