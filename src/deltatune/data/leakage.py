"""Rows of the test or validation part that a model has met in training: the same input, or nearly the same.

Texts: MinHash (Broder 1997) over runs of five characters finds candidates, banded as in locality-sensitive
hashing (Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", chapter 3); a candidate counts if the
runs of both texts truly overlap, and of rows of two texts those of the first and those of the second: one
premise stands with several hypotheses. Case and blanks are ignored, and so is what all inputs share at their
beginning and end: a recipe's template would make short texts look alike.

Images: equal bytes, or thumbnails that nearly coincide after the mean of all has been taken off. Without
that, any two X-rays of a chest would look alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.data.rows import Row

SIMILAR = 0.8
"""Jaccard similarity of the sets of five-character runs from which on two texts are near duplicates."""
SAME_IMAGE = 0.98
"""Correlation of thumbnails, less the mean of all, from which on two images are near duplicates."""
SHOWN = 3
_RUN = 5
_BANDS, _ROWS = 16, 4  # two texts of similarity .8 share a band in 99.98 % of all cases
_CANDIDATES = 20
_BLOCK = 1 << 14
_SIDE = 32
_WIDTH = 60
_FEWEST_IMAGES = 8  # of fewer, the mean is too much like each of them

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Duplicate:
    """A held-out row and the row of another part that it repeats."""

    row: str
    """Id of the held-out row."""
    other: str
    """Id of the other row."""
    similarity: float
    """1 if they are equal."""
    excerpt: str
    """Of the held-out row's input: where the two begin to differ, or the beginning; an image's name."""
    other_excerpt: str


@dataclass(frozen=True)
class Leak:
    """What one part repeats of another."""

    part: str
    other: str
    rows: int
    """Rows in the part."""
    exact: list[Duplicate]
    near: list[Duplicate]

    def as_dict(self) -> dict[str, Any]:
        """Counts, and the first few of each kind."""
        return {
            "part": self.part,
            "other": self.other,
            "rows": self.rows,
            "exact": len(self.exact),
            "near": len(self.near),
            "examples": [vars(pair) for pair in [*self.exact[:SHOWN], *self.near[:SHOWN]]],
        }

    def warnings(self) -> list[str]:
        """One sentence for each kind that there is."""
        found = []
        if self.exact:
            first = self.exact[0]
            found.append(
                f"{len(self.exact)} of {self.rows} {self.part} rows have the same input as a {self.other} "
                f"row (the first: row {first.row} = {self.other} row {first.other}, {first.excerpt!r}); "
                "results on them show memory, not skill."
            )
        if self.near:
            closest = max(self.near, key=lambda pair: pair.similarity)
            found.append(
                f"{len(self.near)} of {self.rows} {self.part} rows have nearly the same input as a "
                f"{self.other} row (the closest: row {closest.row} {closest.excerpt!r} and {self.other} row "
                f"{closest.other} {closest.other_excerpt!r}, {closest.similarity:.0%} alike); results on "
                "them may show memory."
            )
        return found


def leaks(train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row]) -> list[Leak]:
    """Find what validation and test rows repeat of training rows, and test rows of validation rows.

    Each held-out row is reported once for each other part: with an equal row if there is one, otherwise with
    the most similar one.
    """
    parts = {"training": train, "validation": validation, "test": test}
    rows = [row for part in parts.values() for row in part]
    if not rows or not (validation or test):
        return []
    sketches = (_Texts if isinstance(rows[0].input, str) else _Images)(rows)
    start, offsets = 0, {}
    for name, part in parts.items():
        offsets[name] = range(start, start + len(part))
        start += len(part)
    found = []
    for name, other in (("validation", "training"), ("test", "training"), ("test", "validation")):
        leak = _compare(name, other, rows, offsets[name], offsets[other], sketches)
        if leak.exact or leak.near:
            found.append(leak)
    return found


def near_duplicates(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Pairs of rows of nearly the same input, by their places; not all pairs, where many are alike."""
    if rows:
        yield from (_Texts if isinstance(rows[0].input, str) else _Images)(rows).alike()


def _compare(  # noqa: PLR0917
    part: str, other: str, rows: Sequence[Row], mine: range, theirs: range, sketches: _Texts | _Images
) -> Leak:
    known: dict[bytes, int] = {}
    for index in theirs:
        known.setdefault(sketches.exact[index], index)
    exact = [_duplicate(rows, i, known[sketches.exact[i]], 1.0) for i in mine if sketches.exact[i] in known]
    rest = [i for i in mine if sketches.exact[i] not in known]
    near = [_duplicate(rows, i, j, similarity) for i, j, similarity in sketches.nearest(rest, theirs)]
    return Leak(part, other, len(mine), exact, near)


