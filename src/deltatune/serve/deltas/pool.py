"""Which deltas are attached: as many as memory is given to, those that were wanted last.

Only the engine's thread attaches and detaches, between two passes. Others may look names up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from deltatune.core.model import AdaptedModel
from deltatune.errors import nearest
from deltatune.runs.load import attach, delta_digest, load_beside
from deltatune.runs.loaded import LoadedRun, require_model_alone
from deltatune.serve.deltas.served import Served
from deltatune.serve.refusal import Refusal

BASE = "base"
"""What the plain base is called."""


class Pool:
    """The runs on one base.

    Args:
        first: The run that the base was loaded with; its delta is attached.
        name: What it is called.
        most: Deltas in memory at once.
        try_out: Is called with the base, and with each delta when it is attached for the first time.
        trust_remote_code: As of `load_run`.

    Attributes:
        loads: Deltas that were attached so far.
        evictions: Those of them that had to make room.
    """

    def __init__(
        self,
        first: LoadedRun,
        name: str,
        most: int,
        try_out: Callable[[Served], None],
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self.model: AdaptedModel = first.model
        self.most = most
        self.loads = self.evictions = 0
        self._first, self._trust = first, trust_remote_code
        self._count = 0
        self._attached: dict[Served, None] = {}  # the one that was wanted last at the end
        self._served: dict[str, Served] = {}
        self._tried: set[Served] = set()
        self._gone: list[Served] = []
        self._try_out = try_out
        delta = Served(name, first, first.folder, digest=delta_digest(first))
        self._put(delta)
        self._attached[delta] = None
        if not first.base.new_modules:  # a head of random numbers answers nothing
            self._put(Served(BASE, _plain(first), None))
        for served in self.served:
            self._try(served)

    def _put(self, served: Served) -> None:
        # Replaced and never altered, since other threads read it.
        self._served = {**self._served, served.name: served}

    @property
    def served(self) -> list[Served]:
        """All that may be asked, in the order in which they came; the base last."""
        return sorted(self._served.values(), key=lambda each: each.folder is None)

    @property
    def attached(self) -> int:
        """Deltas in memory."""
        return len(self._attached)

    def is_attached(self, served: Served) -> bool:
        """Whether its delta is in memory."""
        return served in self._attached

    def get(self, name: str) -> Served:
        """The one that is called so.

        Raises:
            Refusal: There is none.
        """
        served = self._served.get(name)
        if served is None:
            raise Refusal(
                "unknown",
                f"there is no {name[:80]!r} here.",
                field="model",
                remedy=nearest(name[:80], self._served) or f"There are {', '.join(self._served)}.",
            )
        return served

    def add(self, folder: Path, name: str, busy: Collection[Served] = ()) -> Served:
        """Serve another run, and attach its delta if there is room.

        Raises:
            Refusal: The name is taken, or there is no room.
            DeltatuneError: It is no run on this base.
        """
        if name in self._served or name == BASE:
            raise Refusal(
                "invalid", f"the name {name!r} is taken.", field="name", remedy="Choose another name."
            )
        self._count += 1
        run = load_beside(self._first, folder, f"d{self._count}", trust_remote_code=self._trust)
        served = Served(name, run, folder)
        if not self.want(served, busy):
            raise Refusal("busy", "all deltas in memory are in use.", remedy="Try again in a moment.")
        self._put(served)
        return served

    def remove(self, name: str) -> Served:
        """Serve a run no longer; who is being answered gets the rest of the answer.

        Raises:
            Refusal: There is none, or it is the base.
        """
        served = self.get(name)
        if served.folder is None:
            raise Refusal("invalid", "the base cannot be removed.", field="name")
        served.removed = True
        self._served = {other: each for other, each in self._served.items() if other != name}
        self._gone.append(served)
        return served

    def want(self, served: Served, busy: Collection[Served] = ()) -> bool:
        """Have a delta in memory; False if those that are in use leave no room.

        Args:
            served: Whose.
            busy: Those that are in use, which stay.

        Raises:
            Refusal: They were changed or removed since it was loaded.
            DeltatuneError: They are damaged.
        """
        if served.run.adapter is None:
            return True
        if served in self._attached:
            self._attached[served] = self._attached.pop(served)
            return True
        digest = delta_digest(served.run)
        if served.digest not in (None, digest):  # its recipe, its classes and its trial are of the first
            raise Refusal(
                "failed",
                f"the files of {served.name!r} were changed or removed since it was loaded.",
                remedy="Start the server again; or remove the run and add it again.",
            )
        while len(self._attached) >= self.most:
            idle = next((each for each in self._attached if each not in busy), None)
            if idle is None:
                return False
            self._detach(idle)
            self.evictions += 1
        attach(served.run)
        served.digest = digest
        self._attached[served] = None
        self.loads += 1
        try:
            self._try(served)
        except BaseException:
            self._detach(served)
            raise
        return True

    def _try(self, served: Served) -> None:
        if served in self._tried:
            return
        _ = served.run.room  # while the delta is there to be asked
        if served.run.adapter is not None:
            delta = served.run.model.adapter(served.run.adapter)
            require_model_alone(delta, served.name)
            tensors = [*delta.parameters(), *delta.buffers()]
            served.bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._try_out(served)
        self._tried.add(served)

    def sweep(self, busy: Callable[[], Collection[Served]]) -> None:
        """Detach what was removed and is not in use any more."""
        used = busy() if self._gone else ()
        for served in [each for each in self._gone if each not in used]:
            self._gone.remove(served)
            self._tried.discard(served)
            if served in self._attached:
                self._detach(served)

    def _detach(self, served: Served) -> None:
        assert served.run.adapter is not None
        self._attached.pop(served)
        self.model.detach(served.run.adapter)


def _plain(run: LoadedRun) -> LoadedRun:
    return replace(run, adapter=None, name=BASE, method=BASE)
