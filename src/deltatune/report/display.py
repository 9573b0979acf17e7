"""How numbers and texts are written for people: the same in every format of the report."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from deltatune import units

MINUS, THIN = "\u2212", "\u202f"


class Style(NamedTuple):
    """A metric's name for people, the factor it is shown with, decimals and unit."""

    label: str
    scale: float
    decimals: int
    unit: str = ""


_STYLES = {
    "bleu": Style("BLEU", 1, 1),
    "chrf": Style("chrF", 1, 1),
    "exact_match": Style("Exact match", 100, 1, f"{THIN}%"),
    "stop_rate": Style("Stopped", 100, 1, f"{THIN}%"),
    "repetition_rate": Style("Repetition", 100, 1, f"{THIN}%"),
    "mean_length": Style("Mean length", 1, 1),
    "accuracy": Style("Accuracy", 100, 1, f"{THIN}%"),
    "macro_f1": Style("Macro F1", 100, 1),
    "micro_f1": Style("Micro F1", 100, 1),
    "entity_f1": Style("Entity F1", 100, 1),
    "entity_precision": Style("Entity precision", 100, 1),
    "entity_recall": Style("Entity recall", 100, 1),
    "entity_macro_f1": Style("Entity macro F1", 100, 1),
    "token_accuracy": Style("Token accuracy", 100, 1),
    "mcc": Style("MCC", 1, 3),
    "balanced_accuracy": Style("Balanced accuracy", 100, 1, f"{THIN}%"),
    "sensitivity": Style("Sensitivity", 100, 1, f"{THIN}%"),
    "specificity": Style("Specificity", 100, 1, f"{THIN}%"),
    "roc_auc": Style("ROC AUC", 1, 3),
    "average_precision": Style("Average precision", 1, 3),
    "ece": Style("ECE", 1, 3),
    "brier": Style("Brier score", 1, 3),
    "mse": Style("MSE", 1, 3),
    "mae": Style("MAE", 1, 3),
    "r2": Style("R\u00b2", 1, 3),
    "pearson": Style("Pearson", 1, 3),
    "spearman": Style("Spearman", 1, 3),
    "mrr_at_10": Style("MRR@10", 100, 1),
    "recall_at_1": Style("Recall@1", 100, 1, f"{THIN}%"),
    "recall_at_5": Style("Recall@5", 100, 1, f"{THIN}%"),
    "recall_at_10": Style("Recall@10", 100, 1, f"{THIN}%"),
    "triplet_accuracy": Style("Triplet accuracy", 100, 1, f"{THIN}%"),
    "loss": Style("Loss", 1, 3),
    "perplexity": Style("Perplexity", 1, 2),
    "normalised": Style("Normalised score", 100, 1),
}
LOWER_FIRST = {"loss", "perplexity", "repetition_rate", "mean_length", "mse", "mae", "ece", "brier"}
"""Metrics of which a lower value comes first: it is better, or, of a length, as good as another."""
_PROPER = ("Pearson", "Spearman", "Brier", "chrF")
"""Labels that keep their first letter within a sentence."""
_PARTS = {"f": "F", "p": "precision", "r": "recall"}


def style(key: str) -> Style:
    """How to show the metric `key`; an unknown one is shown as it is."""
    if rouge := re.fullmatch(r"rouge(\w)_([fpr])", key):
        return Style(f"ROUGE-{rouge[1]} {_PARTS[rouge[2]]}", 100, 1)
    return _STYLES.get(key, Style(key, 1, 3))


def metric(key: str, value: float | None, *, unit: bool = True) -> str:
    """A metric's value: `61.2`, `98.0 %`."""
    if value is None or not math.isfinite(value):
        return units.NOTHING
    shown = style(key)
    return _signed(f"{value * shown.scale:.{shown.decimals}f}") + (shown.unit if unit else "")