def _duplicate(rows: Sequence[Row], index: int, other: int, similarity: float) -> Duplicate:
    a, b = rows[index], rows[other]
    texts = isinstance(a.input, str) and isinstance(b.input, str)
    shown = apart(a.input_text(), b.input_text()) if texts else (excerpt(a), excerpt(b))
    return Duplicate(a.id, b.id, round(similarity, 3), *shown)


def apart(one: str, other: str, width: int = _WIDTH) -> tuple[str, str]:
    """Two texts where they begin to differ, from the same place on, each in one line of `width` at most.

    A difference of case counts if there is no other, one of blanks never does.
    """
    a, b = " ".join(one.split()), " ".join(other.split())
    lower = [char.lower() for char in a], [char.lower() for char in b]
    place = _shared(*lower) if lower[0] != lower[1] else _shared(a, b)
    start = place - width // 3 if a != b and place > width // 2 else 0
    return _window(a, start, width), _window(b, start, width)


def excerpt(row: Row, width: int = _WIDTH) -> str:
    """The beginning of a row's input, in one line."""
    text = row.input_text() if not isinstance(row.input, Path) else row.input.name
    return _window(" ".join(text[: 2 * width].split()), 0, width)


def _window(line: str, start: int, width: int) -> str:
    """At most `width` characters from `start` on, with an ellipsis for what is left out at either end."""
    shown = f"…{line[start + 1 :].lstrip()}" if start else line
    return shown if len(shown) <= width else f"{shown[: width - 1].rstrip()}…"


class _Texts:
    """Texts as hashed character runs, and the bands of their MinHash signatures."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.exact = [row.input_bytes() for row in rows]
        texts = [[str(row.input) for row in rows]]
        if any(row.pair is not None for row in rows):
            texts.append([row.pair or "" for row in rows])
        self.runs = [[_runs(text) for text in _without_frame(_plain(column))] for column in texts]
        """Of each text of a row, of all rows."""
        self.sets: dict[tuple[int, int], Hashes] = {}
        random = np.random.default_rng(0)
        factors = random.integers(1, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64) | np.uint64(1)
        shifts = random.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64)
        whole = zip(*self.runs, strict=True)
        self.bands = [self._bands(np.concatenate(runs), factors, shifts) for runs in whole]

    @staticmethod
    def _bands(runs: Hashes, factors: Hashes, shifts: Hashes) -> list[tuple[int, bytes]]:
        if not len(runs):
            return []
        # Multiply-shift hashing: the upper bits of a product modulo 2^64. In place and by blocks, for half of
        # the time and more goes into fresh memory, and a long text would take five hundred times its size.
        least = np.full(len(factors), np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(runs), _BLOCK):
            products = runs[start : start + _BLOCK] * factors
            products += shifts
            np.minimum(least, products.min(axis=1), out=least)
        signature = (least >> np.uint64(32)).astype(np.uint32).tobytes()
        size = len(signature) // _BANDS
        return [(band, signature[band * size : (band + 1) * size]) for band in range(_BANDS)]

    def nearest(self, mine: Sequence[int], theirs: range) -> list[tuple[int, int, float]]:
        """The most similar row for each of mine that has one."""
        buckets: dict[tuple[int, bytes], list[int]] = {
            band: [] for index in mine for band in self.bands[index]
        }
        for index in theirs:
            for band in self.bands[index]:
                if band in buckets:
                    buckets[band].append(index)
        found = []
        for index in mine:
            shared: Counter[int] = Counter()
            for band in self.bands[index]:
                if buckets[band]:
                    shared.update(buckets[band][:1000])
            best = max(
                ((self.similarity(index, other), other) for other, _ in shared.most_common(_CANDIDATES)),
                default=(0.0, 0),
            )
            if best[0] >= SIMILAR:
                found.append((index, best[1], best[0]))
        return found

    def alike(self) -> Iterator[tuple[int, int]]:
        """Each row with those before it that are as similar as near duplicates."""
        buckets: dict[tuple[int, bytes], list[int]] = {}
        for index, bands in enumerate(self.bands):
            shared: Counter[int] = Counter()
            for band in bands:
                shared.update(buckets.setdefault(band, [])[:1000])
                buckets[band].append(index)
            for other, _ in shared.most_common(_CANDIDATES):
                if self.similarity(index, other) >= SIMILAR:
                    yield index, other

    def similarity(self, one: int, other: int) -> float:
        """Jaccard similarity of two rows' sets of runs; of two texts that of the less similar ones."""
        return min(self._similarity(text, one, other) for text in range(len(self.runs)))

    def _similarity(self, text: int, one: int, other: int) -> float:
        """That of one of the row's texts; 0 if the sizes of the sets alone keep it below `SIMILAR`."""
        a, b = self._distinct(text, one), self._distinct(text, other)
        if not len(a) or not len(b):
            return float(len(a) == len(b))
        if min(len(a), len(b)) / max(len(a), len(b)) < SIMILAR:
            return 0.0  # it cannot reach what counts, whatever they have in common
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common / (len(a) + len(b) - common)

    def _distinct(self, text: int, index: int) -> Hashes:
        """The set of a text's runs; most texts never have a candidate, and need none."""
        if (text, index) not in self.sets:
            self.sets[text, index] = np.unique(self.runs[text][index])
        return self.sets[text, index]


