"""Module taps: forward hooks that let deltas act at a site, for all rows of a batch or for some of them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.delta import Delta
from deltatune.errors import DeltatuneError


@dataclass(frozen=True)
class Route:
    """One adapter that acts; it has several routes if its rows do not lie together."""

    name: str
    rows: slice | None = None
    """Rows of the batch that it acts on; None is all of them."""
    weight: float | None = None
    """Factor on its change to the frozen output; None: it acts on what those before it have made."""


@dataclass(eq=False)
class Active:
    """Which adapters act at present. One object is shared by all taps of a model."""

    routes: tuple[Route, ...] = ()
    batch_rows: int | None = None
    """Rows of the whole batch while rows are routed, else None."""
    suspended: bool = field(default=False)
    """Set while prompts are already part of the embedded input, or of the cache."""

    @contextlib.contextmanager
    def suspension(self) -> Iterator[None]:
        """Within the block prompts are part of the embedded input, or of the cache."""
        before, self.suspended = self.suspended, True
        try:
            yield
        finally:
            self.suspended = before

    def of(self, names: set[str] | dict[str, Any]) -> list[Route]:
        """The active routes of the adapters in `names`."""
        return [route for route in self.routes if route.name in names]

    def stretched(self, routes: list[Route], leading: int) -> list[tuple[str, slice]]:
        """The routes in the order of their rows, at a site with `leading` rows.

        A site may see the batch flattened to [rows * length], or every row once for each beam.

        Raises:
            DeltatuneError: The leading dimension is no multiple of the batch, so rows cannot be told apart.
        """
        assert self.batch_rows is not None
        stretch, rest = divmod(leading, self.batch_rows)
        if rest or stretch == 0:
            raise DeltatuneError(
                f"a routed site has {leading} leading rows for a batch of {self.batch_rows}.",
                remedy="Do not target modules without a batch dimension when rows are routed.",
            )
        cut = [(r.name, r.rows) for r in routes if r.rows is not None]
        return [
            (name, slice(rows.start * stretch, rows.stop * stretch))
            for name, rows in sorted(cut, key=lambda item: item[1].start)
        ]


def on_all_rows(routes: Sequence[Route], y: Tensor, act: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Apply `act(name, y)` of one route after another, or, with weights, y + sum_i w_i (act(i, y) - y)."""
    if routes[0].weight is None:
        for route in routes:
            y = act(route.name, y)
        return y
    changes = [(act(route.name, y.clone()) - y) * (route.weight or 0.0) for route in routes]
    return y + torch.stack(changes).sum(dim=0)


def by_rows(
    active: Active, routes: list[Route], y: Tensor, act: Callable[[str, slice | Tensor, Tensor], Tensor]
) -> Tensor:
    """Apply `act(name, rows, y[rows])` to the routed rows of `y` and put the batch together again.

    An adapter whose rows do not lie together gets them as one, by their indices: its dropout draws what it
    would draw for these rows alone.

    Raises:
        DeltatuneError: Rows cannot be told apart here.
    """
    if y.shape[0] == 1 and active.batch_rows != 1:  # made once for all rows, such as positions
        y = y.expand(active.batch_rows or 1, *y.shape[1:]).contiguous()
    cut = active.stretched(routes, y.shape[0])
    if len({name for name, _ in cut}) < len(cut):
        places = torch.arange(y.shape[0], device=y.device)
        for name in dict.fromkeys(name for name, _ in cut):
            mine = torch.cat([places[rows] for other, rows in cut if other == name])
            y = y.index_copy(0, mine, act(name, mine, y[mine]))
        return y
    pieces, done = [], 0
    for name, rows in cut:
        pieces.append(y[done : rows.start])
        pieces.append(act(name, rows, y[rows]))
        done = rows.stop
    pieces.append(y[done:])
    return torch.cat([piece for piece in pieces if piece.shape[0]])


class ModuleTap:
    """The deltas of all adapters at one module, and the hooks that call them."""

    def __init__(self, path: str, module: nn.Module, active: Active) -> None:
        self.path = path
        self.active = active
        self.deltas: dict[str, Delta] = {}
        self.calls = 0
        # Prepended and appended to hooks of others, so that what they do is seen as part of the site.
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        routes = [
            r for r in self.active.of(self.deltas) if type(self.deltas[r.name]).before is not Delta.before
        ]
        if not routes:
            return None
        x = first(args, kwargs)
        if self.active.batch_rows is None:
            # The last one wraps those before it, as it does at the output.
            x = on_all_rows(routes[::-1], x, lambda name, part: self.deltas[name].before(part))
        else:
            x = by_rows(self.active, routes, x, lambda name, _rows, part: self.deltas[name].before(part))
        return replace_first(args, kwargs, x)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        routes = self.active.of(self.deltas)
        if not routes:
            return None
        if not torch.compiler.is_compiling():  # a graph would hold for this number only
            self.calls += 1
        x = first(args, kwargs)
        y = output[0] if isinstance(output, tuple) else output
        if self.active.batch_rows is None:
            y = on_all_rows(routes, y, lambda name, part: self.deltas[name](x, part))
        else:
            if x.shape[0] == 1:
                x = x.expand(self.active.batch_rows, *x.shape[1:])
            changed = self._at_once(routes, x, y)
            if changed is None:
                changed = by_rows(
                    self.active,
                    routes,
                    y,
                    lambda name, rows, part: self.deltas[name](x[rows], part),
                )
            y = changed
        return (y, *output[1:]) if isinstance(output, tuple) else y

    def _at_once(self, routes: list[Route], x: Tensor, y: Tensor) -> Tensor | None:
        """The output with the deltas in one operation, if they share all rows equally and can act so."""
        if len(routes) < 2 or len(x) != len(y):
            return None
        cut = self.active.stretched(routes, len(y))
        share = len(y) // len(cut)
        if any((part.start, part.stop) != (at * share, (at + 1) * share) for at, (_, part) in enumerate(cut)):
            return None
        if len(y) != len(cut) * share or len({name for name, _ in cut}) < len(cut):
            return None
        deltas = [self.deltas[name] for name, _ in cut]
        return type(deltas[0]).together(deltas, x, y)


def call_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call to `module`, all by name."""
    # That of its class, for which a module may have a stand-in.
    signature = inspect.signature(MethodType(type(module).forward, module))
    call: dict[str, Any] = dict(signature.bind_partial(*args, **kwargs).arguments)
    call |= call.pop("kwargs", {})
    return call


def cached_length(call: dict[str, Any]) -> int:
    """How many tokens the cache holds that a model was called with; 0 without one.

    Args:
        call: The call's arguments by name. Transformers calls the cache `cache` since 5.24.
    """
    cache = call.get("cache", call.get("past_key_values"))
    return 0 if cache is None else int(cache.get_seq_length())


def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor a module was called with: its first argument, named or not."""
    value = args[0] if args else next(iter(kwargs.values()))
    assert isinstance(value, Tensor)
    return value


def replace_first(
    args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments with `x` in place of the first."""
    if args:
        return (x, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): x}
