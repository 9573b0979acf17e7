"""Heat maps: a grid of settings by its metric, and the rank that each matrix of AdaLoRA kept.

They are HTML tables rather than pictures: every number can be read, by a screen reader too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from deltatune.report import display
from deltatune.report.load import Comparison, Method

LEVELS = 10  # shades
LONGEST = 60  # letters of a setting, such as a template
MOST_RANK_MAPS = 6
Settings = dict[str, Any]


class Cell(NamedTuple):
    """A field of the map: text, shade (0 to 9; None: no value), tip, whether it is outlined, a line below."""

    text: str
    level: int | None = None
    tip: str = ""
    best: bool = False
    under: str = ""


class Heat(NamedTuple):
    """A map with its titles."""

    title: str
    note: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def grids(comparison: Comparison) -> list[Heat]:
    """A map for each method of which the comparison has a grid over two settings, such as `targets` by `r`.

    Settings that follow from one of the two (an alpha of twice the rank) are left out of account; if a third
    one varies freely, there is a map for each of its values.
    """
    kinds = dict.fromkeys(method.row.method for method in comparison.methods)
    return [heat for kind in kinds for heat in _grids_of(comparison, kind)]


def _grids_of(comparison: Comparison, kind: str) -> list[Heat]:
    settings = {m.name: comparison.settings(m) for m in comparison.methods if m.row.method == kind}
    methods = [m for m in comparison.methods if m.name in settings]
    varied = _varied(list(settings.values()))
    if len(methods) < 4 or len(varied) < 2:
        return []
    numeric = [key for key in varied if all(isinstance(s.get(key), int | float) for s in settings.values())]
    x = "r" if "r" in varied else (numeric or varied)[0]
    free = [
        key for key in varied
        if key != x and not _follows(key, x, settings) and not _follows(x, key, settings)
    ]  # fmt: skip
    if not free:
        return []
    y = "targets" if "targets" in free else free[0]
    rest = [key for key in free if key != y and not _follows(key, y, settings)]
    facets: dict[tuple[str, ...], list[Method]] = {}
    for method in methods:
        facets.setdefault(tuple(_text(settings[method.name].get(key)) for key in rest), []).append(method)
    shade = _shades([v for m in methods if m.done and (v := comparison.value(m)) is not None])
    found = []
    for values, group in facets.items():
        places = {(_text(settings[m.name].get(x)), _text(settings[m.name].get(y))): m for m in group}
        columns = _in_order([settings[m.name].get(x) for m in group])
        rows = _in_order([settings[m.name].get(y) for m in group])
        if len(places) < len(group) or len(columns) < 2 or len(rows) < 2:
            return []
        suffix = "".join(f", {key} {value}" for key, value in zip(rest, values, strict=True))
        label = display.style(comparison.primary).label
        shown = [display.shorten(column, LONGEST) for column in columns]
        cells = [
            (
                display.shorten(row, LONGEST),
                [_grid_cell(comparison, places.get((column, row)), shade) for column in columns],
            )
            for row in rows
        ]
        if all(cell.best for _, row in cells for cell in row if cell.level is not None):
            cells = [(name, [cell._replace(best=False) for cell in row]) for name, row in cells]
        note = (
            f"Darker is {'higher' if comparison.higher_is_better else 'lower'}. Outlined cells share rank 1."
        )
        found.append(Heat(f"{kind}: {label} by {y} and {x}{suffix}", note, f"{y} \\ {x}", shown, cells))
    if not comparison.higher_is_better:
        found = [_inverted(heat) for heat in found]
    return found


def _grid_cell(comparison: Comparison, method: Method | None, shade: Callable[[float], int]) -> Cell:
    if method is None:
        return Cell("")
    value = comparison.value(method) if method.done else None
    if value is None:
        return Cell("failed", None, f"{method.shown}\n{method.error}")
    key, rank = comparison.primary, method.row.rank
    tip = (
        f"{method.shown}\n{display.style(key).label}: {display.metric(key, value)} "
        f"{display.interval(key, method.row.interval)}\nRank: {rank or 'none'}\n"
        f"Trained parameters: {display.amount(method.cost.trained_parameters)}"
    )
    return Cell(display.metric(key, value, unit=False), shade(value), tip, rank == 1)


def _inverted(heat: Heat) -> Heat:
    """Dark where the value is low."""
    rows = [
        (
            name,
            [
                cell._replace(level=LEVELS - 1 - cell.level) if cell.level is not None else cell
                for cell in cells
            ],
        )
        for name, cells in heat.rows
    ]
    return heat._replace(rows=rows)


def _varied(settings: Sequence[Settings]) -> list[str]:
    """Settings that not all have alike, in the order of the recipe."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({_text(one.get(key)) for one in settings}) > 1]


