"""What `export` prints, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.exporting.export import share
from deltatune.results import Comparison, Exported, ExportedSite, KeptMetric, LeftOut

OURS = Comparison(computed_by="deltatune", on="8 test rows", largest_difference=0.001, effect=0.5)
SITE = ExportedSite(path="a.b", shape=[4, 4], rank=2, needed=4, energy=2.0, kept=0.999, how="svd")
NASTY = "a\x1b[31m[bold]b"


def metric(before: float, after: float, low: float | None, high: float | None) -> KeptMetric:
    return KeptMetric(
        metric="accuracy",
        rows=200,
        before=before,
        after=after,
        difference=after - before,
        low=low,
        high=high,
    )


def exported(**changes: Any) -> Exported:
    plain = {"target": "lora", "run": NASTY, "method": "dora", "base": "m", "folder": "o", "exact": False}
    return Exported(**plain | {"sites": [SITE], "compared": [OURS]} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exact": True}, "exact: it computes what the run does, to rounding."),
        ({"metric": metric(0.9, 0.89, -0.03, 0.01)}, "not shown by these test rows"),
        ({"metric": metric(0.9, 0.9, 0.0, 0.0)}, "the same on every test row"),
        ({"metric": metric(0.9, 0.7, -0.3, -0.1)}, "more than chance; raise --rank or --keep."),
        ({"metric": metric(0.9, 0.7, None, None)}, "see what is kept"),
        ({"compared": [OURS.model_copy(update={"largest_difference": 0.3})]}, "more than half of what"),
        ({"sites": [], "compared": [OURS.model_copy(update={"effect": 0.001})]}, "take a wider --dtype."),
    ],
)
def test_the_verdict_follows_from_the_numbers(
    changes: dict[str, Any], words: str, tmp_path: Path, run: Callable, fake: Callable
) -> None:
    fake("deltatune.exporting.export", "export", exported(**changes), share=share)
    done = run("export", "run", tmp_path / "out", "--as", "lora")
    assert done.code == 0
    assert words in " ".join(done.out.split())
    assert "\x1b" not in done.out


def test_all_is_told(tmp_path: Path, run: Callable, fake: Callable) -> None:
    done = exported(
        metric=metric(0.9, 0.89, -0.03, 0.01),
        whole=["classifier"],
        biases=["x.0.y", "x.1.y"],
        left_out=[LeftOut(parameter="cls", energy=1.0, why="It is no layer.")],
        notes=[NASTY],
    )
    asked = fake("deltatune.exporting.export", "export", done, share=share)
    out = tmp_path / "out"
    arguments = ("--as", "lora", "--keep", "99%", "--rows", "50", "--dry-run", "-q")
    shown = " ".join(run("export", "run", out, *arguments).out.split())
    for words in ("66.6 % of the energy", "x.*.y (2)", "classifier", "cls: It is no layer.",
                  "0.9 -> 0.89 (-0.01, 95 % interval -0.03 to +0.01, 200 test rows)"):  # fmt: skip
        assert words in shown
    settings = asked[0].options["settings"]
    assert (settings.keep, settings.rows, settings.rank) == (0.99, 50, None)
    assert asked[0].options["dry_run"]
    assert json.loads(run("export", "run", out, *arguments, "--json").out) == done.as_dict()


def test_what_is_there_is_kept(tmp_path: Path, run: Callable, fake: Callable) -> None:
    asked = fake("deltatune.exporting.export", "export", exported(), share=share)
    (tmp_path / "mine").write_text("mine")
    for out in (tmp_path, tmp_path / "mine"):
        done = run("export", "run", out, "--as", "lora")
        assert done.code == 2
        assert "is not an empty folder" in done.err
    assert not asked
    assert (
        run("export", "run", tmp_path, "--as", "lora", "--overwrite").code == 0
    )  # the library looks further
    done = run("export", "run", tmp_path / "new", "--as", "lora", "--keep", "99")
    assert done.code == 2
    assert "Write 99% if that is meant." in done.err
