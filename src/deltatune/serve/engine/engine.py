"""The engine: one thread that owns the model, and what waits for it.

Between two tokens it takes in what was asked meanwhile, and lets go of what is finished, too late or not
wanted any more. So a request waits for one token of the others, never for their ends.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from deltatune.core.devices import ran_out, release_memory
from deltatune.errors import DeltatuneError
from deltatune.printable import printable
from deltatune.serve.deltas.pool import Pool
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.answers import Part, answer_alone, answer_together
from deltatune.serve.engine.lanes import Lanes
from deltatune.serve.engine.limits import Limits
from deltatune.serve.engine.passes import Passes
from deltatune.serve.engine.trial import Trials
from deltatune.serve.engine.work import Asking, Work, Writing
from deltatune.serve.refusal import Refusal

_T = TypeVar("_T")
Load = Callable[[Callable[[Served], None]], Pool]
_IDLE = 0.5
"""Seconds after which an engine with nothing to do looks for what is too late."""


class Engine:
    """Answers requests.

    Args:
        load: Loads base and deltas, and tries each out with what it is given; called in the engine's thread.
        limits: How much at once.
        passes: Is told what is computed.

    Attributes:
        ready: Is there when base and deltas are loaded; or what was wrong with them.
    """

    def __init__(self, load: Load, limits: Limits, passes: Passes | None = None) -> None:
        self.limits = limits
        self.ready: Future[Pool] = Future()
        self._passes = passes or Passes()
        self._load = load
        self._pool: Pool | None = None
        self._lanes: Lanes | None = None
        self._wake = threading.Condition()
        self._queue: deque[Work] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What other threads may ask for

    def start(self) -> None:
        """Begin to load, and then to answer."""
        self._thread.start()

    @property
    def pool(self) -> Pool:
        """What is served.

        Raises:
            Refusal: It is not loaded yet, or the engine stops.
        """
        if self._stopping:
            raise Refusal("stopping", "the server is stopping.")
        if self._pool is None:
            raise Refusal("loading", "the model is being loaded.", remedy="Try again in a moment.")
        return self._pool

    @property
    def waiting(self) -> int:
        """Requests of which nothing is computed yet."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Texts that are being written."""
        return 0 if self._lanes is None else self._lanes.rows

    def require_room(self, count: int = 1) -> None:
        """Check that so many requests more may wait.

        Raises:
            Refusal: They may not, or the engine stops.
        """
        if self._stopping:
            raise Refusal("stopping", "the server is stopping.")
        if count > self.limits.queue:
            what = f"it has {count} texts to write, and {self.limits.queue} may wait."
            raise Refusal("invalid", what, remedy="Send several requests.")
        if self.waiting + count > self.limits.queue:
            what = f"{self.waiting} requests wait already, and {self.limits.queue} may."
            raise Refusal("busy", what, remedy="Try again in a moment.")

    def submit(self, *works: Work) -> None:
        """Ask for all of these, or for none.

        Raises:
            Refusal: Too many are waiting, or the engine stops.
        """
        with self._wake:
            self.require_room(len(works))
            self._queue.extend(works)
            self._wake.notify()

    def cancel(self, *works: Work) -> None:
        """Nobody wants them any more: their rows leave the batch before the next token."""
        with self._wake:
            for work in works:
                work.cancelled = True
            self._changed = True
            self._wake.notify()

    def call(self, function: Callable[[Pool], _T]) -> Future[_T]:
        """Have a function called with the pool in the engine's thread, between two passes."""
        future: Future[_T] = Future()
        pool = self.pool
        with self._wake:
            self._calls.append((lambda: function(pool), future))
            self._wake.notify()
        return future

    @property
    def busy(self) -> set[Served]:
        """Deltas that are in use or waited for. Only the engine's thread asks."""
        with self._wake:
            waiting = {work.served for work in self._queue}
        return waiting if self._lanes is None else waiting | self._lanes.served

    def end(self) -> None:
        """Take nothing more, and refuse what is not finished before its next token. It does not wait."""
        with self._wake:
            self._stopping = self._ended = self._changed = True
            self._wake.notify()

    def stop(self) -> None:
        """End, and wait for it."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # The engine's own thread

    def _run(self) -> None:
        try:
            pool = self._load(Trials())
            lanes = self._lanes = Lanes(pool.model, self._passes)
        except BaseException as error:  # whoever waits for it says so
            self.ready.set_exception(error)
            return
        self._pool = pool
        self.ready.set_result(pool)
        while self._wait():
            try:
                self._round(pool, lanes)
            except Exception as error:  # a defect of ours: what is here fails, and the engine goes on
                for group in list(lanes.groups):
                    lanes.fail(group, _refusal(error, 1))

    def _wait(self) -> bool:
        """Wait until there is something to do; False: the engine ends."""
        with self._wake:
            while True:
                if self._calls or self._changed or self.active:
                    return True
                if self._queue:
                    left = self._pause()
                    if left <= 0:
                        return True
                    self._wake.wait(left)
                elif self._stopping:
                    return False
                else:
                    self._wake.wait(_IDLE)

    def _pause(self) -> float:
        """Seconds that what waits may wait for more to share its pass."""
        rows = sum(work.rows_asked for work in self._queue)
        writes = any(isinstance(work, Writing) for work in self._queue)
        if not self._queue or self._stopping or writes or rows >= self.limits.rows:
            return 0.0
        return self._queue[0].since + self.limits.gather - time.monotonic()

    def _gathered(self) -> bool:
        with self._wake:
            return self._pause() <= 0

    def _round(self, pool: Pool, lanes: Lanes) -> None:
        """All that there is to do between two tokens, and the next one of each text."""
        with self._wake:
            calls, self._calls = list(self._calls), deque()
            self._changed = False
        for function, future in calls:
            _settled(future, function)
        self._let_go(lanes)
        writings = self._taken(pool, lanes, Writing, self.limits.rows - lanes.rows)
        self._guarded(lanes.admit, writings, pool)
        for group in list(lanes.groups):
            try:
                lanes.step(group)
            except Exception as error:  # one lane's rows fail, and no others
                lanes.fail(group, _refusal(error, len(group.works)))
                release_memory(pool.model.device)
        if self._gathered():
            self._guarded(self._answer, self._taken(pool, lanes, Asking, self.limits.rows), pool)
        pool.sweep(lambda: self.busy)

    def _let_go(self, lanes: Lanes) -> None:
        """Let go of what nobody wants any more, or what is too late."""
        now = time.monotonic()
        late = Refusal(
            "late",
            f"it was not finished within {self.limits.seconds:g} seconds.",
            remedy="Ask for fewer tokens, or when there is less to do.",
        )

        def unwanted(work: Work) -> bool:
            if work.cancelled:
                work.finish(Refusal("gone", "it was cancelled."))
            elif self._ended:
                work.finish(Refusal("stopping", "the server stopped before it was finished."))
            elif now > work.deadline:
                work.finish(late)
            return work.done

        lanes.drop(unwanted)
        with self._wake:
            self._queue = deque(work for work in self._queue if not unwanted(work))

    def _taken(self, pool: Pool, lanes: Lanes, kind: type[Work], room: int) -> list[Any]:
        """The first that waits, and others that may share its pass, taken out of the queue."""
        with self._wake:
            waiting = [work for work in self._queue if isinstance(work, kind)]
        taken: list[Work] = []
        for work in waiting:
            rows = sum(each.rows_asked for each in taken) + work.rows_asked
            longest = max((each.length for each in (*taken, work)), default=0)
            if taken and (rows > room or rows * longest > self.limits.prefill):
                break
            if room < 1:
                break
            if taken and (work.alone or taken[0].alone or work.served.lane != taken[0].served.lane):
                continue
            try:
                there = pool.want(work.served, lanes.served | {each.served for each in taken})
            except Exception as error:  # its files are gone or damaged
                work.finish(_unloaded(error, work.served))
                continue
            if there:
                taken.append(work)
            elif not taken:  # it is the first, and what is in use leaves no room: others do not pass it
                break
        gone = {id(work) for work in (*taken, *(work for work in waiting if work.done))}
        if gone:
            with self._wake:
                self._queue = deque(work for work in self._queue if id(work) not in gone)
        return taken

    def _guarded(self, act: Callable[[Sequence[Any]], None], works: list[Any], pool: Pool) -> None:
        """Act on some requests at once; if that fails, on each alone, so that none harms the others."""
        if not works:
            return
        try:
            act(works)
        except Exception as error:
            if len(works) > 1 and not ran_out(error):
                for work in works:
                    self._guarded(act, [work], pool)
                return
            for work in works:
                work.finish(_refusal(error, len(works)))
            release_memory(pool.model.device)

    @torch.inference_mode()
    def _answer(self, works: Sequence[Asking]) -> None:
        started = time.monotonic()
        parts = [Part(work.served.run, work.rows, work.encoded) for work in works]
        model = parts[0].run.model
        answers = [answer_alone(model, parts[0])] if works[0].alone else answer_together(model, parts)
        self._passes.passed(sum(len(part.rows) for part in parts), time.monotonic() - started)
        for work, predictions in zip(works, answers, strict=True):
            work.finish(predictions)


def _settled(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)


def _unloaded(error: Exception, served: Served) -> Refusal:
    """What whoever asked is told of a delta that cannot be loaded: never where its files lie."""
    refusal = _refusal(error, 1)
    if isinstance(error, Refusal) or refusal.reason == "memory":
        return refusal
    print(f"cannot load {served.name!r}: {printable(str(error))}", file=sys.stderr, flush=True)
    return Refusal("failed", f"the delta {served.name!r} cannot be loaded.", field="model")


def _refusal(error: Exception, rows: int) -> Refusal:
    """What whoever asked is told of what went wrong; never what others asked."""
    if isinstance(error, Refusal):
        return error
    if ran_out(error) or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return Refusal(
            "memory",
            f"a batch of {rows} rows does not fit into memory.",
            remedy="Ask for less at once; start the server with a smaller --batch.",
        )
    if isinstance(error, DeltatuneError):
        return Refusal("failed", error.what, field=error.field, remedy=error.remedy)
    return Refusal("failed", f"computing it failed ({type(error).__name__}).")