def _follows(key: str, other: str, settings: dict[str, Settings]) -> bool:
    """Whether the value of `other` fixes that of `key`."""
    pairs = {(_text(one.get(other)), _text(one.get(key))) for one in settings.values()}
    return len(pairs) == len({first for first, _ in pairs})


def _in_order(values: Sequence[Any]) -> list[str]:
    """Different values as texts; numbers rise, others keep the order of the recipe."""
    numbers = all(isinstance(value, int | float) for value in values)
    return list(dict.fromkeys(_text(value) for value in (sorted(values) if numbers else values)))


def _text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return (
        value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    )


def _shades(values: Sequence[float]) -> Callable[[float], int]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return lambda value: round((value - low) / (high - low) * (LEVELS - 1)) if high > low else LEVELS // 2


def learned_ranks(comparison: Comparison) -> list[Heat]:
    """A map of matrix by layer for every method whose saved delta has a `rank_pattern`; best rank first."""
    maps = [heat for method in comparison.ranked if (heat := _rank_map(method))]
    shown, more = maps[:MOST_RANK_MAPS], len(maps) - MOST_RANK_MAPS
    if more > 0:
        note = f"{shown[-1].note} {more} more methods have ranks, in adapter/deltatune.json of their runs."
        shown[-1] = shown[-1]._replace(note=note)
    return shown


def _rank_map(method: Method) -> Heat | None:
    patterns = [(run.delta.get("config") or {}).get("rank_pattern") for run in method.runs]
    ranks: dict[str, list[int]] = {}
    size = 0
    for pattern in patterns:
        for path, kept in pattern.items() if isinstance(pattern, dict) else ():
            mask = kept if isinstance(kept, list) else [True] * int(kept)
            size = max(size, len(mask))
            ranks.setdefault(str(path), []).append(sum(map(bool, mask)))
    if not ranks:
        return None
    places: dict[tuple[str, str], tuple[str, list[int]]] = {
        _place(path): (path, values) for path, values in ranks.items()
    }
    layers = sorted(dict.fromkeys(layer for _, layer in places), key=lambda layer: (len(layer), layer))
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    names = _short_names(kinds)
    rows = [
        (names[kind], [_rank_cell(places.get((kind, layer)), size) for layer in layers]) for kind in kinds
    ]
    kept = fmean(sum(values) / len(values) for values in ranks.values()) * len(ranks)
    note = f"{kept:.0f} of {size * len(ranks)} ranks were kept; a matrix has at most {size}." + (
        f" Means over {len(patterns)} seeds." if len(patterns) > 1 else ""
    )
    return Heat(f"{method.shown}: learned rank by layer", note, "matrix \\ layer", layers, rows)


def _rank_cell(found: tuple[str, list[int]] | None, size: int) -> Cell:
    if found is None:
        return Cell("")
    path, values = found
    mean = fmean(values)
    text = f"{mean:.0f}" if len(values) == 1 else f"{mean:.1f}"
    spread = f" (seeds: {', '.join(map(str, values))})" if len(values) > 1 else ""
    level = round(mean / size * (LEVELS - 1)) if size else 0
    return Cell(text, level, f"{path}\nrank {text} of {size}{spread}")


def _place(path: str) -> tuple[str, str]:
    """Kind and layer: `h.3.attn.q` is `h.*.attn.q` in layer `3`."""
    parts = path.split(".")
    where = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if where is None:
        return path, "\u2013"
    return ".".join([*parts[:where], "*", *parts[where + 1 :]]), parts[where]


def _short_names(kinds: Sequence[str]) -> dict[str, str]:
    """Kinds without numbers and without what all of them have in common; in full where that is ambiguous."""
    words = {kind: [part for part in kind.split(".") if part != "*" and not part.isdigit()] for kind in kinds}
    common = set.intersection(*(set(parts) for parts in words.values())) if len(kinds) > 1 else set()
    short = {
        kind: " ".join(p for p in parts if p not in common) or " ".join(parts)
        for kind, parts in words.items()
    }
    return short if len(set(short.values())) == len(kinds) else {kind: kind for kind in kinds}
