"""Batches padded to few lengths, so that few graphs are compiled: how many, and what the padding costs.

python benchmarks/compiling.py                      lengths drawn as texts have them, and as tables do
python benchmarks/compiling.py --rows rows.jsonl    lengths of a file's rows, by words
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from deltatune.data.batches import batches, levels

COUNTS = (1, 2, 3, 4, 6, 8, 16)
DRAWN = 4000


def drawn() -> dict[str, list[int]]:
    """Lengths by what they are like."""
    draw = random.Random(0)
    return {
        "questions, about 40 tokens": [
            max(8, int(draw.lognormvariate(math.log(40), 0.4))) for _ in range(DRAWN)
        ],
        "tables, 30 to 300 tokens": [int(draw.triangular(30, 300, 80)) for _ in range(DRAWN)],
        "conversations, up to 2,048": [
            min(2048, max(20, int(draw.lognormvariate(math.log(300), 1.0)))) for _ in range(DRAWN)
        ],
    }


def line(name: str, lengths: Sequence[int], size: int, bucketed: bool) -> str:
    """What each number of lengths adds to the tokens of batches that are padded to their own longest row."""
    order = batches(lengths, size, 0, 0, bucketed)
    longest = [max(lengths[row] for row in rows) for rows in order]
    cells = []
    for count in COUNTS:
        to = levels([*longest, max(lengths)], count)
        filled = sum(min(level for level in to if level >= length) for length in longest)
        cells.append(f"{filled / sum(longest) - 1:+.0%}")
    how = "by length" if bucketed else "at random"
    return f"| {name}, {how} | {len(set(longest))} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="a JSON-lines file, whose rows' words are counted")
    parser.add_argument("--batch-size", type=int, default=8)
    a = parser.parse_args()
    lengths = drawn()
    if a.rows is not None:
        rows = map(json.loads, a.rows.read_text(encoding="utf-8").splitlines())
        lengths = {a.rows.name: [len(str(row).split()) for row in rows]}
    print(f"| batches of {a.batch_size} | lengths | {' | '.join(f'{count}' for count in COUNTS)} |")
    print(f"|:--|{'--:|' * (len(COUNTS) + 1)}")
    for name, found in lengths.items():
        for bucketed in (True, False):
            print(line(name, found, a.batch_size, bucketed))


if __name__ == "__main__":
    main()
