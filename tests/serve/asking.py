"""Asking an engine without HTTP."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltatune.results import Prediction
from deltatune.runs.asking import Failed, line_of
from deltatune.serve.deltas.opening import named, open_pool
from deltatune.serve.engine.engine import Engine
from deltatune.serve.engine.limits import Limits
from deltatune.serve.engine.prompts import Prompt, Prompts
from deltatune.serve.engine.work import Asking, Piece, Work, Writing, Written
from deltatune.serve.refusal import Refusal

SECONDS = 60.0


def opened(runs: dict[str, Path], most: int = 64, **limits: Any) -> Engine:
    """An engine with these runs, by their names."""
    names = [named(f"{name}={folder}") for name, folder in runs.items()]
    engine = Engine(lambda try_out: open_pool(names, most, try_out), Limits(**limits))
    engine.start()
    engine.ready.result(SECONDS)
    return engine


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Within the block the engine does nothing, so that what is asked is taken up at once afterwards."""
    entered, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(SECONDS)

    engine.call(hold)
    entered.wait(SECONDS)
    try:
        yield
    finally:
        release.set()


class Told:
    """What an engine tells of a work."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self.pieces: list[str] = []

    def __call__(self, told: Any) -> None:
        self._queue.put(told)

    def first(self) -> Any:
        told = self._queue.get(timeout=SECONDS)
        if isinstance(told, Piece):
            self.pieces.append(told.text)
        return told

    def last(self) -> Any:
        while isinstance(told := self.first(), Piece):
            pass
        if isinstance(told, Written):
            self.pieces.append(told.tail.text)
        return told


def writing(engine: Engine, name: str, prompt: Prompt, **rest: Any) -> Writing:
    served = engine.pool.get(name)
    return Writing(served, Told(), time.monotonic() + SECONDS, prompt=prompt.ids, most=prompt.most,
                   ends=prompt.ends, decode=Prompts(engine.limits).decoder(served), **rest)  # fmt: skip


def works_for(engine: Engine, name: str, value: Any) -> tuple[Any, list[Work]]:
    """One input of `predict`: its row, and the work that it makes (none if it cannot be used)."""
    prompts, served = Prompts(engine.limits), engine.pool.get(name)
    rows = prompts.rows(served, [value])
    [made] = rows.made
    if isinstance(made, Failed) or rows.encoded is None:
        return made, []
    if served.task.writes_text and served.greedy:
        [prompt] = prompts.written(served, rows.encoded)
        return made, [writing(engine, name, prompt, in_pieces=True)]
    asking = Asking(served, Told(), time.monotonic() + SECONDS, rows=rows.rows, encoded=rows.encoded)
    return made, [asking]


def answer_of(made: Any, works: Sequence[Work]) -> dict[str, Any]:
    """The line that `predict` would print."""
    if isinstance(made, Failed):
        return line_of(made)
    [work] = works
    told = work.tell.last()
    if isinstance(told, Refusal):
        raise told
    if isinstance(told, Written):
        assert "".join(work.tell.pieces) == told.text
        return line_of(Prediction(made.id, made.input, "", told.text, told.ended, pair=made.pair))
    [prediction] = told
    return line_of(prediction)


def answers(engine: Engine, asked: Sequence[tuple[str, Any]], *, together: bool) -> list[dict[str, Any]]:
    """Answers to (name, input), all at once or one after the other."""
    if not together:
        lines = []
        for name, value in asked:
            made, works = works_for(engine, name, value)
            engine.submit(*works)
            lines.append(answer_of(made, works))
        return lines
    pairs = [works_for(engine, name, value) for name, value in asked]
    with held(engine):
        for _, works in pairs:
            engine.submit(*works)
    return [answer_of(made, works) for made, works in pairs]
