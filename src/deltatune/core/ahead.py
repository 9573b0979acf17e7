"""Batches that threads make while a GPU works on those before.

To pad rows of tokens takes a millisecond, to decode and scale 64 photographs a second: a GPU would wait for
it. Threads do for it, since image libraries let go of the interpreter. On a CPU, where the model needs all
processors, each batch is made when it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch
from torch import Tensor

from deltatune.core.devices import on_gpu, pinned

Batch = dict[str, Tensor]
THREADS = 4
AHEAD = 4
"""Batches that are made, or wait, beside the one that is worked on."""


class Ahead:
    """Makes batches of rows; on a GPU in threads, those that are expected ahead of time.

    Args:
        make: Makes the batch of some rows; threads may call it at once. What it raises comes from `batch`.
        device: Where batches will go.
    """

    def __init__(self, make: Callable[[Sequence[int]], Batch], device: torch.device) -> None:
        self._make, self._pins = make, device.type in ("cuda", "xpu")
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="batches") if on_gpu(device) else None
        self._coming: dict[tuple[int, ...], Future[Batch]] = {}

    def expect(self, parts: Iterable[Sequence[int]]) -> None:
        """Begin with the batches of these rows; of others that were expected nothing is kept."""
        if self._pool is None:
            return
        coming: dict[tuple[int, ...], Future[Batch]] = {}
        for rows in parts:
            key = tuple(rows)
            known = self._coming.pop(key, None)
            coming[key] = known or self._pool.submit(self._made, key)
        for unwanted in self._coming.values():
            unwanted.cancel()
        self._coming = coming

    def batch(self, rows: Sequence[int]) -> Batch:
        """The batch of `rows`, on the host: in memory that the device can copy from by itself."""
        coming = self._coming.pop(tuple(rows), None)
        return self._made(rows) if coming is None else coming.result()

    def in_turn(self, parts: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Batch]]:
        """Each part with its batch."""
        for at, rows in enumerate(parts):
            self.expect(parts[at : at + 1 + AHEAD])
            yield rows, self.batch(rows)

    def _made(self, rows: Sequence[int]) -> Batch:
        batch = self._make(rows)
        return {name: pinned(tensor) for name, tensor in batch.items()} if self._pins else batch

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        """Give it; its threads end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
