"""What the command line can do, as functions with typed results, for scripts and notebooks.

A recipe is a file, a `Recipe`, or the mapping that a file would hold; `make_recipe` makes one of keywords.
Data may be in memory, and methods may be configs. In threads, one works at a time (`alone.py`).

    import deltatune as dt

    recipe = dt.make_recipe("reviews.yaml", data=rows, methods=[dt.LoraConfig(r=8), "prefix"])
    board = dt.compare(recipe, "out/reviews")
    board.to_pandas()
    dt.predict("out/reviews/runs/lora-s0", ["What a film!"])
"""

from __future__ import annotations

from deltatune.api.sharing import open_board, pack, push
from deltatune.api.training import check, compare, compare_sets, make_recipe, make_sets, plan, train
from deltatune.api.using import evaluate, export, inspect, load, merge, predict

__all__ = [
    "check",
    "compare",
    "compare_sets",
    "evaluate",
    "export",
    "inspect",
    "load",
    "make_recipe",
    "make_sets",
    "merge",
    "open_board",
    "pack",
    "plan",
    "predict",
    "push",
    "train",
]