def interval(key: str, bounds: list[float] | None) -> str:
    """An interval of a metric: `[59.8, 62.6]`, or nothing."""
    if not bounds:
        return ""
    return f"[{metric(key, bounds[0], unit=False)},\u00a0{metric(key, bounds[1], unit=False)}]"


def in_sentence(key: str) -> str:
    """A metric's name within a sentence: `accuracy`, `ROUGE-L`, `MCC`, `Pearson`."""
    label = style(key).label.removesuffix(" F")
    common = key in _STYLES and label[1:2].islower() and not label.startswith(_PROPER)
    return label[:1].lower() + label[1:] if common else label


def difference(
    key: str, lead: float, bounds: list[float] | None, *, behind: bool = False, named: bool = True
) -> str:
    """How far two values are apart: `3.1 ROUGE-L points [2.2, 4.0]`, `0.21 in loss [0.15, 0.27]`.

    Args:
        key: The metric.
        lead: The difference; positive is better.
        bounds: Its interval.
        behind: Say `behind` as well: `3.1 ROUGE-L points behind`.
        named: Whether the metric is named, as it is once in a sentence.
    """
    words = [metric(key, lead, unit=False)]
    points = style(key).decimals == 1  # of a scale of 100
    words += [f"{in_sentence(key)} points"] if named and points else []
    words += ["behind"] if behind else []
    words += [f"in {in_sentence(key)}"] if named and not points else []
    return " ".join(filter(None, [*words, interval(key, bounds)]))


def model_name(name: str) -> str:
    """A model as titles name it: of a local path the folder, of the Hub `owner/name`."""
    path = name.rstrip("/")
    return path.rpartition("/")[2] if path.startswith(("/", ".", "~")) or path.count("/") > 1 else name


def amount(value: float | None) -> str:
    """A count in three digits: `1.23 M`."""
    return _narrow(units.amount(value))


def tick(value: float) -> str:
    """A number beside an axis: `250`, `1.5 k`, `2 M`."""
    for unit_size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit_size:
            return f"{value / unit_size:.4g}{THIN}{letter}"
    return _signed(f"{value:.4g}")


def moment(text: str) -> str:
    """An ISO time to the minute: `2026-11-23 22:00 UTC`."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[\d:.]*(Z|[+-]00:?00)?", text)
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else text


def size(value: float | None) -> str:
    """Bytes in units of 1000: `2.40 MB`."""
    return _narrow(units.size(value))


def energy(joules: float | None) -> str:
    """Joules: `1.24 kJ`."""
    return _narrow(units.energy(joules))


def duration(seconds: float | None) -> str:
    """A time: `0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    return _narrow(units.duration(seconds))


def share(part: float | None, whole: float | None) -> str:
    """A share in percent with two significant digits: `0.38 %`."""
    return _narrow(units.share(part, whole))


def p_value(p: float) -> str:
    """A p-value as papers write it: `p = .41`, `p = .004`, `p < .001`; it does not break over lines."""
    if p < 0.001:
        text = "p < .001"
    elif p >= 0.995:
        text = "p = 1"
    else:
        text = f"p = {p:.{3 if p < 0.0995 else 2}f}".replace("0.", ".")
    return text.replace(" ", "\u00a0")


def two_digits(count: int) -> int:
    """A count rounded up to two digits: 2549 is 2600."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def times(ratio: float) -> str:
    """A ratio: `1.3\u00d7`, `24\u00d7`."""
    return f"{ratio:.{1 if ratio < 9.95 else 0}f}\u00d7"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, with a note of how many more there were."""
    return text if len(text) <= limit else f"{text[:limit]} \u2026 ({len(text) - limit} more characters)"


def _narrow(text: str) -> str:
    """Narrow spaces, at which no line breaks, between numbers and their units."""
    return re.sub(r"(?<=\d) (?=[^\d\s])", THIN, text)


def _signed(number: str) -> str:
    """A true minus sign, and none before a zero."""
    if number.startswith("-"):
        return number[1:] if float(number) == 0 else MINUS + number[1:]
    return number
