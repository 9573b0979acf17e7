"""Plans, results and rankings, as a person reads them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from deltatune import units
from deltatune.cli import output
from deltatune.report import display
from deltatune.report.costs import take
from deltatune.report.curve import drawn
from deltatune.report.load import mean_step_memory, of_board
from deltatune.report.lost import lost_by_run
from deltatune.report.tasks import TASK_HEADINGS, task_cells
from deltatune.report.verdict import caveat, verdict
from deltatune.report.words import plain
from deltatune.results import (
    Certificate,
    CertifiedFolder,
    Curves,
    Failure,
    Leaderboard,
    LeaderboardRow,
    MeanCost,
    RunResult,
    SavedDelta,
)


def plan(name: str, planned: dict[str, Any]) -> None:
    """Print what a run would train, where, and for how long. Warnings have been shown while planning."""
    trained, total = planned["trained_parameters"], planned["total_parameters"]
    cut = f"{planned['truncated_inputs']:,} inputs and {planned['truncated_targets']:,} targets truncated"
    training = {
        "trains": f"{trained:,} of {total:,} parameters ({units.share(trained, total)})",
        **({"starts from": planned["from"]} if planned["from"] else {}),
        **_budget(planned["budget"]),
        "where": sites(planned["sites"]),
        "heads": planned["heads"],
        "file": f"about {units.size(planned['file_bytes_about'])}",
        "steps": f"{planned['steps']:,}, peak learning rate {planned['lr']:g}"
        + (f" ({planned['lr_because']})" if planned["lr_because"] else "")
        + (f", of the head {planned['head_lr']:g}" if planned["head_lr"] else ""),
    }
    output.fields(
        f"Plan for {name}",
        {
            "model": planned["model"],
            **(training if trained else {"trains": "nothing"}),
            "rows": ", ".join(f"{part} {count:,}" for part, count in planned["rows"].items()),
            "tokens": f"{planned['tokens_per_epoch']:,} per epoch, {planned['supervised_tokens']:,} of them "
            f"supervised; {cut}",
            **_padding(planned["padding"]),
            **({f"task {name}": ", ".join(keys) for name, keys in planned["tasks"].items()}),
            "metrics": ", ".join(planned["metrics"]),
        },
    )


def _padding(found: dict[str, Any] | None) -> dict[str, str]:
    """What padding comes to; nothing of tasks that do not pack rows."""
    if found is None:
        return {}
    from deltatune.results import Padding

    return {"padding": Padding.model_validate(found).text}


def _budget(found: dict[str, Any] | None) -> dict[str, str]:
    """What a budget came to; heads are not part of it."""
    if found is None:
        return {}
    size = f"{found['size']} {found['value']}" if found["size"] else "no size to set"
    wanted, trained = found["parameters"], found["trained"]
    share = "" if found["asked"] == wanted else f"{found['asked']} = "
    return {"budget": f"{share}{wanted:,} parameters: {size} trains {trained:,}"}


def sites(paths: Iterable[str]) -> list[str]:
    """Fold the numbers of layers: 24 paths become `encoder.block.*.layer.*.SelfAttention.q  (8)`, ..."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", path) for path in paths)
    return [path if count == 1 else f"{path}  ({count})" for path, count in counts.items()]


def delta(folder: str, found: SavedDelta | CertifiedFolder) -> None:
    """Print what a saved delta is; tensors that differ in the layer's number only are one line."""
    certified = True
    if isinstance(found, SavedDelta):
        described = {
            f"{path}  {' x '.join(map(str, tensor.shape))} {tensor.dtype}": None
            for path, tensor in found.tensors.items()
        }
        config = ", ".join(f"{key} {output.cell(value)}" for key, value in found.config.items())
        apart = {"tensors", "certificate", "certified", "wants"}
        rest = {key: value for key, value in found.as_dict().items() if key not in apart}
        output.fields(folder, {**rest, "config": config, "tensors": sites(described)})
        certified = bool(found.certified)
    else:
        output.fields(folder, {"files": found.files})
    if found.wants:
        output.fields("\nTo be used on this machine, the run asks for", found.wants.as_dict())
    if found.certificate:
        other = "" if certified else " (of other tensors than these)"
        _certificate(f"\nCertificate{other}", found.certificate)


def _certificate(title: str, found: Certificate) -> None:
    """Print the lines of a certificate, each with what was found."""
    lines = {}
    for line in found.lines:
        words = ["passed:" if line.passed else "FAILED:", line.detail, line.remedy]
        lines[line.check] = " ".join(word for word in words if word)
    output.fields(f"{title}: {'passed' if found.passed else 'FAILED'}", lines)


