"""The report as one HTML page. Its policy admits no script but ours: nothing a model wrote can run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from deltatune.report import charts, display, figures, heat
from deltatune.report.classes import classes
from deltatune.report.costs import take
from deltatune.report.curve import drawn
from deltatune.report.entities import entity_classes
from deltatune.report.examples import examples
from deltatune.report.figures import Figure
from deltatune.report.label_sets import label_sets
from deltatune.report.leads import find_pair
from deltatune.report.load import Comparison, Method
from deltatune.report.lost import losses
from deltatune.report.memory import memory
from deltatune.report.not_yet import margin, needs
from deltatune.report.reproduce import reproduce
from deltatune.report.run import Run
from deltatune.report.sheet import series_of
from deltatune.report.tasks import on_tasks
from deltatune.report.tuning_budget import tuning_curves
from deltatune.report.verdict import caveat, verdict
from deltatune.report.words import Name
from deltatune.results import AnyResult, CertificateLine, FailedRun, PausedRun, Tuning

_HERE = Path(__file__).parent
_OWN = ("train.", "data.", "evaluation.")
_DETAILS = ("stop_rate", "repetition_rate", "mean_length")


def render_html(comparison: Comparison) -> str:
    """The whole page, self-contained: styles and charts are within, and nothing is fetched."""
    page = Page(comparison)
    curves = figures.curves(comparison, page.order, page.series)
    template = environment().get_template("page.html.j2")
    return template.render(**shell(), **content(page, curves), **said(comparison))


def said(comparison: Comparison) -> dict[str, Any]:
    """What `verdict.html.j2` takes."""
    return {
        "take": take(comparison, Path()),
        "verdict": verdict(comparison),
        "caveat": caveat(comparison),
    }


def environment(*folders: Path) -> Environment:
    """What renders templates of these folders and of this one. All values are escaped."""
    made = Environment(
        loader=FileSystemLoader([*folders, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "amount": display.amount, "size": display.size, "duration": display.duration,
        "sentence": _sentence, "breakable": _breakable,
    }  # fmt: skip
    return made


def shell(style: str = "", script: str = "", policy: str = "") -> dict[str, Any]:
    """What `shell.html.j2` takes: the styles and the script of every page, with those of one.

    Args:
        style: More rules.
        script: Of this page; it comes first.
        policy: What the page may do beyond a report, as directives of its policy: `; connect-src 'self'`.
    """
    script += (_HERE / "page.js").read_text(encoding="utf-8")
    return {
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8") + style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "policy": Markup(policy),
    }


def content(page: Page, curves: list[Figure]) -> dict[str, Any]:
    """What `sections.html.j2` takes, with these learning curves."""
    comparison = page.leading
    return {
        "page": page,
        "comparison": page.comparison,
        "board": comparison.board,
        "display": display,
        "examples": examples(comparison),
        "label_sets": label_sets(comparison),
        "again": reproduce(comparison),
        "curves": [*curves, *tuning_curves(page.tuned(), page.series)],
        "drawn": drawn(comparison.curves, page.series, comparison.board.worth),
        "memory": memory(page.order),
        "costs": figures.against_cost(comparison, page.series),
        "classes": classes(comparison, page.series),
        "entities": entity_classes(comparison),
        "lost": losses(comparison),
        "tasks": on_tasks(comparison),
        "heats": [*heat.grids(comparison), *heat.learned_ranks(comparison)],
    }


class _Certificate(NamedTuple):
    """The checks of one run."""

    method: Method
    seed: int | None
    checks: list[CertificateLine]
    delta: str
    """Hash of the tensors that it is about."""
    failed: bool
    error: str

    @property
    def passed(self) -> int:
        """How many checks held."""
        return sum(check.passed for check in self.checks)

    @property
    def good(self) -> bool:
        """Whether the run ended well and each check held."""
        return not self.failed and self.passed == len(self.checks)


class Page:
    """The parts of the page that take more than a template to make.

    All methods have a row in the leaderboard. What else is told of each is told of the leading ones, where
    there are too many: a browser opens no page with a hundred thousand cells and a thousand curves.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.leading = comparison, comparison.leading()
        self.key = comparison.primary
        self.label = display.style(self.key).label
        self.ranked = self.leading.ranked
        self.order = self.leading.order
        self.left_out = len(comparison.methods) - len(self.order)
        self.series = series_of(comparison)

    def swatch(self, method: Method) -> Markup:
        """The mark of a method."""
        return charts.swatch(self.series[method.name])

    def bar(self, method: Method) -> Markup:
        """The method's value and interval on a scale common to all."""
        value = self.comparison.value(method)
        assert value is not None  # ranked methods have one
        return charts.interval_bar(value, _pair(method.row.interval), *self._range, self.series[method.name])

    @cached_property
    def _range(self) -> tuple[float, float]:
        """From the lowest to the highest end of any interval, with some room."""
        every = self.comparison.ranked
        ends = [end for m in every for end in (self.comparison.value(m), *(m.row.interval or []))]
        finite = [end for end in ends if end is not None]
        low, high = min(finite), max(finite)
        room = (high - low) * 0.02 or 1.0
        return low - room, high + room

    def metric_keys(self) -> list[str]:
        """Metrics of the detailed table: the deciding one first, precision and recall of ROUGE last."""
        found = list(dict.fromkeys(key for method in self.ranked for key in method.metrics))
        minor = [key for key in found if key.startswith("rouge") and not key.endswith("_f")]
        major = [key for key in found if key not in minor and key != self.key]
        return [
            self.key,
            *(k for k in major if k not in _DETAILS),
            *(k for k in _DETAILS if k in major),
            *minor,
        ]

    def first_order(self, key: str) -> str:
        """How a click sorts by the metric `key`: the best first."""
        lower = key in display.LOWER_FIRST
        if key == self.key:
            lower = not self.comparison.higher_is_better
        return "ascending" if lower else "descending"

    def total(self, method: Method) -> float | None:
        """Parameters of the model that the method was trained in."""
        first = self.comparison.first_result
        total = method.cost.total_parameters or (first and first.model.parameters)
        return float(total) if total else None

    def lead(self, a: Method, b: Method) -> str:
        """`a` minus `b` for the table of pairs."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return ""
        text = display.metric(self.key, pair.lead, unit=False)
        return f"{'' if pair.lead <= 0 else '+'}{text}"

    def verdict_of(self, a: Method, b: Method) -> str:
        """Class of a cell in the table of pairs: better, worse or tie."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return "self"
        return "tie" if pair.tie else "better" if pair.lead > 0 else "worse"

    def pair_mark(self, a: Method, b: Method) -> str:
        """The word beside a difference: what it is besides a difference."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return ""
        if pair.equivalent:
            return "equivalent"
        return "" if not pair.tie else "tie" if pair.equivalent is None else "not known"

    def margin(self) -> str:
        """The smallest difference that matters, in words."""
        return margin(self.comparison)

    def pair_note(self, a: Method, b: Method) -> str:
        """What a cell in the table of pairs says on hovering."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return ""
        bounds = display.interval(self.key, pair.interval)
        apart = " them apart" if pair.equivalent is None else ""
        needed = f"\nit would take about {needs(pair)} to tell{apart}" if needs(pair) else ""
        return f"{a.shown} against {b.shown}\n{bounds}, {display.p_value(pair.p)}{needed}"

    def tuned(self) -> list[tuple[Method, Tuning]]:
        """Methods whose learning rate was chosen, with what was tried."""
        return [(method, method.row.tuning) for method in self.order if method.row.tuning]

    def certificates(self) -> list[_Certificate]:
        """What was checked in each run, and whether it held."""
        found = []
        for method, result, run in self.runs():
            if method.under_way and isinstance(result, PausedRun):  # it goes on
                continue
            proof = run.certificate
            failed = result if isinstance(result, FailedRun) else None
            found.append(
                _Certificate(
                    method=method,
                    seed=result.seed,
                    checks=proof.lines if proof else [],
                    delta=proof.delta.sha256 if proof and proof.delta else "",
                    failed=run.finished is None,
                    error=failed.message if failed else "",
                )
            )
        return found

    def runs(self) -> list[tuple[Method, AnyResult, Run]]:
        """All runs that left a result."""
        return [(m, run.result, run) for m in self.order for run in m.runs if run.result]

    def config(self, method: Method) -> str:
        """The method's resolved settings, on one line."""
        configs = (run.result.config for run in method.runs if run.result)
        config: dict[str, Any] = next((config for config in configs if config), {})
        own = {k: v for k, v in self.comparison.settings(method).items() if k.startswith(_OWN)}
        own |= _automatic(method)
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in (config | own).items())

    def found_by(self, method: Method) -> str:
        """The text that the filter looks through."""
        status = method.row.status if method.done or not method.under_way else "under way"
        return f"{method.shown} {method.on} {method.row.method} {status} {self.config(method)}"


def _automatic(method: Method) -> dict[str, str]:
    """The learning rate that nobody named, and where it came from."""
    rates = [run.finished.rates for run in method.runs if run.finished]
    found = next((each for each in rates if each and each.because), None)
    return {"train.lr": f"{found.lr:g}: {found.because}"} if found else {}


def _sentence(words: list[str]) -> Markup:
    return Markup("").join(Markup("<b>{}</b>").format(str(w)) if isinstance(w, Name) else w for w in words)


def _breakable(name: str) -> Markup:
    """The name of a method, `lora r=4 targets=query+value`, which may break behind its signs."""
    return Markup(re.sub("([=+])", r"\1<wbr>", str(escape(name))))


def _pair(bounds: list[float] | None) -> tuple[float, float] | None:
    return (bounds[0], bounds[1]) if bounds else None
