"""How measured numbers are written for people: the same in the terminal and in every format of the report."""

from __future__ import annotations

import math

NOTHING = "\u2013"
"""What stands for a number that is not known."""
_COUNTS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_JOULES = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"))
_FLOPS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def number(value: float | None) -> str:
    """A value as it is, in full: `1,234`, `0.0123`."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def amount(value: float | None) -> str:
    """A count in three digits: `1.23 M`."""
    return _scaled(value, _COUNTS, "")


def size(value: float | None) -> str:
    """Bytes in units of 1000, in three digits: `2.40 MB`."""
    return _scaled(value, _BYTES, "B")


def work(value: float | None) -> str:
    """Floating-point operations, in three digits: `3.00 TFLOP`."""
    return _scaled(value, _FLOPS, "FLOP")


def energy(joules: float | None) -> str:
    """Joules, in three digits: `1.24 kJ`."""
    return _scaled(joules, _JOULES, "J")


def duration(seconds: float | None) -> str:
    """A time: `0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def share(part: float | None, whole: float | None) -> str:
    """A share in percent with two significant digits: `0.38 %`."""
    if not whole or part is None:
        return NOTHING
    percent = 100 * part / whole
    decimals = 0 if percent >= 10 or percent == 0 else min(4, 1 - math.floor(math.log10(percent)))
    return f"{percent:.{decimals}f} %"


def _scaled(value: float | None, scales: tuple[tuple[float, str], ...], plain: str) -> str:
    if value is None:
        return NOTHING
    for factor, unit in scales:
        if abs(value) >= factor * 0.9995:  # what rounds to 1,000 of one unit is 1 of the next
            scaled = value / factor
            decimals = 0 if abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2
            return f"{scaled:.{decimals}f} {unit}"
    return f"{value:.0f} {plain}".rstrip()
