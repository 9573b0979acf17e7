"""Write the measured tables into docs/performance.md, each between its mark and `<!-- end -->`.

python benchmarks/speed_page.py docs/performance.md
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(name: str) -> Any:
    """A result by its name."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def goals() -> str:
    """All ratios, beside what was aimed at."""
    found = read("speed_cpu")
    lines = ["| what | measured | aimed at |", "|:--|--:|:--|"]
    lines += [f"| {one['what']} | {one['ratio']:.2f} | {one['goal']} |" for one in found["table"]]
    v = found["versions"]
    setting = f"torch {v['torch']}, Transformers {v['transformers']}, {v['threads']} threads"
    return "\n".join([*lines, "", f"{setting}; {found['seconds'] / 60:.0f} minutes in all."])


def epochs() -> str:
    """What an epoch takes, and what was learned in it."""
    lines = [
        "| model | rows, tokens | defaults | tuned | ours | loss, ours minus defaults | minus tuned |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for part in read("speed_cpu")["parts"]:
        if part["command"][0] != "epochs.py":
            continue
        found = part["found"]
        seconds = [f"{found['epoch_seconds'][name]:.1f} s" for name in ("defaults", "tuned", "ours")]
        losses = [
            f"{one['difference']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            for one in (found["loss_ours_minus_defaults"], found["loss_ours_minus_tuned"])
        ]
        size = f"{found['rows']}, {found['tokens']:,}"
        lines.append(" | ".join([f"| {found['model']}", size, *seconds, *losses]) + " |")
    return "\n".join(lines)


def shares() -> str:
    """What each optimization is worth."""
    every = [read(path.stem) for path in sorted(RESULTS.glob("shares_*.json"))]
    lines = [
        f"| without | {' | '.join(found['model'] for found in every)} |",
        f"|:--|{'--:|' * len(every)}",
    ]
    for name in every[0]["without_over_with"]:
        cells = []
        for found in every:
            ratios = found["ratios"][name]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"goals": goals, "epochs": epochs, "shares": shares}


def main() -> None:
    """Fill the page."""
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        mark = f"<!-- speed: {name} -->"
        if mark not in text:
            continue
        filled = f"{mark}\n{table()}\n<!-- end -->"
        text = re.sub(rf"{re.escape(mark)}\n.*?<!-- end -->", lambda _, f=filled: f, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
