"""The report as one HTML page without scripts, so that nothing a model wrote can run in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deltatune.report import charts, display
from deltatune.report.load import Comparison, Method
from deltatune.report.verdict import Name, caveat, find_pair, verdict

EXAMPLES = 10
_LONGEST_TEXT = 4000
_HERE = Path(__file__).parent
_DETAILS = ("stop_rate", "repetition_rate", "mean_length")


def render_html(comparison: Comparison) -> str:
    """The whole page, self-contained: styles and charts are within, and nothing is fetched."""
    page = _Page(comparison)
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": display.amount, "size": display.size, "duration": display.duration,
        "visible": display.visible, "sentence": _sentence,
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(
        page=page,
        comparison=comparison,
        board=comparison.board,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        verdict=verdict(comparison),
        caveat=caveat(comparison),
        display=display,
        examples=page.examples(),
        figures=page.figures(),
    )


class _Page:
    """The parts of the page that take more than a template to make."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.key = comparison.primary
        self.label = display.style(self.key).label
        self.ranked = comparison.ranked
        self.order = [*self.ranked, *(m for m in comparison.methods if m not in self.ranked)]
        # The series of a method follows the recipe's order, so that its colour stays when the ranks change.
        tuned = [method.name for method in comparison.methods if method.row.get("method") != "untuned"]
        self.series = {method.name: charts.NEUTRAL for method in comparison.methods}
        self.series |= {name: index for index, name in enumerate(tuned)}

    def swatch(self, method: Method) -> Markup:
        """The mark of a method."""
        return charts.swatch(self.series[method.name])

    def bar(self, method: Method) -> Markup:
        """The method's value and interval on a scale common to all."""
        ends = [
            end for m in self.ranked for end in (self.comparison.value(m), *(m.row.get("interval") or []))
        ]
        finite = [end for end in ends if end is not None]
        low, high = min(finite), max(finite)
        room = (high - low) * 0.02 or 1.0
        value = self.comparison.value(method)
        assert value is not None  # ranked methods have one
        return charts.interval_bar(
            value, _pair(method.row.get("interval")), low - room, high + room, self.series[method.name]
        )

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

    def total(self, method: Method) -> float | None:
        """Parameters of the model that the method was trained in."""
        total = method.cost.get("total_parameters") or self.comparison.first_result.get("model", {}).get(
            "parameters"
        )
        return float(total) if total else None

    def lead(self, a: Method, b: Method) -> str:
        """`a` minus `b` for the table of pairs."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return ""
        text = display.metric(self.key, pair["lead"], unit=False)
        return f"{'' if pair['lead'] <= 0 else '+'}{text}"

    def verdict_of(self, a: Method, b: Method) -> str:
        """Class of a cell in the table of pairs: better, worse or tie."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return "self"
        return "tie" if pair["tie"] else "better" if pair["lead"] > 0 else "worse"

    def pair_note(self, a: Method, b: Method) -> str:
        """What a cell in the table of pairs says on hovering."""
        pair = find_pair(self.comparison, a, b)
        if pair is None:
            return ""
        return (
            f"{a.name} against {b.name}: {display.interval(self.key, pair['interval'])}, p = {pair['p']:.3g}"
        )

    def figures(self) -> list[dict[str, Any]]:
        """Charts that there are data for, with their titles and notes."""
        found = [*self._curves(), *self._against_cost()]
        return [figure for figure in found if figure]

    def _curves(self) -> list[dict[str, Any]]:
        train, validation = [], []
        for method in self.order:
            for run in method.runs:
                seed = run.result.get("seed")
                name = f"{method.name}, seed {seed}" if len(method.runs) > 1 else method.name
                series = self.series[method.name]
                if points := run.training_loss():
                    train.append(charts.Line(name, series, points))
                if points := run.validation_loss():
                    validation.append(charts.Line(name, series, points))
        steps, loss = charts.Axis("Step", display.tick), charts.Axis("Loss", _short_number)
        return [
            {
                "title": "Training loss",
                "note": "One line a run; long runs are drawn as means of equal stretches.",
                "svg": charts.line_chart(train, steps, loss),
            }
            if train
            else {},
            {
                "title": "Validation loss",
                "note": "On rows that are never trained on; the test rows play no part in it.",
                "svg": charts.line_chart(validation, steps, loss, marks=True),
            }
            if validation
            else {},
        ]

    def _against_cost(self) -> list[dict[str, Any]]:
        scale = display.style(self.key).scale
        decides = charts.Axis(self.label, lambda value: display.tick(value * scale))
        seconds, unit = _time_unit([float(m.cost.get("train_seconds") or 0) for m in self.ranked])
        costs = (
            ("trained_parameters", 1.0, charts.Axis("Trained parameters", display.tick, log=True)),
            ("train_seconds", seconds, charts.Axis(f"Training time ({unit})", display.tick)),
        )
        free = next((m for m in self.ranked if not m.cost.get("trained_parameters")), None)
        better = "Up and to the left" if self.comparison.higher_is_better else "Down and to the left"
        found = []
        for key, divisor, axis in costs:
            dots = [self._dot(m, m.cost[key] / divisor, axis) for m in self.ranked if m.cost.get(key)]
            if dots:
                figure = {
                    "title": f"{self.label} against {axis.title.split(' (')[0].lower()}",
                    "note": f"{better} is better. Bars are 95\u202f% intervals.",
                    "svg": charts.scatter(
                        dots, axis, decides, baseline=self._dot(free, 0.0, axis) if free else None
                    ),
                }
                found.append(figure)
        return found

    def _dot(self, method: Method, x: float, axis: charts.Axis) -> charts.Dot:
        value = self.comparison.value(method)
        assert value is not None  # ranked methods have one
        bounds = _pair(method.row.get("interval"))
        shown = f"{display.metric(self.key, value)} {display.interval(self.key, list(bounds or ()))}"
        note = f"{method.name}: {self.label} {shown}, {axis.title.lower()} {axis.write(x)}"
        return charts.Dot(method.name, self.series[method.name], x, value, bounds, note)

    def examples(self) -> list[dict[str, Any]]:
        """The same test examples for every method, evenly spaced over the rows: none is picked by hand."""
        methods = [method for method in self.ranked if method.runs]
        if not methods:
            return []
        # By position: every run predicts the same rows in the same order, and ids need not be unique.
        count = max(sum(1 for _ in method.runs[0].predictions()) for method in methods)
        chosen = _evenly(list(range(count)), EXAMPLES)
        found: dict[int, dict[str, Any]] = {}
        for method in methods:
            for position, line in enumerate(method.runs[0].predictions()):
                if position in chosen:
                    example = found.setdefault(position, self._example(line))
                    example["answers"].append(self._answer(method, line))
        return [found[position] for position in chosen if position in found]

    def _example(self, line: dict[str, Any]) -> dict[str, Any]:
        shown = display.shorten(display.visible(line.get("input", "")), _LONGEST_TEXT)
        reference = display.visible(line.get("reference", ""))
        return {"id": line.get("id", ""), "input": shown, "reference": reference, "answers": []}

    def _answer(self, method: Method, line: dict[str, Any]) -> dict[str, Any]:
        prediction, reference = str(line.get("prediction", "")), str(line.get("reference", ""))
        score = (line.get("scores") or {}).get(self.key)
        return {
            "method": method,
            "text": display.shorten(display.visible(prediction), _LONGEST_TEXT),
            "score": "" if score is None else display.metric(self.key, score, unit=False),
            "right": prediction.split() == reference.split(),
            "cut_off": line.get("stopped") is False,
        }

    def signatures(self) -> dict[str, str]:
        """How the metrics were computed."""
        return dict(self.comparison.first_result.get("signatures") or {})

    def checks(self) -> list[dict[str, Any]]:
        """The certificate of each run: what was checked, and whether it held."""
        return [
            {"name": method.name, "seed": run.result.get("seed"), **check}
            for method in self.order
            for run in method.runs
            for check in run.result.get("certificate") or []
        ]

    def config(self, method: Method) -> str:
        """The method's resolved settings, on one line."""
        configs = (run.result.get("config") for run in method.runs)
        config: dict[str, Any] = next((config for config in configs if config), {})
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in config.items())


def _sentence(words: list[str]) -> Markup:
    return Markup("").join(Markup("<b>{}</b>").format(str(w)) if isinstance(w, Name) else w for w in words)


def _evenly(items: list[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return items
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _pair(bounds: list[float] | None) -> tuple[float, float] | None:
    return (bounds[0], bounds[1]) if bounds else None


def _time_unit(seconds: list[float]) -> tuple[float, str]:
    """Seconds in the unit that suits the longest time, and its name."""
    longest = max(seconds, default=0.0)
    return (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 10_800 else (3600.0, "hours")


def _short_number(value: float) -> str:
    return f"{value:.3g}"