def _plain(texts: Sequence[str]) -> list[str]:
    """Texts without what does not count: case and blanks."""
    return [" ".join(text.lower().split()) for text in texts]


def _without_frame(texts: Sequence[str]) -> list[str]:
    """Take off the words that all texts begin and end with, unless nothing is left of one."""
    different = sorted(set(texts))
    if len(different) < 2:
        return list(texts)
    # The first and the last in order differ no later than any two.
    backwards = sorted(text[::-1] for text in different)
    head, tail = _shared(different[0], different[-1]), _shared(backwards[0], backwards[-1])
    if head + tail > min(map(len, different)):
        return list(texts)
    return [text[head : len(text) - tail] for text in texts]


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many characters two texts have in common at their beginnings."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _runs(text: str) -> Hashes:
    """The runs of five characters, hashed; a shorter text is one run."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if not len(codes):
        return codes
    count = max(1, len(codes) - _RUN + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(min(_RUN, len(codes))):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + count] + np.uint64(1)
    hashes ^= hashes >> np.uint64(29)
    return hashes


class _Images:
    """Images as thumbnails of unit length, the mean of all taken off."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.exact = [hashlib.sha256(row.input_bytes()).digest() for row in rows]
        self.thumbnails = np.stack([_thumbnail(row) for row in rows])
        self.enough = len(rows) >= _FEWEST_IMAGES
        self.thumbnails -= self.thumbnails.mean(axis=0)
        self.thumbnails /= np.maximum(np.linalg.norm(self.thumbnails, axis=1, keepdims=True), 1e-6)

    def nearest(self, mine: Sequence[int], theirs: range) -> list[tuple[int, int, float]]:
        """The most similar row for each of mine that has one."""
        if not self.enough or not mine or not theirs:
            return []
        found = []
        others = self.thumbnails[theirs.start : theirs.stop].T
        for start in range(0, len(mine), 1000):
            block = mine[start : start + 1000]
            likeness = self.thumbnails[list(block)] @ others
            best = likeness.argmax(axis=1)
            for index, place, value in zip(block, best, likeness.max(axis=1), strict=True):
                if value >= SAME_IMAGE:
                    found.append((index, theirs.start + int(place), float(min(value, 1.0))))
        return found

    def alike(self) -> Iterator[tuple[int, int]]:
        """Each row with those before it that are as similar as near duplicates."""
        for start in range(0, len(self.thumbnails) if self.enough else 0, 1000):
            block = self.thumbnails[start : start + 1000]
            for row, other in zip(*np.nonzero(block @ self.thumbnails.T >= SAME_IMAGE), strict=True):
                if other < start + row:
                    yield start + int(row), int(other)


def _thumbnail(row: Row) -> NDArray[np.float32]:
    """Grey pixels [32 x 32], of mean 0 and unit length: brightness and contrast do not count."""
    from PIL import Image

    from deltatune.data.decode import decode_image

    assert not isinstance(row.input, str)
    grey = Image.fromarray(decode_image(row.input, channels=1, least_side=_SIDE)[:, :, 0])
    pixels = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()
    flat = pixels - pixels.mean()
    unit: NDArray[np.float32] = flat / max(float(np.linalg.norm(flat)), 1e-6)
    return unit
