"""What a notebook shows of one result: of a run, a plan, a look at the data. Each is a page in a frame."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path

from markupsafe import Markup

from deltatune import units
from deltatune.printable import printable
from deltatune.report import charts, display, figures
from deltatune.report.classes import classes
from deltatune.report.heat import Cell, Heat
from deltatune.report.load import Comparison, Method, mean_step_memory
from deltatune.report.lost import lost_by_run
from deltatune.report.plan import memory_chart
from deltatune.report.run import Run
from deltatune.results import (
    DataPreview,
    Leaderboard,
    LeaderboardRow,
    Plan,
    PlannedEntry,
    RunResult,
    ShownRow,
)
from deltatune.tasks import TASKS

_CSS = """
main { padding: 12px 16px; } h2 { margin: 18px 0 8px; } h2:first-child { margin-top: 0; }
.row { margin: 0 0 8px; padding: 12px 16px; }
.token { display: inline-block; white-space: pre-wrap; background: var(--soft); border-radius: 3px; }
.token { padding: 1px 3px; margin: 0 2px 2px 0; }
.token.learned { color: var(--good); background: var(--good-soft); }
"""


def framed(page: str, height: int) -> str:
    """A page in a frame, whose styles and scripts stay within."""
    source = html.escape(page, quote=True)
    return f'<iframe srcdoc="{source}" width="100%" height="{height}" style="border: 0"></iframe>'


def run_page(folder: Path, result: RunResult) -> str:
    """Metrics, cost, learning curves and the certificate of the run in `folder`."""
    from deltatune.evaluation.keys import higher_is_better

    key = TASKS.get(result.task).primary if result.task else ""
    key = key if key in result.metrics.test else "loss"
    row = LeaderboardRow(
        name=result.name, method=result.method, status="done", metrics=dict(result.metrics.test)
    )
    method = Method(row, [Run(folder)])
    board = Leaderboard(
        primary_metric=key,
        higher_is_better=higher_is_better(key),
        rows=[row],
        task=result.task,
        data=result.data,
    )
    alone = Comparison(folder, board, [method], "")
    drawn = figures.curves(alone, [method], {result.name: 0})
    told = classes(alone, {result.name: 0})
    cost = result.cost
    costs = {
        "Trained parameters": f"{cost.trained_parameters:,} of {cost.total_parameters:,}",
        "Training": f"{units.duration(cost.train_seconds)}, {cost.steps:,} steps",
        "Evaluation": units.duration(cost.evaluation_seconds),
        "Memory of a step": units.size(mean_step_memory([result])),
        "File": units.size(cost.file_bytes),
    } | (lost_by_run(result.lost) if result.lost else {})
    parts = [("validation", result.metrics.validation), ("test", result.metrics.test)]
    names = dict.fromkeys(name for _, metrics in parts for name in metrics if name != "tokens")  # a count
    scores = [
        [display.style(name).label, *(display.metric(name, metrics.get(name)) for _, metrics in parts)]
        for name in names
    ]
    held = sum(line.passed for line in result.certificate)
    lines = [[line.check, "passed" if line.passed else "FAILED", line.detail] for line in result.certificate]
    curves = Markup("").join(
        Markup('<figure class="card"><figcaption><b>{}</b></figcaption>{}</figure>').format(
            each.title, each.svg
        )
        for each in drawn
    )
    body = [
        Markup("<h2>{} {}</h2>").format(charts.swatch(0), f"{result.name}, seed {result.seed}"),
        Markup('<p class="note">{}</p>').format(
            f"{display.model_name(result.model.name)}, {result.task or ''}"
        ),
        _table(["", *(part for part, _ in parts)], scores, numbers=2),
        _table(["Cost", ""], [[name, value] for name, value in costs.items()]),
        Markup('<div class="figures">{}</div>').format(curves) if drawn else Markup(""),
        *(_map(heat) for heat in (told.maps if told else ())),
        Markup('<details class="card"><summary>{} of {} checks passed</summary>{}</details>').format(
            held, len(lines), _table(["check", "", "found"], lines)
        ),
    ]
    return _page(f"{result.name}, seed {result.seed}", body)


def _map(heat: Heat) -> Markup:
    """What is taken for what, as the report shows it."""
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in (heat.corner, *heat.columns))
    rows = Markup("").join(
        Markup("<tr><th>{}</th>{}</tr>").format(name, Markup("").join(map(_field, cells)))
        for name, cells in heat.rows
    )
    return Markup(
        '<figure class="card"><figcaption><b>{}</b></figcaption><div class="scroll"><table class="heat">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></figure>"
    ).format("What is taken for what: test rows, and their share of the true class", head, rows)


def _field(cell: Cell) -> Markup:
    shade = "none" if cell.level is None else f"h{cell.level}"
    return Markup('<td class="{}{}" title="{}">{}<small>{}</small></td>').format(
        shade, " best" if cell.best else "", cell.tip, cell.text, cell.under
    )


def plan_page(plan: Plan) -> str:
    """What each entry takes, with a chart of the bytes of its step."""
    head = ["method", "a step", "fits", "trained", "of", "file", "work per step", "steps"]
    rows = [_planned(entry) for entry in plan.planned]
    if any(entry.seconds is not None for entry in plan.planned):
        head.append("training")
        for cells, entry in zip(rows, plan.planned, strict=True):
            cells.append(units.duration(entry.seconds))
    limit = (
        f"{plan.machine.device}: {units.size(plan.limit_bytes)}, of which {units.size(plan.overhead_bytes)} "
        "are for what is no tensor."
    )
    body = [
        _table(head, rows, numbers=len(head) - 1),
        Markup('<p class="note">{}</p>').format(limit),
        Markup('<figure class="card">{}</figure>').format(Markup(memory_chart(plan))) if rows else Markup(""),
        *(
            Markup('<p><span class="tag bad">cannot be planned</span> {}</p>').format(
                f"{each.name}: {each.error}"
            )
            for each in plan.unplanned
        ),
    ]
    return _page(f"Plan of {display.model_name(plan.model)}", body)


def _planned(entry: PlannedEntry) -> list[str]:
    return [
        entry.name,
        units.size(entry.memory.total),
        "yes" if entry.fits else "no",
        units.number(entry.trained_parameters),
        units.number(entry.total_parameters),
        units.size(entry.file_bytes),
        units.work(entry.flops),
        units.number(entry.steps),
    ]


def preview_page(preview: DataPreview) -> str:
    """Rows token by token, what is learned of them in green, counts by part, and the warnings."""
    body = []
    for reading in preview.models:
        body.append(Markup("<h2>{}</h2>").format(", ".join(filter(None, (reading.model, reading.reading)))))
        body += [_row(row) for row in reading.samples]
        head = ["part", "rows", "tokens", "learned", "median", "longest", "cut inputs", "cut targets"]
        counts = [
            [
                part,
                *(f"{n:,}" for n in (preview.rows[part], count.total, count.supervised)),
                f"{count.median_length:,g}",
                *(f"{n:,}" for n in (count.longest, count.truncated_inputs, count.truncated_targets)),
            ]
            for part, count in reading.tokens.items()
        ]
        body.append(_table(head, counts, numbers=len(head) - 1) if counts else Markup(""))
    if preview.classes:
        sets = preview.label_sets is not None  # of which a row may have several
        shares = [
            [part, _classes(classes, preview.rows[part] if sets else sum(classes.values()))]
            for part, classes in preview.classes.items()
            if classes
        ]
        body.append(_table(["part", "labels" if sets else "classes"], shares))
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in preview.warnings)
    warned = Markup('<ul class="warnings">{}</ul>').format(items) if items else Markup("<p>No warnings.</p>")
    body.append(Markup('<h2>Warnings</h2><div class="card">{}</div>').format(warned))
    return _page("Data", body)


def _row(row: ShownRow) -> Markup:
    tokens = Markup("").join(
        Markup('<span class="token{}">{}</span>').format(" learned" if t.supervised else "", t.text)
        for t in row.tokens
    )
    note = f"row {row.id}: {row.length:,} tokens, {row.supervised:,} learned"
    return Markup('<div class="card row"><p class="note">{}</p>{}</div>').format(note, tokens)


def _classes(classes: Mapping[str, int], total: int, most: int = 12) -> str:
    named = [f"{label} {units.share(count, total)}" for label, count in classes.items()]
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: int = 0) -> Markup:
    """A table; its last `numbers` columns are set to the right."""
    head = list(head)
    first = len(head) - numbers

    def cells(row: Iterable[str], tag: str) -> Markup:
        return Markup("").join(
            Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(' class="num"') if at >= first else "", text)
            for at, text in enumerate(row)
        )

    body = Markup("").join(Markup("<tr>{}</tr>").format(cells(row, "td")) for row in rows)
    return Markup(
        '<div class="card scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(cells(head, "th"), body)


def _page(title: str, body: Iterable[Markup]) -> str:
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return printable(
        Markup(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv='
            '"Content-Security-Policy" content="{}"><meta name="color-scheme" content="light dark">'
            "<title>{}</title><style>{}</style></head><body><main>{}</main></body></html>"
        ).format(Markup(policy), title, Markup(css + _CSS), Markup("").join(body))
    )