def metrics(title: str, found: Mapping[str, float]) -> None:
    """Print metrics as the report writes them."""
    output.fields(
        title, {display.style(key).label: display.metric(key, value) for key, value in found.items()}
    )


def result(run: RunResult) -> None:
    """Print the metrics and the cost of a run."""
    cost = run.cost
    metrics(f"{run.name} (seed {run.seed}), test rows", run.metrics.test)
    output.fields(
        "\nCost",
        {
            "trained": f"{cost.trained_parameters:,} of {cost.total_parameters:,} parameters",
            "file": units.size(cost.file_bytes),
            "training": f"{units.duration(cost.train_seconds)}, {cost.steps:,} steps"
            + (f", by {cost.processes} processes" if cost.processes > 1 else ""),
            **(
                {"energy": f"{units.energy(cost.energy_joules)} of {cost.energy_of}"}
                if cost.energy_joules
                else {}
            ),
            "evaluation": units.duration(cost.evaluation_seconds),
            "memory of a step": units.size(mean_step_memory([run])),
            "memory of the process": units.size(cost.peak_memory_bytes),
        },
    )
    if run.lost and (cells := lost_by_run(run.lost)):
        output.fields("\nWhat is lost", cells)
    if run.tasks:
        on_tasks(run)


def on_tasks(run: RunResult) -> None:
    """Print what a run scores on the harness's tasks, beside the base alone."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in TASK_HEADINGS:
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for score in run.tasks:
        table.add_row(*map(output.text, task_cells(score)))
    output.line("\nTasks of lm-evaluation-harness", "bold")
    output.stdout().print(table)


def leaderboard(board: Leaderboard, out: Path) -> None:
    """Print the ranking of the comparison in `out`, what to take, and why. Failures go to stderr."""
    metric = board.primary_metric
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    several = len(board.models) > 1
    for heading in (
        "rank",
        "method",
        *(["model, parameters"] if several else []),
        display.style(metric).label,
        "95 %",
        "trained",
        "training",
        "step memory",
        "file",
    ):
        justify: Literal["left", "right"] = "left" if heading.startswith(("method", "model")) else "right"
        table.add_column(heading, justify=justify, overflow="fold")  # a narrow terminal cuts no name
    comparison = of_board(board, out)
    for method in comparison.methods:
        cells = _cells(method.row, metric)
        if several:
            total = units.amount(method.cost.total_parameters)
            cells.insert(2, output.text(f"{method.on}, {total}"))
        table.add_row(*cells, style="bold" if method.row.rank == 1 else None)
    output.stdout().print(table)
    advice = take(comparison, out)
    if advice:
        output.line("")
        output.paragraph(plain([advice.words]), "bold")
        if advice.command:
            output.line(f"  {advice.command}")
    output.paragraph(f"\n{plain(verdict(comparison))}\n\n{caveat(comparison)}")
    for row in board.rows:
        if row.status != "done":
            message = row.error.message if isinstance(row.error, Failure) else row.error
            output.error(f"{row.name} failed: {message}")


def curves(found: Curves | None, worth: float | None) -> None:
    """Print what more rows, or a higher rank, would gain, if a comparison has curves."""
    for curve in drawn(found, {}, worth):
        output.line(f"\n{curve.title}", "bold")
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("method", overflow="fold")
        for heading in curve.head:
            table.add_column(heading.lower(), justify="right")
        for name, cells in zip(curve.names, curve.table, strict=True):
            table.add_row(*map(output.text, [name, *cells]))
        output.stdout().print(table)
        output.paragraph(plain(curve.words))


def _cells(row: LeaderboardRow, metric: str) -> list[Text]:
    cost = row.cost or MeanCost()
    score = (row.metrics or {}).get(metric)
    cells = [
        units.number(row.rank),
        row.name if row.status == "done" else f"{row.name} (failed)",
        display.metric(metric, score, unit=False),
        display.interval(metric, row.interval) or units.NOTHING,
        units.number(_whole(cost.trained_parameters)),
        units.duration(cost.train_seconds),
        units.size(cost.step_memory_bytes),
        units.size(cost.file_bytes),
    ]
    return [output.text(cell) for cell in cells]


def _whole(value: float | None) -> int | None:
    """Costs are means over seeds, and a mean of equal counts is still a count."""
    return None if value is None else round(value)
