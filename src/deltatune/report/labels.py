"""Where to write the names of points so that no two run into each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LINE = 14.0  # height of a label
_LETTER = 7.2  # mean width of a bold letter at 12 px, a little generous


class Box(NamedTuple):
    """A rectangle in pixels, y growing downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Whether this lies inside `other`."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


def width(text: str) -> float:
    """Estimated width of a label in pixels; wide scripts take twice the room."""
    return sum(_LETTER if ord(letter) < 0x1100 else 2 * _LETTER for letter in text) + 2


def place(
    points: Sequence[tuple[float, float]], texts: Sequence[str], area: Box, obstacles: Sequence[Box] = ()
) -> list[Box | None]:
    """A box for each text near its point, in `area`, clear of other boxes, points and `obstacles`.

    Places close to the point are tried first. Where none is free the answer is None: a name left out is
    better than two that cannot be read (the legend has them all).
    """
    taken = [*obstacles, *(Box(x - 6, y - 6, x + 6, y + 6) for x, y in points)]
    found: list[Box | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        box = next((box for box in _candidates(x, y, width(text)) if _free(box, area, taken)), None)
        if box:
            taken.append(box)
        found.append(box)
    return found


def beside_line(height: float, text: str, area: Box, obstacles: Sequence[Box]) -> Box:
    """A box for the name of a horizontal line at `height`: above or below it, as far right as is clear.

    Where nothing is clear it stands above the line's right end all the same.
    """
    wide = width(text)
    boxes = []
    for step in range(int((area.right - area.left - wide) // 12) + 1):
        right = area.right - 12 * step
        boxes += [Box(right - wide, top, right, top + LINE) for top in (height - LINE - 3, height + 3)]
    return next((box for box in boxes if _free(box, area, obstacles)), boxes[0])


def _candidates(x: float, y: float, wide: float) -> list[Box]:
    """Right, left, above and below of the point, then farther and farther away."""
    boxes = []
    for ring in range(7):
        gap = 9 + 9 * ring
        for left, middle in (
            (x + gap, y), (x - gap - wide, y),
            (x - wide / 2, y - gap - LINE / 2), (x - wide / 2, y + gap + LINE / 2),
            (x + gap, y - gap), (x + gap, y + gap), (x - gap - wide, y - gap), (x - gap - wide, y + gap),
        ):  # fmt: skip
            boxes.append(Box(left, middle - LINE / 2, left + wide, middle + LINE / 2))
    return boxes


def _free(box: Box, area: Box, taken: Sequence[Box]) -> bool:
    return box.within(area) and not any(box.meets(other) for other in taken)
