"""The leaderboard as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deltatune.printable import printable_json
from deltatune.report import display
from deltatune.report.costs import take
from deltatune.report.curve import Drawn, drawn
from deltatune.report.load import Comparison, Method
from deltatune.report.lost import LOST_KEYS, losses, lost_numbers, lost_table
from deltatune.report.reproduce import reproduce
from deltatune.report.tasks import TASK_HEADINGS, OnTask, on_tasks
from deltatune.report.verdict import caveat, verdict
from deltatune.report.words import plain

_COLUMNS = ("rank", "name", "method", "model", "status", "error", "seeds", "low", "high")
_COSTS = (
    "trained_parameters",
    "stored_parameters",
    "total_parameters",
    "train_seconds",
    "energy_joules",
    "evaluation_seconds",
    "tokens_per_second",
    "step_memory_bytes",
    "peak_memory_bytes",
    "file_bytes",
    "steps",
)


def render_markdown(comparison: Comparison) -> str:
    """Verdict and leaderboard, for a README or an issue."""
    key = comparison.primary
    several = comparison.several_models
    head = [
        "Rank",
        "Method",
        *(["Model"] if several else []),
        display.style(key).label,
        "95 % interval",
        "Trained",
        "Training",
        "Step memory",
        "Process memory",
        "File",
    ]
    rows = [
        [
            str(method.row.rank or "\u2013"),
            method.name,
            *([f"{method.on}, {display.amount(method.cost.total_parameters)}"] if several else []),
            display.metric(key, comparison.value(method)),
            display.interval(key, method.row.interval),
            display.amount(method.cost.trained_parameters),
            display.duration(method.cost.train_seconds),
            display.size(method.cost.step_memory_bytes),
            display.size(method.cost.peak_memory_bytes),
            display.size(method.cost.file_bytes),
        ]
        for method in comparison.ranked
    ]
    rows += [
        ["\u2013", method.name, *([method.on] if several else []), "failed", method.error, "", "", "", "", ""]
        for method in comparison.failed
    ]
    table = [
        head,
        ["--:", ":--", *([":--"] if several else []), "--:", ":--", "--:", "--:", "--:", "--:", "--:"],
        *([markdown_cell(c) for c in row] for row in rows),
    ]
    lines = [f"| {' | '.join(row)} |" for row in table]
    title = f"# {len(comparison.methods)} ways to adapt {markdown_cell(comparison.shown_model)}"
    words = markdown_cell(plain(verdict(comparison)))
    parts = [title, *_advice(comparison), words, "\n".join(lines), caveat(comparison)]
    for curve in drawn(comparison.curves, {}, comparison.board.worth):
        parts += [f"## {curve.title}", markdown_cell(plain(curve.words)), _points(curve)]
    if lost := losses(comparison):
        parts += ["## What is lost", _grid(lost_table(lost)), *map(markdown_cell, lost.notes)]
    if tasks := on_tasks(comparison):
        parts += ["## Tasks of lm-evaluation-harness", _on_tasks(tasks)]
    if comparison.warnings:
        parts += ["## Warnings", "\n".join(f"- {markdown_cell(text)}" for text in comparison.warnings)]
    return "\n\n".join([*parts, "## How to reproduce", _again(comparison)]) + "\n"


def _points(curve: Drawn) -> str:
    """The points of curves, as a table."""
    rows = ([name, *row] for name, row in zip(curve.names, curve.table, strict=True))
    return _grid([["Method", *curve.head], *rows])


def _on_tasks(tasks: Sequence[OnTask]) -> str:
    """The base alone and with the delta, on the same rows."""
    rows = ([one.method.name, str(one.seed), *one.cells] for one in tasks)
    return _grid([["method", "seed", *TASK_HEADINGS], *rows])


def _grid(rows: Sequence[Sequence[str]]) -> str:
    """A table, of which the first row has the headings."""
    head, *body = ([markdown_cell(text) for text in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _advice(comparison: Comparison) -> list[str]:
    """What to take and how to use it, in front of everything else."""
    advice = take(comparison, Path())
    if advice is None:
        return []
    command = [f"```bash\n{advice.command}\n```"] if advice.command else []
    return [f"**{markdown_cell(plain([advice.words]))}**", *command]


def _again(comparison: Comparison) -> str:
    """Commands, and what tells whether data, models and versions are the same. The recipe is beside it."""
    again = reproduce(comparison)
    lines = ["```bash", *again.commands, "```", ""]
    facts = {
        "Seeds": ", ".join(map(str, again.seeds)),
        "Commit": again.commit,
        "Recipe (recipe.yaml), sha256": again.recipe,
        "Data, sha256": again.data,
        "Versions": ", ".join(f"{name} {text}" for name, text in again.versions.items()),
    }
    facts |= {f"Model {model.name}, sha256": model.fingerprint for model in again.models}
    facts |= {display.style(name).label: text for name, text in again.signatures.items()}
    return "\n".join(
        [
            *lines,
            *(f"- {markdown_cell(name)}: {markdown_cell(str(text))}" for name, text in facts.items() if text),
        ]
    )


def render_csv(comparison: Comparison) -> str:
    """One line a method, numbers as they are in leaderboard.json."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in table(comparison):
        writer.writerow(["" if cell is None else inert(cell) for cell in line])
    return out.getvalue()


def table(comparison: Comparison) -> list[list[Any]]:
    """The names of the columns, then a line a method, the ranked ones first; None where there is no value."""
    keys = list(dict.fromkeys(key for method in comparison.methods for key in method.metrics))
    lost = any(method.row.lost for method in comparison.methods)
    records = (
        [*_record(method, keys, comparison.model), *(lost_numbers(method) if lost else ())]
        for method in comparison.order
    )
    return [[*_COLUMNS, *keys, *_COSTS, *(LOST_KEYS if lost else ())], *records]


def render_json(comparison: Comparison) -> str:
    """The leaderboard, with the verdict in words and what it takes to make it again."""
    advice = take(comparison, Path())
    words = {
        "take": advice and plain([advice.words]),
        "use": advice and advice.command,
        "verdict": plain(verdict(comparison)),
        "caveat": caveat(comparison),
    }
    curves = drawn(comparison.curves, {}, comparison.board.worth)
    words |= {"curve": plain([sentence for curve in curves for sentence in curve.words])} if curves else {}
    board = comparison.board.as_dict() | words | {"reproduce": asdict(reproduce(comparison))}
    return printable_json(board) + "\n"


def _record(method: Method, keys: list[str], model_of_all: str) -> list[Any]:
    row = method.row
    low, high = row.interval or (None, None)
    model = row.model or model_of_all
    return [
        row.rank or None,
        *(method.name, row.method, model, row.status, method.error),
        " ".join(map(str, row.seeds)),
        low,
        high,
        *(method.metrics.get(key) for key in keys),
        *(getattr(method.cost, key) for key in _COSTS),
    ]


def inert(text: Any) -> Any:
    """Text that no spreadsheet takes for a formula; wide signs count. What is no text stays as it is."""
    if not isinstance(text, str):
        return text
    starts = text.lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    return f"'{text}" if starts or text.startswith(("\t", "\r", "\n")) else text


def markdown_cell(text: str) -> str:
    """Text that stays within a Markdown cell and is shown as it is."""
    flat = " ".join(text.split() if "\n" in text else [text])
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", flat)
