"""What is lost by a delta: what the base forgets, the time of an answer, energy, probabilities that hold."""

from __future__ import annotations

from typing import NamedTuple

from deltatune.report import display
from deltatune.report.load import Comparison, Method
from deltatune.results import GeneralLoss, Latency, Lost, Ratio
from deltatune.units import NOTHING

ARROW = "\u2192"


class Cell(NamedTuple):
    """A place in the table."""

    value: float | None
    """By which it is sorted."""
    text: str
    more: str = ""
    """Its interval."""
    why: str = ""
    """Why there is nothing."""

    @property
    def whole(self) -> str:
        """All of it as one text."""
        return " ".join(filter(None, [self.text, self.more, self.why and f"({self.why})"]))


class Losses(NamedTuple):
    """The section about what is lost."""

    columns: list[str]
    """Headings, behind the method."""
    rows: list[tuple[Method, list[Cell]]]
    notes: list[str]


_GENERAL = ("Loss on general text", "Change, 95\u202f% interval", "Perplexity")
_LATENCY = ("Answer with the delta", "Answer merged")
_ENERGY = ("Energy of training",)
LOST_KEYS = (
    "general_base_loss", "general_loss", "general_difference", "general_low", "general_high",
    "answer_delta_by_base", "answer_merged_by_base",
)  # fmt: skip
"""In CSV."""


def losses(comparison: Comparison) -> Losses | None:
    """The section; None if nothing of it was measured."""
    methods = comparison.ranked
    general = [each for method in methods if (each := general_of(method))]
    latency = [timed for method in methods if (timed := latency_of(method))]
    energy = [method.cost.energy_of for method in methods if method.cost.energy_joules is not None]
    columns = [*(_GENERAL if general else ()), *(_LATENCY if latency else ()), *(_ENERGY if energy else ())]
    if not columns:
        return None
    rows = []
    for method in methods:
        cells = general_cells(general_of(method)) if general else []
        cells += latency_cells(latency_of(method)) if latency else []
        cells += [_energy_cell(method)] if energy else []
        rows.append((method, cells))
    notes = [_of_text(general[0])] if general else []
    if latency:
        notes.append(
            f"Answers to {latency[0].rows} test rows, one at a time, as multiples of the base's time: the "
            f"median of {latency[0].turns} turns, and what eight of ten turns are within. First seed."
        )
    if energy:
        notes.append(
            f"Energy of training steps by the machine's counters ({energy[0]}): of all that ran there, "
            "and of what it takes when idle."
        )
    if (latency or energy) and (shared := shared_machine(comparison)):
        notes.append(shared)
    return Losses(columns, rows, notes)


def shared_machine(comparison: Comparison) -> str:
    """That runs shared the machine, where they did; else nothing."""
    if all(method.times for method in comparison.ranked):  # they are left out where runs were not alone
        return ""
    return "Runs shared the machine: times and energy are noisy, and energy counts what other runs took."


def general_of(method: Method) -> GeneralLoss | None:
    """Forgetting by a method, if it was measured."""
    return method.row.lost.general if method.row.lost else None


def latency_of(method: Method) -> Latency | None:
    """The time of an answer by a method, if it was measured."""
    return method.row.lost.latency if method.row.lost else None


def _of_text(general: GeneralLoss) -> str:
    text = "the texts that come with deltatune" if general.text == "bundled" else general.text
    how = {
        "next token": "each token is predicted from those before it",
        "corrupted spans": "spans of 15\u202f% of the tokens are filled in, as in T5's pretraining",
    }.get(general.measure, general.measure)
    return (
        f"General text: {text}, {general.documents:,} documents, {general.tokens:,} tokens to predict; "
        f"{how}. The loss is in nats per token, of the base alone and with the delta. It tells that a "
        "model has drifted, not what it still knows."
    )


def general_cells(general: GeneralLoss | None) -> list[Cell]:
    """Loss, change and perplexity."""
    if general is None:
        return [Cell(None, NOTHING)] * len(_GENERAL)
    before, after = general.perplexities
    return [
        Cell(general.delta, f"{general.base:.3f} {ARROW} {general.delta:.3f}"),
        Cell(general.difference, signed(general.difference), bounds(general)),
        Cell(after, f"{before:.4g} {ARROW} {after:.4g}"),
    ]


def latency_cells(latency: Latency | None) -> list[Cell]:
    """How much longer an answer takes with the delta, and merged."""
    if latency is None:
        return [Cell(None, NOTHING)] * len(_LATENCY)
    why = latency.not_merged or ""
    merged = Cell(None, NOTHING, why=why) if latency.merged is None else _ratio_cell(latency.merged)
    return [_ratio_cell(latency.delta), merged]


def _ratio_cell(ratio: Ratio) -> Cell:
    return Cell(ratio.median, times(ratio.median), f"[{ratio.low:.2f},\u00a0{ratio.high:.2f}]")


def _energy_cell(method: Method) -> Cell:
    return Cell(method.cost.energy_joules, display.energy(method.cost.energy_joules))


def times(ratio: float) -> str:
    """A ratio in two decimals, since deltas cost little."""
    return f"{ratio:.2f}\u00d7"


def signed(value: float) -> str:
    """A difference of losses with its sign."""
    return f"{'+' if value > 0 else ''}{display.metric('loss', value)}"


def bounds(general: GeneralLoss) -> str:
    """The interval of the change, or nothing."""
    if general.low is None or general.high is None:
        return ""
    return f"[{signed(general.low)},\u00a0{signed(general.high)}]"


def lost_table(losses: Losses) -> list[list[str]]:
    """Headings and rows as texts, the method in front."""
    rows = [[method.shown, *(cell.whole for cell in cells)] for method, cells in losses.rows]
    return [["Method", *losses.columns], *rows]


def lost_by_run(lost: Lost) -> dict[str, str]:
    """The same of one run, by title."""
    cells = [*zip(_GENERAL, general_cells(lost.general), strict=True)] if lost.general else []
    cells += [*zip(_LATENCY, latency_cells(lost.latency), strict=True)] if lost.latency else []
    return {title: cell.whole for title, cell in cells}


def lost_numbers(method: Method) -> list[float | None]:
    """What `LOST_KEYS` name, of a method; None of what was not measured."""
    general, latency = general_of(method), latency_of(method)
    found: list[float | None] = [None] * 5
    if general is not None:
        found = [general.base, general.delta, general.difference, general.low, general.high]
    ratios = (None, None) if latency is None else (latency.delta, latency.merged)
    return [*found, *(None if ratio is None else ratio.median for ratio in ratios)]
