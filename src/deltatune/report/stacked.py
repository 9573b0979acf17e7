"""Stacked bars: what the bytes of a training step are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deltatune.report import display
from deltatune.report.scales import Scale, fit

PARTS = ("weights", "delta", "gradients", "optimizer", "activations", "logits", "temporary")
"""In the order in which they are stacked; the colour of each is that of its place."""
NOTES = {
    "weights": "weights of the frozen base",
    "delta": "what is trained",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations kept for the backward pass",
    "logits": "logits",
    "temporary": "temporary",
}
_LEFT, _RIGHT, _ROW, _GAP, _WIDTH = 150.0, 74.0, 22.0, 18.0, 720.0
_LETTER = 8.2  # mean width of a letter at 13 px, a little generous
_LIGHT = ("#2563c9", "#c2560c", "#12805c", "#a62a76", "#6a55c9", "#857000", "#8a919b")
_DARK = ("#7fb0ff", "#ffa45c", "#5fd3a4", "#f58cc4", "#b3a5ff", "#dcc64f", "#8a919b")
_SHORT = 22


def _style() -> Markup:
    """Rules of the chart alone, whatever page it is on."""

    def colours(of: Sequence[str]) -> str:
        return "".join(f".bytes .p{index}{{fill:{colour}}}" for index, colour in enumerate(of))

    light = ".bytes text{font:13px system-ui,sans-serif;fill:#1d2127}.bytes .dim{fill:#5f6772}"
    dark = ".bytes text{fill:#e7e9ec}.bytes .dim{fill:#9aa3af}"
    title = ".bytes .title{font-weight:600}"
    return Markup(
        f"{light}{title}{colours(_LIGHT)}"
        f"@media screen and (prefers-color-scheme:dark){{{dark}{colours(_DARK)}}}"
    )


@dataclass(frozen=True)
class Bar:
    """One configuration: bytes by part."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Its length."""
        return sum(self.parts.get(part, 0) for part in PARTS)


def stacked(groups: Sequence[tuple[str, Sequence[Bar]]]) -> tuple[Markup, float]:
    """Groups of bars, each group on a scale of its own below its heading.

    Returns:
        (the marks, the height that they take up).
    """
    marks, top = [], 0.0
    longest = max((len(_shortened(bar.name)) for _, bars in groups for bar in bars), default=0)
    start = max(_LEFT, 8 + _LETTER * longest)
    for heading, bars in groups:
        if heading:
            marks.append(Markup('<text class="title" x="0" y="{:.0f}">{}</text>').format(top + 14, heading))
            top += 22
        scale = fit([0.0, *(float(bar.total) for bar in bars)], start, _WIDTH - _RIGHT, zero=True)
        for bar in bars:
            marks.append(_bar(bar, top, scale))
            top += _ROW + 4
        top += _GAP
    return Markup("").join(marks), top


def _bar(bar: Bar, top: float, scale: Scale) -> Markup:
    marks = [
        Markup('<text x="{:.0f}" y="{:.1f}" text-anchor="end">{}</text>').format(
            scale(0) - 8, top + 15, _shortened(bar.name)
        )
    ]
    reached = 0
    for index, part in enumerate(PARTS):
        size = bar.parts.get(part, 0)
        left, right = scale(reached), scale(reached + size)
        reached += size
        if right - left > 0.05:
            marks.append(
                Markup(
                    '<rect class="p{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.0f}">'
                    "<title>{}: {}, {}</title></rect>"
                ).format(index, left, top, right - left, _ROW, bar.name, NOTES[part], display.size(size))
            )
    marks.append(
        Markup('<text class="dim" x="{:.1f}" y="{:.1f}">{}</text>').format(
            scale(reached) + 6, top + 15, display.size(bar.total)
        )
    )
    return Markup("").join(marks)


def _shortened(name: str) -> str:
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 1]}\u2026"


def legend(top: float) -> tuple[Markup, float]:
    """The parts with their colours, in two rows."""
    marks, x, y = [], 0.0, top
    for index, part in enumerate(PARTS):
        width = 30 + 7.2 * len(NOTES[part])
        if x + width > _WIDTH:
            x, y = 0.0, y + 20
        marks.append(
            Markup('<rect class="p{}" x="{:.1f}" y="{:.1f}" width="12" height="12"/>').format(index, x, y)
            + Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 18, y + 11, NOTES[part])
        )
        x += width
    return Markup("").join(marks), y + 24


def inline(groups: Sequence[tuple[str, Sequence[Bar]]], title: str) -> Markup:
    """The chart as an element of a page, light and dark."""
    marks, height = stacked(groups)
    names, bottom = legend(height)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="bytes" viewBox="-8 -8 {:.0f} {:.0f}" role="img" '
        'aria-label="{}"><style>{}</style>{}{}</svg>'
    ).format(_WIDTH + 16, bottom + 16, title, _style(), marks, names)


def standalone(groups: Sequence[tuple[str, Sequence[Bar]]], title: str) -> str:
    """The chart as an SVG file of its own."""
    return f"{inline(groups, title)}\n"
