"""BM25: which texts have the most telling words in common with another one.

    score(d, q) = sum over words w of q of idf(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|))
    idf(w) = log(1 + (N - n + 1/2) / (n + 1/2))

f is how often w is in d, |d| the number of words in d, n the number of texts with w, N that of all texts
(Robertson and Zaragoza 2009, The Probabilistic Relevance Framework; the idf is Lucene's, never negative).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K1, B = 1.5, 0.75
"""As in most implementations."""
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""Scripts that write no blanks count by the character."""


class BM25:
    """An index of texts.

    Args:
        texts: They are numbered from 0.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = np.array([sum(of.values()) for of in counts], dtype=np.float64)
        self._size = len(texts)
        # The part of a score's denominator that no query changes.
        self._norms = K1 * (1 - B + B * lengths / max(lengths.mean() if len(texts) else 0.0, 1.0))
        found: dict[str, list[tuple[int, int]]] = {}
        for number, of in enumerate(counts):
            for word, count in of.items():
                found.setdefault(word, []).append((number, count))
        self._places: dict[str, NDArray[np.int64]] = {w: np.array(at) for w, at in found.items()}

    def scores(self, text: str) -> NDArray[np.float64]:
        """The score of each text, [texts]."""
        scores = np.zeros(self._size)
        for word, times in Counter(words(text)).items():
            places = self._places.get(word)
            if places is None:
                continue
            numbers, counts = places.T
            idf = np.log1p((self._size - len(numbers) + 0.5) / (len(numbers) + 0.5))
            scores[numbers] += times * idf * counts * (K1 + 1) / (counts + self._norms[numbers])
        return scores

    def nearest(self, text: str, count: int) -> list[int]:
        """Numbers of the texts with the highest scores, the best first; of equal ones the earlier first."""
        order = np.argsort(-self.scores(text), kind="stable")[:count]
        return [int(number) for number in order]


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORDS.findall(text.lower())
