"""Axes: from data to pixels, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low`..`high` onto `start`..`end` pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of `value`."""
        low, high = self._level(self.low), self._level(self.high)
        return self.start + (self._level(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis, about `count` of them."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, count)

    def _level(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def fit(values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """An axis that shows all of `values` with a little room; `zero` makes it begin at 0.

    Equal values get room on either side, and no values an axis of 0..1.
    """
    if not values:
        return Scale(0, 1, start, end)
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.06, 1.25)
        return Scale(low / room, high * room, start, end, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(0 if zero and low >= 0 else low - room, high + room, start, end)


def spans_decades(values: Sequence[float], factor: float = 20) -> bool:
    """Whether positive `values` differ so much that a linear axis would press most of them together."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > factor


def _ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with values between where there are few; evenly spaced ones within a decade."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    if len(ticks) < 3:
        return [tick for tick in _ticks(low, high, 4) if tick > 0]
    return ticks[:: math.ceil(len(ticks) / 6)]
